"""Loads over OpenAI's HTTP API, which other servers have too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from cli.bench.apis import Answer, Api
from cli.bench.prompts import Prompt
from cli.client import Absent, Access, ClientError, Refused

SAMPLE_RATE = 24_000
"""Of OpenAI's samples; a server may state another one in `x-sample-rate`."""
VOICE = "alloy"
"""OpenAI's API requires a voice; servers map its names to their own."""
REFUSALS = (429, 503)
TIMEOUT = httpx.Timeout(300.0, connect=5.0)
"""An overloaded server answers late; its lateness is what a load measures."""


class OpenAi(Api):
    """POST /v1/audio/speech, samples as they arrive. `seed` and `language` are the only fields that OpenAI lacks."""

    def __init__(self, http: httpx.AsyncClient, access: Access, model: str) -> None:
        self._http, self._access, self._model = http, access, model

    async def speak(self, prompt: Prompt, seed: int, answer: Answer) -> None:
        body: dict[str, Any] = {
            "model": self._model,
            "input": prompt.text,
            "voice": prompt.voice or VOICE,
            "response_format": "pcm",
            "stream": True,
            "seed": seed,
        }
        if prompt.language:
            body["language"] = prompt.language
        odd = b""
        try:
            async with self._http.stream("POST", "/v1/audio/speech", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise _http_error(response, self._access)
                rate = int(response.headers.get("x-sample-rate", SAMPLE_RATE))
                async for part in response.aiter_bytes():
                    samples = odd + part
                    odd = samples[len(samples) // 2 * 2 :]
                    answer.take(samples[: len(samples) // 2 * 2], rate)
        except httpx.ConnectError as error:
            raise Absent(f"no server answers at {self._access.server}; give its address with --server") from error
        except httpx.HTTPError as error:
            raise ClientError(f"{self._access.server}: {error or type(error).__name__}") from error


def _http_error(response: httpx.Response, access: Access) -> ClientError:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text[:300]
    kind = Refused if response.status_code in REFUSALS else ClientError
    return kind(f"{access.server} answered {response.status_code}: {message}")


@asynccontextmanager
async def open_openai(access: Access, model: str) -> AsyncIterator[Api]:
    """Yield a client; it connects at its first request."""
    # OpenAI's own client takes the address with /v1, and `light-tts up` shows it so.
    url = f"{'https' if access.tls else 'http'}://{access.address.removesuffix('/v1')}"
    headers = {"authorization": f"Bearer {access.key}"} if access.key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    verify = str(access.authority) if access.authority else True
    try:
        http = httpx.AsyncClient(base_url=url, verify=verify, headers=headers, limits=limits, timeout=TIMEOUT)
    except httpx.InvalidURL as error:
        raise ClientError(f"{access.server} is not an address ({error}); write http://host:port") from error
    async with http:
        yield OpenAi(http, access, model)
