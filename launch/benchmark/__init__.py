"""Measures what the library claims, part by part."""
