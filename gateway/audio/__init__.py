"""Audio output: converts a stream's float samples to the requested format. The result does not depend on chunking."""
