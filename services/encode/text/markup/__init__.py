"""What a text says besides its words: SSML, tags, pauses, sounds and control tokens."""
