"""Says what a config costs on hardware that need not be here."""
