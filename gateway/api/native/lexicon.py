"""Our own APIs for the caller's lexicon: the gRPC service `lighttts.v1.Lexicon` and `/v1/lexicon`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import grpc.aio
from fastapi import APIRouter
from pydantic import BaseModel

from gateway import metrics
from gateway.api.common.errors import OPENAI_ERRORS
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonRoute
from gateway.api.native.preview import Alphabet, Pronunciation
from gateway.auth.caller import current_caller
from gateway.lexicon.record import LexiconRecord
from gateway.preview import check_entry
from gateway.session.context import GatewayContext
from lighttts.v1 import lexicon_pb2, tts_pb2, tts_pb2_grpc

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

API = "grpc"
PATH = "/v1/lexicon"
FIELDS = {"phrase": "phrase", "pronunciation": "pronunciation", "alphabet": "alphabet"}


class LexiconServicer(tts_pb2_grpc.LexiconServicer):
    """Handlers raise LightTtsErrors; the server's interceptor turns them into rich statuses."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    async def ListPronunciations(
        self, request: tts_pb2.ListPronunciationsRequest, context: Context
    ) -> tts_pb2.ListPronunciationsResponse:
        with metrics.count_errors(API):
            records = await self._context.lexicon.owned(current_caller())
            return tts_pb2.ListPronunciationsResponse(entries=[record.message() for record in records])

    async def CreatePronunciation(
        self, request: tts_pb2.CreatePronunciationRequest, context: Context
    ) -> tts_pb2.CreatePronunciationResponse:
        with metrics.count_errors(API):
            record, existed = await _put(self._context, request.entry)
            return tts_pb2.CreatePronunciationResponse(entry=record.message(), existed=existed)

    async def DeletePronunciation(
        self, request: tts_pb2.DeletePronunciationRequest, context: Context
    ) -> tts_pb2.DeletePronunciationResponse:
        with metrics.count_errors(API):
            await self._context.lexicon.delete(current_caller(), request.phrase)
            return tts_pb2.DeletePronunciationResponse()


class Entry(BaseModel):
    object: Literal["lexicon.entry"] = "lexicon.entry"
    phrase: str
    pronunciation: str
    alphabet: Alphabet = ""
    created_at: int = 0


class EntryList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Entry]


class DeletedEntry(BaseModel):
    phrase: str
    object: Literal["lexicon.entry.deleted"] = "lexicon.entry.deleted"
    deleted: bool = True


def router(context: GatewayContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix=PATH, route_class=JsonRoute, tags=["light-tts"], responses=OPENAI_ERRORS)

    @routes.get("")
    async def pronunciations() -> EntryList:
        """List the caller's pronunciations, in the order of the phrases."""
        return EntryList(data=[_entry(record) for record in await context.lexicon.owned(current_caller())])

    @routes.post("")
    async def create_pronunciation(entry: Pronunciation) -> Entry:
        """Add a pronunciation, or replace that of the same phrase. Every request of the caller uses it."""
        with named_as(FIELDS):
            record, _ = await _put(context, entry.message())
        return _entry(record)

    @routes.delete("/{phrase:path}")
    async def delete_pronunciation(phrase: str) -> DeletedEntry:
        """Delete the pronunciation of a phrase."""
        with named_as(FIELDS):
            await context.lexicon.delete(current_caller(), phrase)
        return DeletedEntry(phrase=phrase)

    return routes


async def _put(context: GatewayContext, entry: lexicon_pb2.LexiconEntry) -> tuple[LexiconRecord, bool]:
    async def check(unchecked: lexicon_pb2.LexiconEntry) -> None:
        await check_entry(context, unchecked)

    return await context.lexicon.put(current_caller(), entry, check)


def _entry(record: LexiconRecord) -> Entry:
    alphabet: Any = record.alphabet  # one of ALPHABETS
    return Entry(
        phrase=record.phrase,
        pronunciation=record.pronunciation,
        alphabet=alphabet,
        created_at=int(record.created),
    )
