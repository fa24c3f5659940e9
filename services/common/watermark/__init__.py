"""Marks synthetic speech inaudibly, and finds the mark again (docs/marking.md). Imports numpy alone."""
