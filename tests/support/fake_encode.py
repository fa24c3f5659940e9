"""An encode worker that tests control step by step."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from lighttts.v1 import encode_pb2, encode_pb2_grpc, text_pb2, voice_pb2, voice_pb2_grpc
from services.common.errors import InvalidInput, LightTtsError
from services.common.voices.deletion import VoiceCacheServicer

SAMPLE_RATE = 24000
VOICES = ("hugo", "anna")


def ids_of(text: str) -> list[int]:
    return [ord(character) for character in text]


def recording_voice_cache(evicted: list[str]) -> VoiceCacheServicer:
    """A worker's voice cache that only records the evictions."""

    async def evict(voice_hash: str) -> int:
        evicted.append(voice_hash)
        return 0

    return VoiceCacheServicer(evict)


class FakeEncode(encode_pb2_grpc.EncodeServicer):
    """A sentence, ended by a full stop, is an utterance; an id is a code point. Interleaved: a word is a run."""

    name = "encode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Encode",)
    sends_voices = False
    """Whether workers send their own voices ahead; those of earlier versions do not."""

    reads_text = True
    """Whether it shows readings; workers of 0.1.0 do not."""

    def __init__(self) -> None:
        self.uploads: list[tuple[encode_pb2.EncodeVoiceHeader, list[bytes]]] = []
        self.starts: list[encode_pb2.EncodeTextStart] = []
        self.texts: list[list[str]] = []
        """Fragments of each EncodeText call."""
        self.open_texts = 0
        self.voice_gate = asyncio.Event()
        self.voice_gate.set()
        self.refusal: LightTtsError | None = None
        """The error of every upload, raised before its audio is read."""
        self.releases: list[list[int]] = []
        """Places in the text of each EncodeText call that another worker had released in a pause."""
        self.released: int | None = None
        """The place that the first run of every call reports as released in a pause."""
        self.lose_text_after: int | None = None
        """The number of runs after which an EncodeText call breaks as with a lost connection."""
        self.text_refusal: Exception | None = None
        """The error of every EncodeText call."""
        self.whole_sentences = False
        """Make a run of each sentence, also in interleaved text."""
        self.identity = "model-1"
        self.end_of_prompt: bool | None = None
        """Whether the model has the token that ends an instruction; None: this worker does not tell."""
        self.evicted: list[str] = []
        """Hashes of the voices that this worker was asked to evict."""

    def register(self, server: grpc.aio.Server) -> None:
        encode_pb2_grpc.add_EncodeServicer_to_server(self, server)
        voice_pb2_grpc.add_VoiceCacheServicer_to_server(recording_voice_cache(self.evicted), server)

    async def start(self) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...

    async def DescribeModel(self, request: Any, context: Any) -> encode_pb2.DescribeModelResponse:
        return encode_pb2.DescribeModelResponse(
            model=self.identity,
            name="fake",
            family="cosyvoice2",
            sample_rate=SAMPLE_RATE,
            languages=["en"],
            voices=VOICES,
            interleaved_text=True,
            end_of_prompt=self.end_of_prompt,
        )

    async def EncodeVoice(self, request_iterator: Any, context: Any) -> encode_pb2.EncodeVoiceResponse:
        header = (await anext(aiter(request_iterator))).header
        if self.refusal is not None:
            raise self.refusal
        parts = [request.audio async for request in request_iterator]
        self.uploads.append((header, parts))
        await self.voice_gate.wait()
        if b"".join(parts).startswith(b"BAD"):
            raise InvalidInput("the prompt is not audio; send WAV, FLAC, MP3 or Ogg", field="prompt.audio")
        name = header.bundled_voice or header.transcript
        content = voice_pb2.VoiceContent(voice_hash=f"hash of {name}", model=self.identity, warnings=["a bit quiet"])
        content.transcript = header.transcript
        if header.timbre_only:
            content.speech_tokens.append(1)
        return encode_pb2.EncodeVoiceResponse(voice=content)

    async def EncodeSpeech(self, request_iterator: Any, context: Any) -> encode_pb2.EncodeSpeechResponse:
        await anext(aiter(request_iterator))
        if not b"".join([request.audio async for request in request_iterator]):
            raise InvalidInput("the recording is missing; send WAV, FLAC, MP3 or Ogg", field="audio")
        return encode_pb2.EncodeSpeechResponse(speech_tokens=range(10))

    async def BundledVoices(self, request: Any, context: Any) -> AsyncIterator[encode_pb2.BundledVoicesResponse]:
        if not self.sends_voices:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        for name in VOICES:
            content = voice_pb2.VoiceContent(voice_hash=f"hash of {name} in {self.identity}", model=self.identity)
            yield encode_pb2.BundledVoicesResponse(name=name, voice=content)

    async def ReadText(self, request: encode_pb2.ReadTextRequest, context: Any) -> encode_pb2.ReadTextResponse:
        if not self.reads_text:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        whole = text_pb2.PreviewedText(end=len(request.text), reading=request.text, ids=ids_of(request.text))
        return encode_pb2.ReadTextResponse(utterances=[whole])

    async def EncodeText(self, request_iterator: Any, context: Any) -> AsyncIterator[encode_pb2.EncodeTextResponse]:
        fragments: list[str] = []
        self.texts.append(fragments)
        self.open_texts += 1
        try:
            if self.text_refusal is not None:
                raise self.text_refusal
            start = (await anext(aiter(request_iterator))).start
            self.releases.append(list(start.releases))
            self.starts.append(start)
            borders = (" ", ".") if start.interleaved and not self.whole_sentences else (".",)
            runs = 0
            text, offset, utterance, begun = "", 0, 0, 0
            async for fragment in _fragments(start, request_iterator):
                fragments.append(fragment)
                text += fragment
                while cut := 1 + min((at for border in borders if (at := text.find(border)) >= 0), default=-1):
                    if runs == self.lose_text_after:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                    runs += 1
                    last = text[cut - 1] == "."
                    run = _run(utterance, text[:cut], offset, last, self.released if runs == 1 else None)
                    begun = _with_words(run, begun) if start.words else 0
                    yield run
                    text, offset, utterance = text[cut:], offset + cut, utterance + last
            if text.strip():
                run = _run(utterance, text, offset, last=True)
                if start.words:
                    _with_words(run, begun)
                yield run
        finally:
            self.open_texts -= 1


async def _fragments(start: encode_pb2.EncodeTextStart, requests: Any) -> AsyncIterator[str]:
    yield start.text
    if not start.complete:
        async for request in requests:
            yield request.fragment


def _with_words(response: encode_pb2.EncodeTextResponse, begun: int) -> int:
    """Name the words of a run, whose utterance has `begun` ids before it; return the ids before the next run."""
    run = response.text
    for word in re.finditer(r"\w+", run.text):
        start, end = run.start + word.start(), run.start + word.end()
        run.words.add(first_id=begun + word.start(), ids=end - start, start=start, end=end)
    return 0 if run.last else begun + len(run.ids)


def _run(
    utterance: int, text: str, offset: int, last: bool, released: int | None = None
) -> encode_pb2.EncodeTextResponse:
    run = encode_pb2.EncodedText(
        utterance=utterance,
        ids=ids_of(text),
        text=text,
        start=offset,
        end=offset + len(text),
        last=last,
        released=released,
    )
    return encode_pb2.EncodeTextResponse(text=run)
