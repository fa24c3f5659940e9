"""Registered voices and the lookup of the voice that a request names."""
