"""Voices as OpenAI's clients and their relatives manage them: `/v1/audio/voices`."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from gateway.fronts.error_shapes import OPENAI_ERRORS
from gateway.fronts.voice_list import voice_names
from gateway.session import Stages


class Voice(BaseModel):
    id: str
    object: Literal["audio.voice"] = "audio.voice"
    name: str


class VoiceList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Voice]


def router(stages: Stages) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/audio", tags=["OpenAI"], responses=OPENAI_ERRORS)

    @routes.get("/voices")
    async def voices() -> VoiceList:
        """The voices there are."""
        return VoiceList(data=[Voice(id=name, name=name) for name in await voice_names(stages)])

    return routes
