"""Requests of Open WebUI 0.12.4, written after `_tts_openai`, `get_available_models` and `get_available_voices` of its
`routers/audio`, with the HTTP client that they use: python check_open_webui.py HTTP_URL.

Its own code runs only within its server, whose package has 106 MB and needs a database.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp

TEXT = "Good morning, Alice."
TYPES = {"opus": "audio/ogg", "wav": "audio/wav", "flac": "audio/flac", "aac": "audio/aac"}


async def get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url) as response:
        response.raise_for_status()
        answer = await response.json()
        assert isinstance(answer, dict)
        return answer


async def main(base: str) -> None:
    async with aiohttp.ClientSession() as session:
        models = [model["id"] for model in (await get(session, f"{base}/audio/models"))["models"]]
        assert models
        assert [model["id"] for model in (await get(session, f"{base}/models"))["data"]]
        voices = {voice["id"]: voice["name"] for voice in (await get(session, f"{base}/audio/voices"))["voices"]}
        assert {"anna", "hugo"} <= set(voices.values()), voices

        async def speak(**payload: Any) -> aiohttp.ClientResponse:
            headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
            return await session.post(f"{base}/audio/speech", json={"input": TEXT} | payload, headers=headers)

        for model, voice in (("tts-1", "alloy"), (models[0], next(iter(voices)))):
            answer = await speak(model=model, voice=voice)
            answer.raise_for_status()
            assert answer.headers["Content-Type"].split(";")[0] == "audio/mpeg"
            assert len(await answer.read()) > 2000
        for format_, type_ in TYPES.items():  # by the setting `audio.tts.openai.params`
            answer = await speak(model="tts-1", voice="alloy", response_format=format_, speed=1.2)
            answer.raise_for_status()
            assert answer.headers["Content-Type"].split(";")[0] == type_
            assert len(await answer.read()) > 2000
        refused = await speak(model="tts-1", voice="nobody")
        assert refused.status == 404
        assert "nobody" in (await refused.json())["error"]["message"]


asyncio.run(main(f"{sys.argv[1]}/v1"))
