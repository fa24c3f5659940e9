"""Audio files inside JSON."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import Field

from services.common.errors import InvalidInput

InlineAudio = Annotated[
    str, Field(description="An audio file (WAV, FLAC, MP3, Ogg): base64, or a data URL with base64.")
]


def decode_audio(text: str) -> bytes:
    """The file's bytes. Raises InvalidInput for what is neither; addresses of files are not fetched."""
    if text.startswith(("http://", "https://", "file://")):
        raise InvalidInput("files are not fetched from addresses; send the file itself, in base64", field="audio")
    _, comma, data = text.partition(",") if text.startswith("data:") else ("", ",", text)
    try:
        if not comma:
            raise ValueError("a data URL without a comma")
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"the audio is not base64 ({error}); send the whole file so", field="audio") from error
