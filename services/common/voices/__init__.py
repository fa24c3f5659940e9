"""A voice: its content, hash, cache, wire message and deletion."""
