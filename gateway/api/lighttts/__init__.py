"""LightTTS's HTTP and WebSocket API."""
