"""The layout of the official 0.5B checkpoint, for proofs and measurements without its weights."""
