"""Callers' lexicons: how their phrases are pronounced."""
