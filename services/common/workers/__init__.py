"""Calls to workers that survive the loss of a worker."""
