"""The voices a caller may speak with, for the interfaces that list them."""

from __future__ import annotations

from gateway.auth.caller import current_caller
from gateway.session.session import GatewayContext


async def voice_names(context: GatewayContext) -> tuple[str, ...]:
    """Names of the checkpoint's voices, then those of the caller's own."""
    registered = await context.registry.owned(current_caller())
    return (*context.voices.model.voices, *(record.name for record in registered))
