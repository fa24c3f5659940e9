"""What the model would receive for a text, for its author."""

from __future__ import annotations

import grpc
import grpc.aio

from gateway.auth import ticket
from gateway.downstream import call_with_retry
from gateway.lexicon.registry import merged
from gateway.session.context import GatewayContext
from gateway.session.options import check_length, checked_language, checked_lexicon
from lighttts.v1 import encode_pb2, encode_pb2_grpc, lexicon_pb2, text_pb2
from services.common.errors import Unavailable, Unsupported


async def preview(context: GatewayContext, request: text_pb2.PreviewTextRequest) -> text_pb2.PreviewTextResponse:
    """Return the utterances of a text, and the warnings about it. It counts as a request of the caller.

    Raises InvalidInput for a text that cannot be spoken, QuotaExceeded, Unavailable.
    """
    check_length(request.text, context.settings.max_text_chars)
    checked_language(request.language)
    checked_lexicon(request.lexicon)
    await ticket.spend(context.quotas)
    ticket.spent()
    try:
        own = await context.lexicon.entries()
    except Unavailable:  # the text is spoken without it, too
        own = []
    answer = await _read(
        context,
        encode_pb2.ReadTextRequest(
            text=request.text,
            language=request.language,
            lexicon=merged(own, request.lexicon),
            timbre_only=request.timbre_only,
            interleaved=context.settings.interleaved_text and context.voices.model.interleaved_text,
        ),
    )
    return text_pb2.PreviewTextResponse(utterances=answer.utterances, warnings=answer.warnings)


async def check_entry(context: GatewayContext, entry: lexicon_pb2.LexiconEntry) -> None:
    """Raise InvalidInput if the encode service cannot use an entry of a lexicon."""
    await _read(context, encode_pb2.ReadTextRequest(text="a", lexicon=[entry]))


async def _read(context: GatewayContext, request: encode_pb2.ReadTextRequest) -> encode_pb2.ReadTextResponse:
    async def ask(channel: grpc.aio.Channel) -> encode_pb2.ReadTextResponse:
        try:
            return await encode_pb2_grpc.EncodeStub(channel).ReadText(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise _TooOld("this encode worker is of an earlier version") from error
            raise

    try:
        return await call_with_retry(context.encode, ask, may_repeat=lambda: True)
    except _TooOld as error:
        raise Unsupported(
            "the encode workers are of an earlier version, which shows no readings and takes no pronunciations;"
            " upgrade the encode service"
        ) from error


class _TooOld(Unavailable):
    """A worker lacks the call. During an upgrade another one may have it."""
