"""OpenAI's own client (pip install openai): a whole file, and samples while they are generated."""

import os
import wave

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("LIGHTTTS_HTTP", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("LIGHTTTS_API_KEY", "none"),
)

speech = client.audio.speech.create(model="tts-1", voice="alloy", input="Good morning, Alice.", response_format="mp3")
speech.write_to_file("openai.mp3")

with (
    wave.open("openai.wav", "wb") as out,
    client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="Good morning, Alice, welcome to London.", response_format="pcm"
    ) as response,
):
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(24000)
    for part in response.iter_bytes():
        out.writeframesraw(part)
