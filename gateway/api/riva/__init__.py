"""NVIDIA Riva's gRPC API."""
