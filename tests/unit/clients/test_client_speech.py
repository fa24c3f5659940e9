"""The client's state of a speech: wherever calls break, every sample and every word comes once, in order."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from lighttts.v1 import audio_pb2, tts_pb2
from lighttts_client import (
    ConnectionLost,
    Internal,
    InvalidInput,
    LightTtsError,
    NotFound,
    Overloaded,
    Retry,
    Unavailable,
)
from lighttts_client.errors import from_rpc_error
from lighttts_client.speech import SpeechState

SAMPLES = 60
PCM = bytes(range(2 * SAMPLES))
WORDS = [(0, 5, 20), (6, 25, 10), (10, 40, 15)]
"""Offset in the text, first sample, samples."""
SEED = 99


def answers(
    request: tts_pb2.SynthesizeRequest, sizes: list[int], repeated: int
) -> Iterator[tts_pb2.SynthesizeResponse]:
    """What a gateway sends for a request. `repeated`: samples before the first wanted one that it sends again."""
    assert request.start_sample == 0 or request.config.seed == SEED
    yield tts_pb2.SynthesizeResponse(started=tts_pb2.Started(seed=SEED, sample_rate=24000))
    yield tts_pb2.SynthesizeResponse(warning=tts_pb2.Warning(message="a bit quiet"))
    position, number = max(0, request.start_sample - repeated), 0
    begun: set[int] = set()
    while position < SAMPLES:
        end = min(SAMPLES, position + sizes[number % len(sizes)])
        chunk = audio_pb2.AudioChunk(
            sequence=number,
            first_sample=position,
            pcm=PCM[2 * position : 2 * end],
            format=audio_pb2.SAMPLE_FORMAT_S16LE,
        )
        for offset, first, length in WORDS:
            ends = first + length <= end
            if first + length > position and first < end and (ends or offset not in begun):
                begun.add(offset)
                samples = length if ends else 0
                chunk.words.add(text_offset=offset, length=3, first_sample=first, samples=samples, open=not ends)
        yield tts_pb2.SynthesizeResponse(audio=chunk)
        position, number = end, number + 1
    yield tts_pb2.SynthesizeResponse(finished=tts_pb2.Finished(audio_seconds=1.0))


@given(
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=5),
    repeated=st.integers(0, 20),
    breaks=st.lists(st.integers(0, 8), max_size=6),
)
def test_breaks_anywhere_change_nothing(sizes: list[int], repeated: int, breaks: list[int]) -> None:
    state = SpeechState("One two three", tts_pb2.SynthesisConfig(word_times=True), Retry(attempts=100))
    chunks: list[audio_pb2.AudioChunk] = []
    for length in [*breaks, 1000]:
        for number, response in enumerate(answers(state.request(), sizes, repeated)):
            if number == length:
                assert state.failed(ConnectionLost("broken")) > 0
                break
            if (chunk := state.take(response)) is not None:
                chunks.append(chunk)
        if state.finished is not None:
            break
    assert b"".join(chunk.pcm for chunk in chunks) == PCM
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.pcm == PCM[2 * chunk.first_sample :][: len(chunk.pcm)] for chunk in chunks)
    words = [word for chunk in chunks for word in chunk.words]
    assert [(w.text_offset, w.first_sample, w.samples) for w in words if not w.open] == WORDS
    began = [word.text_offset for word in words if word.open]
    assert len(set(began)) == len(began)
    assert state.warnings == ["a bit quiet"]
    assert state.samples == SAMPLES


def test_a_gap_is_an_error_of_the_server() -> None:
    state = SpeechState("One.", tts_pb2.SynthesisConfig(), Retry())
    late = audio_pb2.AudioChunk(first_sample=3, pcm=b"abcd", format=audio_pb2.SAMPLE_FORMAT_S16LE)
    with pytest.raises(Internal, match="left out 3 samples"):
        state.take(tts_pb2.SynthesizeResponse(audio=late))


def test_new_audio_starts_the_count_of_attempts_afresh() -> None:
    state = SpeechState("One.", tts_pb2.SynthesisConfig(), Retry(attempts=3))
    for first in (0, 2, 4):
        chunk = audio_pb2.AudioChunk(first_sample=first, pcm=b"abcd", format=audio_pb2.SAMPLE_FORMAT_S16LE)
        state.take(tts_pb2.SynthesizeResponse(audio=chunk))
        assert [state.failed(ConnectionLost("broken")) for _ in range(2)] == [0.2, 0.4]
    with pytest.raises(ConnectionLost):
        state.failed(ConnectionLost("broken"))


@pytest.mark.parametrize(
    ("error", "delays"),
    [
        (Unavailable("x"), [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
        (Unavailable("x", retry_after=0.5), [0.5] * 7),
        (Overloaded("x", retry_after=2.0), [2.0] * 7),
        (Overloaded("x"), []),
        (Overloaded("x", retry_after=60.0), []),
        (InvalidInput("x"), []),
        (Internal("x"), []),
    ],
)
def test_the_hint_decides_the_wait_and_a_doubling_one_replaces_it(error: LightTtsError, delays: list[float]) -> None:
    retry = Retry(attempts=8, longest_delay=5.0)
    for number, delay in enumerate(delays, 1):
        assert retry.delay(number, error) == delay
    with pytest.raises(type(error)) as caught:
        retry.delay(len(delays) + 1, error)
    assert caught.value is error


def rpc_error(code: grpc.StatusCode, *details: object) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=code.value[0], message="words")
    for detail in details:
        status.details.add().Pack(detail)
    metadata = grpc.aio.Metadata(*([("grpc-status-details-bin", status.SerializeToString())] if details else []))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, "words")


OURS = error_details_pb2.ErrorInfo(reason="ANY", domain="lighttts")


def test_an_error_has_the_details_of_its_status() -> None:
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="config.speed")]
    )
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    error = from_rpc_error(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, OURS, bad, retry))
    assert (type(error), error.field, error.retry_after, error.reason) == (Overloaded, "config.speed", 1.5, "ANY")


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, [OURS], NotFound),
        (grpc.StatusCode.UNAVAILABLE, [OURS], Unavailable),
        (grpc.StatusCode.INTERNAL, [OURS], Internal),
        (grpc.StatusCode.UNAVAILABLE, [], ConnectionLost),
        (grpc.StatusCode.INTERNAL, [], ConnectionLost),
        (grpc.StatusCode.CANCELLED, [], ConnectionLost),
        (grpc.StatusCode.DATA_LOSS, [], Internal),
    ],
)
def test_a_status_that_no_gateway_sent_means_that_the_connection_broke(
    code: grpc.StatusCode, details: list[object], kind: type[LightTtsError]
) -> None:
    assert type(from_rpc_error(rpc_error(code, *details))) is kind


def test_details_of_other_software_do_no_harm() -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff no status"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), metadata, "words")
    assert type(from_rpc_error(error)) is ConnectionLost
