"""Our own HTTP route that shows how a text would be read, `/v1/text/preview`."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import AliasChoices, BaseModel, Field

from gateway.api.common.errors import OPENAI_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonFields, JsonRoute
from gateway.lexicon.record import LexiconRecord
from gateway.preview import preview
from gateway.session.context import GatewayContext
from lighttts.v1 import lexicon_pb2, text_pb2

PATH = "/v1/text/preview"
Alphabet = Literal["", "ipa", "arpabet", "pinyin"]
FIELDS = {"text": "text", "language": "language", "lexicon": "lexicon", "phrase": "lexicon", "pronunciation": "lexicon"}


class Pronunciation(JsonFields):
    """How a phrase is spoken: plain text, or phones in an alphabet."""

    phrase: str = Field(min_length=1, max_length=100)
    pronunciation: str = Field(min_length=1, max_length=200)
    alphabet: Alphabet = ""

    def message(self) -> lexicon_pb2.LexiconEntry:
        return LexiconRecord(self.phrase, self.pronunciation, self.alphabet).message()


class PreviewRequest(JsonFields):
    text: str = Field(
        min_length=1, validation_alias=AliasChoices("text", "input"), description="The text; `input` is the same."
    )
    language: str = Field(default="", max_length=64, description="BCP-47, such as en-US: how numbers are read.")
    lexicon: list[Pronunciation] = Field(default=[], max_length=100)


class Utterance(BaseModel):
    """A part of the text that the model speaks in one run, or silence."""

    start: int = Field(description="Its characters in the text are [start, end).")
    end: int
    written: str
    reading: str = Field(description="What the model receives: numbers and symbols in words.")
    ids: list[int] = Field(description="Token ids of the reading.")
    tokens: list[str]
    silence_seconds: float = 0.0
    speed: float = Field(default=1.0, description="Factor of the request's rate.")
    gain: float = Field(default=1.0, description="Factor of the loudness.")


class Note(BaseModel):
    code: str
    message: str


class Preview(BaseModel):
    utterances: list[Utterance]
    warnings: list[Note]


def router(context: GatewayContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(route_class=JsonRoute, tags=["light-tts"], responses=OPENAI_ERRORS)

    @routes.post(PATH)
    async def preview_text(request: PreviewRequest) -> Preview:
        """Show the sentences, readings and token ids of a text. Nothing is spoken."""
        message = text_pb2.PreviewTextRequest(
            text=request.text,
            language=request.language,
            lexicon=[entry.message() for entry in request.lexicon],
        )
        with named_as(FIELDS):
            answer = await preview(context, message)
        return Preview(
            utterances=[_utterance(request.text, one) for one in answer.utterances],
            warnings=[Note(code=note.code, message=note.message) for note in answer.warnings],
        )

    return routes


def _utterance(text: str, one: text_pb2.PreviewedText) -> Utterance:
    return Utterance(
        start=one.start,
        end=one.end,
        written=text[one.start : one.end],
        reading=one.reading,
        ids=list(one.ids),
        tokens=list(one.tokens),
        silence_seconds=one.silence_seconds,
        speed=one.speed or 1.0,
        gain=one.gain if one.HasField("gain") else 1.0,
    )
