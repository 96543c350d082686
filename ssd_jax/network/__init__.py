"""Networks and the denoisers that they make."""
