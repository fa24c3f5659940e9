"""The layout of the official 0.5B checkpoint, for tests and measurements without its weights."""
