"""The voices a caller may speak with, for every interface that lists them."""

from __future__ import annotations

from gateway.session import Stages


async def voice_names(stages: Stages) -> tuple[str, ...]:
    """Names of the checkpoint's voices."""
    return tuple(stages.voices.model.voices)
