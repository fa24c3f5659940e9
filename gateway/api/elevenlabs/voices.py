"""The list of voices in ElevenLabs' form."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gateway.api.common.errors import ELEVENLABS_ERRORS
from gateway.auth.caller import current_caller
from gateway.session.context import GatewayContext


class Voice(BaseModel):
    voice_id: str
    name: str
    category: Literal["premade", "cloned"] = Field(description="premade: of the model; cloned: the caller's own.")
    labels: dict[str, str] = {}
    description: str = ""
    preview_url: None = None


class VoiceList(BaseModel):
    voices: list[Voice]


def router(context: GatewayContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/v1/voices", tags=["ElevenLabs"], responses=ELEVENLABS_ERRORS)

    @routes.get("")
    async def voices() -> VoiceList:
        """List the model's voices and the caller's own."""
        listed = [Voice(voice_id=name, name=name, category="premade") for name in context.voices.model.voices]
        listed += [
            Voice(voice_id=record.id, name=record.name, category="cloned", description=record.description)
            for record in await context.registry.owned(current_caller())
        ]
        return VoiceList(voices=listed)

    return routes
