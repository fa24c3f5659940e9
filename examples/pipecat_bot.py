"""Pipecat (pip install "pipecat-ai[elevenlabs,nvidia,openai]"): speech from light-tts."""

import os

from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
from pipecat.services.nvidia.tts import NvidiaTTSService
from pipecat.services.openai.tts import OpenAITTSService

HTTP = os.environ.get("LIGHTTTS_HTTP", "http://127.0.0.1:8080")
GRPC = os.environ.get("LIGHTTTS_SERVER", "127.0.0.1:50050")
KEY = os.environ.get("LIGHTTTS_API_KEY", "none")

# Each one is the text-to-speech service of a Pipeline.
over_http = OpenAITTSService(
    base_url=HTTP + "/v1", api_key=KEY, settings=OpenAITTSService.Settings(model="tts-1", voice="alloy")
)
over_grpc = NvidiaTTSService(
    server=GRPC, use_ssl=False, api_key=KEY, settings=NvidiaTTSService.Settings(voice="lighttts.anna")
)
over_websocket = ElevenLabsTTSService(  # with times of words
    url=HTTP.replace("http", "ws", 1), api_key=KEY, settings=ElevenLabsTTSService.Settings(voice="anna")
)
