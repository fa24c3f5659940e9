"""NVIDIA Riva's own client (pip install nvidia-riva-client): several sentences on one stream."""

import os
import wave

import riva.client

auth = riva.client.Auth(
    uri=os.environ.get("LIGHTTTS_SERVER", "127.0.0.1:50050"),
    metadata_args=[["authorization", f"Bearer {os.environ.get('LIGHTTTS_API_KEY', 'none')}"]],
)
service = riva.client.SpeechSynthesisService(auth)

with wave.open("riva.wav", "wb") as out:
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(16000)
    sentences = ["Good morning, Alice.", "Welcome to London."]
    for response in service.synthesize_online(sentences, language_code="en-US", sample_rate_hz=16000):
        out.writeframesraw(response.audio)
