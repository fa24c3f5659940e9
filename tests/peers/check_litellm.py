"""LiteLLM's `speech` with its OpenAI provider against a running gateway: python check_litellm.py HTTP_URL."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the list of prices in the package, not the one on the network

import litellm
import pytest

TEXT = "Good morning, Alice."
BEGINS = {"mp3": b"", "opus": b"OggS", "aac": b"\xff", "flac": b"fLaC", "wav": b"RIFF", "pcm": b""}


async def check(url: str) -> None:
    where: dict[str, Any] = {"api_base": f"{url}/v1", "api_key": "none", "max_retries": 0}
    for model in ("openai/tts-1", "openai/gpt-4o-mini-tts-2025-12-15"):
        assert len(litellm.speech(model=model, voice="alloy", input=TEXT, **where).content) > 2000, model
    for format_, begins in BEGINS.items():
        answer = litellm.speech(
            model="openai/tts-1", voice="anna", input=TEXT, response_format=format_, speed=1.2, **where
        )
        assert answer.content.startswith(begins), format_
        assert len(answer.content) > 2000, format_
    followed = await litellm.aspeech(
        model="openai/gpt-4o-mini-tts", voice="nova", input=TEXT, instructions="Speak in a calm voice.", **where
    )
    assert len(followed.content) > 2000
    for wrong, kind in (({"voice": "nobody"}, litellm.NotFoundError), ({"speed": 9}, litellm.BadRequestError)):
        with pytest.raises(kind, match=next(iter(wrong))):
            await litellm.aspeech(**({"model": "openai/tts-1", "voice": "alloy", "input": TEXT} | wrong), **where)


asyncio.run(check(sys.argv[1]))
