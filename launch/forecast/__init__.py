"""Says what a config costs on hardware that need not be here."""

import os

# Read when jaxlib is imported: XLA would call every compilation of two minutes an error, with a request to report it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
