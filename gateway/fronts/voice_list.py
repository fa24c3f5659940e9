"""The voices a caller may speak with, for every interface that lists them."""

from __future__ import annotations

from gateway.access.caller import current_caller
from gateway.session import Stages


async def voice_names(stages: Stages) -> tuple[str, ...]:
    """Names of the checkpoint's voices and of those the current caller has registered."""
    registered = await stages.library.owned(current_caller())
    return (*stages.voices.model.voices, *(record.name for record in registered))
