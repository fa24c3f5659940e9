"""Text to speech by Kokoro-82M, with the exact time of each phone."""
