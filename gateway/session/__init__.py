"""A client's stream: text in, audio and events out."""
