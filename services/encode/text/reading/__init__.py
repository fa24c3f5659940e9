"""Reads numbers and symbols as words: one rule for each kind of writing."""
