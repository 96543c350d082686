"""What the product must bear: one part a module."""
