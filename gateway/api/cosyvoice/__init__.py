"""CosyVoice's gRPC and HTTP API."""
