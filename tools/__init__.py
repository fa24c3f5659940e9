"""Generators of committed files; not part of the package or the images."""
