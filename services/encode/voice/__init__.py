"""A prompt recording to a voice."""
