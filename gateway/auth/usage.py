"""What each API key has used: metrics by the key's name, and one log line for each session, for billing."""

from __future__ import annotations

from typing import Literal, TypeAlias

import structlog
from prometheus_client import Counter

from gateway.auth.caller import current_caller

usage = structlog.get_logger("gateway.usage")
"""One line for each session; the bound on lines per event does not hold for it."""

REQUESTS = Counter(
    "lighttts_gateway_usage_requests_total", "Sessions that were admitted, by the name of the API key.", ["key"]
)
CHARACTERS = Counter(
    "lighttts_gateway_usage_characters_total", "Characters received to be spoken, by API key.", ["key"]
)
AUDIO_SECONDS = Counter(
    "lighttts_gateway_usage_audio_seconds_total", "Audio delivered, in seconds, by API key.", ["key"]
)

Outcome: TypeAlias = Literal["finished", "cancelled", "failed"]
"""`cancelled`: the client left before the end."""


def record(
    *,
    characters: int,
    audio_seconds: float,
    outcome: Outcome,
    text_tokens: int = 0,
    speech_tokens: int = 0,
    cached: bool = False,
) -> None:
    """Count an ended session for the caller of the current task, and write its line.

    The label has as many values as the key file has names; requests without keys are `anonymous`.
    """
    caller = current_caller()
    REQUESTS.labels(caller.name).inc()
    CHARACTERS.labels(caller.name).inc(characters)
    AUDIO_SECONDS.labels(caller.name).inc(audio_seconds)
    usage.info(
        "usage",
        key=caller.name,
        owner=caller.owner,
        requests=1,
        characters=characters,
        audio_seconds=round(audio_seconds, 3),
        text_tokens=text_tokens,
        speech_tokens=speech_tokens,
        cached=cached,
        outcome=outcome,
    )
