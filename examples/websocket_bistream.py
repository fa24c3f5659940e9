"""LightTTS's WebSocket (pip install websockets): the voice of a recording, text word by word, audio meanwhile."""

import asyncio
import json
import os
import wave
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedOK

PROMPT = Path("models/tiny/prompt_anna.wav")
URL = os.environ.get("LIGHTTTS_HTTP", "http://127.0.0.1:8080").replace("http", "ws", 1)
KEY = os.environ.get("LIGHTTTS_API_KEY", "none")
PROMPT_TEXT = PROMPT.with_suffix(".txt").read_text(encoding="utf-8").strip()
PROMPT_AUDIO = PROMPT.read_bytes()


async def write(connection: ClientConnection, text: str) -> None:
    await connection.send(json.dumps({"prompt_text": PROMPT_TEXT, "tts_model_name": "default"}))
    await connection.send(PROMPT_AUDIO)
    for word in text.split():
        await connection.send(json.dumps({"tts_text": word + " "}))
        await asyncio.sleep(0.05)  # as a language model writes
    await connection.send(json.dumps({"finish": True}))


async def main() -> None:
    with wave.open("websocket.wav", "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(24000)
        address, headers = URL + "/inference_zero_shot_bistream", {"authorization": f"Bearer {KEY}"}
        async with connect(address, additional_headers=headers, max_size=None) as connection:
            writing = asyncio.create_task(write(connection, "Good morning, Alice. Welcome to London."))
            try:
                while True:
                    frame = await connection.recv()
                    if isinstance(frame, str):
                        raise RuntimeError(json.loads(frame)["error"])
                    out.writeframesraw(frame)
            except ConnectionClosedOK:
                await writing


asyncio.run(main())
