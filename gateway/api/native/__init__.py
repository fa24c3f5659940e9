"""The gRPC API of light-tts."""
