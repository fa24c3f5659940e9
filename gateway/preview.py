"""What the model would receive for a text, for its author."""

from __future__ import annotations

import grpc.aio

from gateway.auth import ticket
from gateway.downstream import call_with_retry
from gateway.lexicon.registry import merged
from gateway.session.context import GatewayContext
from gateway.session.options import check_length, checked_language, checked_lexicon
from lighttts.v1 import encode_pb2_grpc, lexicon_pb2, text_pb2
from services.common.errors import Unavailable


async def preview(context: GatewayContext, request: text_pb2.PreviewTextRequest) -> text_pb2.PreviewTextResponse:
    """Return the utterances of a text, and the warnings about it. It counts as a request of the caller.

    Raises InvalidInput for a text that cannot be spoken, QuotaExceeded, Unavailable.
    """
    check_length(request.text, context.settings.max_text_chars)
    checked_language(request.language)
    checked_lexicon(request.lexicon)
    await ticket.spend(context.quotas)
    ticket.spent()
    sent = text_pb2.PreviewTextRequest()
    sent.CopyFrom(request)
    try:
        own = await context.lexicon.entries()
    except Unavailable:  # the text is spoken without it, too
        own = []
    del sent.lexicon[:]
    sent.lexicon.extend(merged(own, request.lexicon))
    sent.interleaved = context.settings.interleaved_text and context.voices.model.interleaved_text

    return await _ask(context, sent)


async def check_entry(context: GatewayContext, entry: lexicon_pb2.LexiconEntry) -> None:
    """Raise InvalidInput if the encode service cannot use an entry of a lexicon."""
    await _ask(context, text_pb2.PreviewTextRequest(text="a", lexicon=[entry]))


async def _ask(context: GatewayContext, request: text_pb2.PreviewTextRequest) -> text_pb2.PreviewTextResponse:
    async def ask(channel: grpc.aio.Channel) -> text_pb2.PreviewTextResponse:
        return await encode_pb2_grpc.EncodeStub(channel).PreviewText(request)

    return await call_with_retry(context.encode, ask, may_repeat=lambda: True)
