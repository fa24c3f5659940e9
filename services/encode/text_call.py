"""One `EncodeText` call: a stream of text in, numbered utterances and warnings out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from itertools import pairwise

from lighttts.v1 import encode_pb2, text_pb2
from services.common.errors import InvalidInput
from services.encode import metrics
from services.encode.text.frontend import TextFrontend
from services.encode.text.markup.items import TextWarning
from services.encode.text.pieces import Piece, TextEncoder
from services.encode.text.turns import TextThreads


class TextCall:
    """Encodes the text of one call. `encoder` is used by this call alone."""

    def __init__(
        self,
        frontend: TextFrontend,
        encoder: TextEncoder,
        start: encode_pb2.EncodeTextStart,
        threads: TextThreads,
        idle_seconds: float,
    ) -> None:
        self._frontend = frontend
        self._encoder = encoder
        self._start = start
        self._threads = threads
        self._idle_seconds = idle_seconds

    async def responses(
        self, requests: AsyncIterator[encode_pb2.EncodeTextRequest]
    ) -> AsyncGenerator[encode_pb2.EncodeTextResponse]:
        """Yield the responses. Raises InvalidInput for text that cannot be spoken."""
        numbering = Numbering(await self._instruct_ids(), notes=self._start.notes)
        async with aclosing(self._work(requests)) as work:
            async for steps in work:
                async for pieces in self._threads.each(steps):
                    if self._encoder.preamble and not numbering.begun:
                        await self._use_preamble(numbering)
                    for response in numbering.responses(pieces, self._encoder.warnings.take()):
                        yield response
        for response in numbering.responses([], self._encoder.warnings.take()):  # of text of which nothing is left
            yield response

    async def _work(
        self, requests: AsyncIterator[encode_pb2.EncodeTextRequest]
    ) -> AsyncGenerator[Iterator[list[Piece]]]:
        """Yield the encoder's steps for each request, for each pause, and for the end of the text."""
        start, encoder = self._start, self._encoder
        metrics.TEXT_CHARACTERS.inc(len(start.text))
        yield self._first_steps()
        if not start.complete:
            async with aclosing(with_pauses(requests, self._idle_seconds, begun=bool(start.text))) as arriving:
                async for request in arriving:
                    yield _steps(encoder, request)
            yield encoder.finish()

    def _first_steps(self) -> Iterator[list[Piece]]:
        """Yield the steps of the text in start, and of its end: together, because each iterator costs a turn more."""
        start, encoder = self._start, self._encoder
        if start.text:
            for begin, end in pairwise((0, *_places(start), len(start.text))):
                yield from encoder.push(start.text[begin:end])
                if end in start.releases:
                    yield from encoder.pause()
        if start.complete:
            yield from encoder.finish()

    async def _instruct_ids(self) -> tuple[int, ...]:
        if not self._start.HasField("instruct_text"):
            return ()
        return await self._threads.run(partial(self._frontend.instruct_ids, self._start.instruct_text))

    async def _use_preamble(self, numbering: Numbering) -> None:
        """Speak after the preamble of the text, as after an instruction, if the prompt's own text is not used."""
        if self._start.HasField("instruct_text") and not self._start.instruct_text.strip():
            ids = await self._threads.run(partial(self._frontend.preamble_ids, self._encoder.preamble))
            numbering.instruct_ids = ids or numbering.instruct_ids


def _places(start: encode_pb2.EncodeTextStart) -> list[int]:
    """Return the places in the first text where another worker released it."""
    return sorted({place for place in start.releases if 0 < place < len(start.text)})


def _steps(encoder: TextEncoder, request: encode_pb2.EncodeTextRequest | None) -> Iterator[list[Piece]]:
    """Return the encoder's steps for a request; None stands for a pause."""
    if request is None:
        return encoder.pause()
    if request.WhichOneof("request") != "fragment":
        raise InvalidInput("after start only fragments may follow", field="request")
    metrics.TEXT_CHARACTERS.inc(len(request.fragment))
    return encoder.push(request.fragment)


def messages(warnings: Iterable[TextWarning]) -> list[text_pb2.TextWarning]:
    """Return the messages of warnings."""
    return [text_pb2.TextWarning(code=warning.code, message=warning.message) for warning in warnings]


class Numbering:
    """Numbers utterances: a final piece ends one, and the first piece of each carries the instruction and the style."""

    def __init__(self, instruct_ids: tuple[int, ...], *, notes: bool) -> None:
        """`notes`: the caller accepts responses without ids."""
        self.instruct_ids = instruct_ids
        self.begun = False
        """Whether an utterance was numbered."""
        self._notes = notes
        self._utterance = 0
        self._inside = False
        self._ids = 0
        """Of the utterance, so far."""

    def responses(self, pieces: list[Piece], warnings: list[TextWarning]) -> Iterator[encode_pb2.EncodeTextResponse]:
        if warnings and self._notes:
            yield encode_pb2.EncodeTextResponse(warnings=messages(warnings))
        for piece in pieces:
            if not piece.silence or self._notes:
                yield encode_pb2.EncodeTextResponse(text=self._numbered(piece))

    def _numbered(self, piece: Piece) -> encode_pb2.EncodedText:
        self.begun = True
        text = encode_pb2.EncodedText(
            utterance=self._utterance,
            ids=piece.ids,
            text=piece.text,
            start=piece.start,
            end=piece.end,
            last=piece.final,
            silence_seconds=piece.silence,
            released=piece.released,
            words=[
                encode_pb2.EncodedWord(first_id=self._ids + word.first_id, ids=word.ids, start=word.start, end=word.end)
                for word in piece.words
            ],
        )
        if not self._inside and not piece.silence:
            text.instruct_ids.extend(self.instruct_ids)
            if piece.style.speed != 1:
                text.speed = piece.style.speed
            if piece.style.gain != 1:
                text.gain = piece.style.gain
        self._ids = 0 if piece.final else self._ids + len(piece.ids)
        self._inside = not piece.final
        self._utterance += piece.final
        return text


async def with_pauses(
    requests: AsyncIterator[encode_pb2.EncodeTextRequest], idle_seconds: float, *, begun: bool
) -> AsyncGenerator[encode_pb2.EncodeTextRequest | None]:
    """Yield the requests, and None once for each pause of `idle_seconds`. `begun`: some text preceded the requests."""

    async def receive() -> encode_pb2.EncodeTextRequest | None:
        return await anext(requests, None)

    paused = not begun  # nothing is held back before the first text
    while True:
        arriving = asyncio.ensure_future(receive())
        try:
            if not paused and not (await asyncio.wait({arriving}, timeout=idle_seconds))[0]:
                paused = True
                yield None
            request = await arriving
        finally:
            arriving.cancel()
        if request is None:
            return
        paused = False
        yield request
