"""Measures a voice: what a recogniser understands, how it sounds to a model of listeners, what it costs."""
