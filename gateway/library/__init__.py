"""Registered voices: what is kept of each, where, and who may do what with it."""
