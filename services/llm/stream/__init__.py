"""One Generate call between the engine and the decode pool."""
