"""The messages of ElevenLabs' WebSockets: JSON in text frames."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import Field, ValidationError

from gateway.api.common.json_body import JsonFields
from gateway.api.elevenlabs.alignment import Characters
from gateway.api.elevenlabs.request import VoiceSettings
from services.common.errors import InvalidInput

MAX_ID_CHARS = 256


class ClientMessage(JsonFields):
    """What a client sends. Hints about when to speak (`try_trigger_generation`, `generation_config`) are ignored: a
    sentence is spoken as soon as its end is certain."""

    text: str | None = None
    voice_settings: VoiceSettings | None = None
    flush: bool = False
    context_id: str = Field(default="", max_length=MAX_ID_CHARS)
    other_id: str = Field(default="", max_length=MAX_ID_CHARS, alias="contextId")
    """The same; ElevenLabs' own types have both spellings."""
    close_context: bool = False
    close_socket: bool = False
    xi_api_key: str = ""
    hyphenated_key: str = Field(default="", alias="xi-api-key")
    authorization: str = ""

    @property
    def context(self) -> str:
        """The name of the context; empty if the client names none."""
        return self.context_id or self.other_id

    @property
    def key_headers(self) -> list[tuple[str, str]]:
        """The key, in the form of headers."""
        given = [
            ("xi-api-key", self.xi_api_key),
            ("xi-api-key", self.hyphenated_key),
            ("authorization", self.authorization),
        ]
        return [(name, value) for name, value in given if value]


def parse(frame: str) -> ClientMessage:
    """Return the message in a text frame. Raises InvalidInput, which names the field."""
    try:
        return ClientMessage.model_validate_json(frame)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"a message cannot be read: {field + ': ' if field else ''}{first['msg']}") from error


def audio_message(audio: bytes, characters: Characters | None, context: str) -> dict[str, Any]:
    """Return a message with audio. No second reading of the text exists, so both alignments are the same."""
    alignment = None if characters is None else characters.for_socket()
    message = {
        "audio": base64.b64encode(audio).decode(),
        "isFinal": None,
        "normalizedAlignment": alignment,
        "alignment": alignment,
    }
    return message | named(context)


def final_message(context: str) -> dict[str, Any]:
    """Return the message after the last audio."""
    return {"audio": None, "isFinal": True, "normalizedAlignment": None, "alignment": None} | named(context)


def named(context: str) -> dict[str, Any]:
    """Return the field that names a context, unless its name is empty."""
    return {"contextId": context} if context else {}
