"""The `light-tts` command: run the whole system on one machine, speak with it, inspect it."""
