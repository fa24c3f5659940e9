"""The language model on torch."""
