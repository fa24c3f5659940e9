"""JSON bodies with a recording in base64, parsed outside the event loop in short steps.

A thread alone does not help: `json.loads` and `base64.b64decode` keep the interpreter's lock until they are done, which
stops the event loop for as long as one call takes. So long strings are cut out of the body and decoded slice by slice,
and the rest, which json.loads parses at once, is bounded. This bounds the memory too: a parsed list of empty lists is
20 times as large as its text.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, field_validator, model_validator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

MAX_STRUCTURE_BYTES = 2**20
"""Most bytes of a body without its long strings."""
LONG_BYTES = 64 * 1024
"""Shortest string that is cut out."""
SLICE_BYTES = 256 * 1024
_PLACE_TO_CUT = re.compile(rb"[^\\\x80-\xff]{6}")
"""Six bytes after which no escape sequence and no character of several bytes is open."""

# Two: the memory of a body is several times its size while it is parsed.
_parsers = ThreadPoolExecutor(2, thread_name_prefix="json body")


class JsonFields(BaseModel):
    """The fields of a JSON object. `null` means that the field is absent, for every field; unknown ones are ignored."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        return (
            {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )

    @field_validator("*")
    @classmethod
    def _encodable(cls, value: Any) -> Any:
        # JSON's escapes can write half of a surrogate pair, which no message to a worker can contain.
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and not text.isascii():  # a recording in base64 is long
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise PydanticCustomError(
                        "string_unicode", "half of a surrogate pair is no character; send text that UTF-8 can encode"
                    ) from error
        return value


class StructureTooLarge(ValueError):
    """A body has too much besides its long strings."""


class JsonRoute(APIRoute):
    """A route whose JSON body is parsed outside the event loop."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _JsonRequest(Request):
    """Keeps one copy of its body, and none after it has been parsed."""

    _received: bytearray | None = None
    _parsed: Any = None

    async def body(self) -> bytes:
        if self._received is None:
            self._received = bytearray()
            async for part in self.stream():
                self._received += part
        return self._received  # type: ignore[return-value]  # the framework passes it on, or tests its length

    async def json(self) -> Any:
        body = await self.body()
        if self._parsed is None:
            try:
                self._parsed = await asyncio.get_running_loop().run_in_executor(_parsers, parse, body)
            except StructureTooLarge as error:
                raise HTTPException(413, str(error)) from error
            except UnicodeDecodeError as error:
                raise json.JSONDecodeError("not UTF-8", "", error.start) from error
            except RecursionError as error:
                raise json.JSONDecodeError("too many levels", "", 0) from error
            finally:
                if self._received is not None:
                    self._received.clear()
        return self._parsed


def parse(body: bytes | bytearray) -> Any:
    """Return json.loads(body). Raises JSONDecodeError, UnicodeDecodeError, RecursionError, StructureTooLarge."""
    if len(body) <= LONG_BYTES:
        return json.loads(body)
    mark = secrets.token_hex(16)
    structure, strings = _cut(body, mark)
    if not strings:
        return json.loads(structure)
    values = {f"{mark}{number}": place for number, place in enumerate(strings)}
    found = 0

    def put_back(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        fields = dict(pairs)
        for name, value in pairs:
            if isinstance(value, str) and value in values:
                found += 1
                fields[name] = _decode(body, *values[value])
        return fields

    parsed = json.loads(structure, object_pairs_hook=put_back)
    if found < len(strings):  # in a list, or as a name
        raise StructureTooLarge(f"only fields may hold strings of more than {LONG_BYTES} bytes; send shorter ones")
    return parsed


def _cut(body: bytes | bytearray, mark: str) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the body with marks in the place of its long strings, and where those begin and end in it."""
    structure = bytearray()
    strings: list[tuple[int, int]] = []
    done = 0
    while (begin := body.find(b'"', done)) >= 0 and (end := _end_of_string(body, begin + 1)) >= 0:
        if end - begin <= LONG_BYTES:
            structure += body[done : end + 1]
        else:
            structure += body[done:begin] + f'"{mark}{len(strings)}"'.encode()
            strings.append((begin + 1, end))
        done = end + 1
        _check(len(structure))
    _check(len(structure) + len(body) - done)
    structure += body[done:]
    return bytes(structure), strings


def _check(size: int) -> None:
    if size > MAX_STRUCTURE_BYTES:
        raise StructureTooLarge(f"the request has more than {MAX_STRUCTURE_BYTES} bytes besides its recording")


def _end_of_string(body: bytes | bytearray, start: int) -> int:
    """Return the position of the quote that closes the string which begins at `start`, or -1."""
    at = start
    while (end := body.find(b'"', at)) >= 0:
        part = body[at:end]
        if (len(part) - len(part.rstrip(b"\\"))) % 2 == 0:
            return end
        at = end + 1  # the quote was escaped
    return -1


def _decode(body: bytes | bytearray, start: int, end: int) -> str:
    parts = []
    while start < end:
        cut = end
        if end - start > SLICE_BYTES:
            place = _PLACE_TO_CUT.search(body, start + SLICE_BYTES, min(end, start + 2 * SLICE_BYTES))
            if place is None:
                raise json.JSONDecodeError("a long string that is not base64", "", start)
            cut = place.end()
        parts.append(json.loads(b'"' + body[start:cut] + b'"'))
        start = cut
    return "".join(parts)
