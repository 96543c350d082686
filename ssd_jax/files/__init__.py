"""What comes from disk and goes there."""
