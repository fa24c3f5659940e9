"""Audio out: float samples of a stream to the bytes its listener asked for, in any chunks, with the same result."""
