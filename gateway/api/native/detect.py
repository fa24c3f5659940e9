"""Our own HTTP route that searches a recording for the watermark, `/v1/audio/detect`."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import APIRouter, File, UploadFile
from pydantic import BaseModel, Field

from gateway.api.common.errors import OPENAI_ERRORS
from gateway.settings import GatewaySettings
from services.common.errors import InvalidInput, NotFound, Overloaded
from services.common.start_error import StartError
from services.common.watermark.detect import P_VALUE, TooShort
from services.common.watermark.keys import KeyFileError, read_keys
from services.common.watermark.recording import BadRecording, as_fields, search

PATH = "/v1/audio/detect"
LONGEST_SECONDS = 600.0
"""Longest recording; the search takes some tens of milliseconds per second and key."""
MOST_WAITING = 4
"""Searches that may wait for the one that runs; more are refused."""


class Span(BaseModel):
    """A part of the recording. Times in seconds from its beginning."""

    start: float
    end: float
    z: float = Field(description="The match in standard deviations of unmarked audio.")
    p_value: float = Field(description="Bound of the probability that unmarked audio matches as well.")
    searched_key: int = Field(description="Number of the key in this gateway's file.")
    key: int = Field(description="Number of the key, as the mark carries it.")
    deployment: int = Field(description="Number of the deployment, as the mark carries it.")


class Result(BaseModel):
    marked: bool = Field(description=f"Whether a mark was found (p_value at most {P_VALUE:g}).")
    p_value: float
    best: Span = Field(description="The best match, whether or not it counts as found.")
    spans: list[Span] = Field(description="Where marks were found.")


class Searches:
    """Runs one search at a time, outside the event loop; a few may wait."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = keys
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watermark search")
        self._pending = 0

    async def run(self, recording: bytes) -> Result:
        """Search a recording. Raises InvalidInput, Overloaded, or NotFound without keys."""
        if not self._keys:
            # 404 and not 501: an alert on server errors must not follow from a client's request.
            raise NotFound("this gateway has no watermark keys; its operator can set LIGHTTTS_WATERMARK_KEY_FILE")
        if self._pending > MOST_WAITING:
            raise Overloaded(
                "too many recordings are being searched; try again shortly", retry_after=5.0, stage="gateway"
            )
        self._pending += 1
        # A search whose client leaves goes on, so that its end alone makes room for the next one.
        work = self._thread.submit(search, io.BytesIO(recording), self._keys, LONGEST_SECONDS)
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end))
        answer = asyncio.wrap_future(work)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # of a client that has left
        try:
            return Result.model_validate(as_fields(await asyncio.shield(answer)))
        except (BadRecording, TooShort) as error:
            raise InvalidInput(f"the recording cannot be searched: {error}", field="file") from error

    def _end(self) -> None:
        self._pending -= 1


def router(settings: GatewaySettings) -> APIRouter:
    """Return the route; without keys it refuses all requests. Raises StartError if their file cannot be used."""
    routes = APIRouter(tags=["light-tts"], responses=OPENAI_ERRORS)
    try:
        searches = Searches(read_keys(settings.watermark_key_file) if settings.watermark_key_file else {})
    except KeyFileError as error:
        raise StartError(f"LIGHTTTS_WATERMARK_KEY_FILE: {error}") from error

    @routes.post(PATH)
    async def detect(
        file: Annotated[UploadFile, File(description="The recording: WAV, FLAC, MP3, Ogg ...; up to ten minutes.")],
    ) -> Result:
        """Search a recording for the watermark of synthetic speech. A mark that is not found proves nothing."""
        return await searches.run(await file.read())

    return routes
