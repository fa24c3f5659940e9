"""The watermark of a worker's audio, as the settings ask for it (docs/marking.md)."""

from __future__ import annotations

from services.common.start_error import StartError
from services.common.watermark.codebook import SAMPLE_RATE, SYMBOLS
from services.common.watermark.embed import Watermark
from services.common.watermark.keys import KeyFileError, read_keys
from services.decode.settings import DecodeSettings


def watermark_of(settings: DecodeSettings, sample_rate: int) -> Watermark | None:
    """Return the worker's watermark; None if it is off. `sample_rate` in Hz. Raises StartError."""
    if settings.watermark == "off":
        return None
    if settings.watermark_key_file is None:
        raise StartError("LIGHTTTS_WATERMARK is on: set LIGHTTTS_WATERMARK_KEY_FILE to the file of its keys")
    if sample_rate != SAMPLE_RATE:
        raise StartError(f"the watermark is made for {SAMPLE_RATE} Hz; this checkpoint has {sample_rate} Hz")
    try:
        keys = read_keys(settings.watermark_key_file)
    except KeyFileError as error:
        raise StartError(f"LIGHTTTS_WATERMARK_KEY_FILE: {error}") from error
    number = settings.watermark_key_id
    if number not in keys:
        known = ", ".join(map(str, sorted(keys)))
        raise StartError(f"LIGHTTTS_WATERMARK_KEY_ID is {number}, but {settings.watermark_key_file} has {known}")
    return Watermark(keys[number], SYMBOLS * number + settings.watermark_deployment)
