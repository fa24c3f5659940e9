"""The llm engine: scheduling of sequences."""
