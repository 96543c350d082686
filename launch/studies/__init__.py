"""Experiments whose results stand in docs/."""
