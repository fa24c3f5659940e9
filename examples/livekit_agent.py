"""LiveKit Agents (pip install livekit-agents livekit-plugins-openai livekit-plugins-nvidia livekit-plugins-elevenlabs):
speech from light-tts."""

import os

from livekit.plugins import elevenlabs, nvidia, openai

HTTP = os.environ.get("LIGHTTTS_HTTP", "http://127.0.0.1:8080")
GRPC = os.environ.get("LIGHTTTS_SERVER", "127.0.0.1:50050")
KEY = os.environ.get("LIGHTTTS_API_KEY", "none")

# Each one is the `tts` of an AgentSession.
over_http = openai.TTS(base_url=HTTP + "/v1", api_key=KEY, model="tts-1", voice="alloy", response_format="pcm")
over_grpc = nvidia.TTS(server=GRPC, use_ssl=False, voice="lighttts.anna", language_code="en-US", api_key=KEY)
over_websocket = elevenlabs.TTS(base_url=HTTP + "/v1", api_key=KEY, voice_id="anna")  # word by word, with times
