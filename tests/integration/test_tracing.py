"""One request is one tree of spans across all services, with its events; without a collector nothing is traced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from lighttts.v1 import tts_pb2
from services.common import tracing
from services.common.errors import NotFound, Unavailable
from tests.integration.test_interleaved_stack import TINY, stack
from tests.support.fake_stages import Script, rig, until

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A W3C traceparent: trace, span, sampled."""


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.configure("test", "worker", "", 1.0, exporter)
    yield exporter
    tracing.close()


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def only(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = named(exporter, name)
    return span


def below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def happened(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


async def synthesize(tts: Any, text: str = "One. Two.", **metadata: str) -> None:
    call = tts.Synthesize(tts_pb2.SynthesizeRequest(text=text), metadata=tuple(metadata.items()))
    assert [response async for response in call][-1].HasField("finished")


async def test_a_request_is_one_tree_from_the_caller_to_the_audio(spans: InMemorySpanExporter) -> None:
    decode_name = "lighttts.v1.Decode/Decode"
    async with stack(TINY, interleaved=False) as tts:
        spans.clear()
        await synthesize(tts, "Good morning.", traceparent=CALLER, **{"x-request-id": "mine"})
        names = (decode_name, "lighttts.v1.Llm/Generate", "lighttts.v1.Encode/EncodeText")
        await until(lambda: all(named(spans, name) for name in (*names, "lighttts.v1.TextToSpeech/Synthesize")))
        door, session = only(spans, "lighttts.v1.TextToSpeech/Synthesize"), only(spans, "session")
        utterance, encode = only(spans, "utterance"), only(spans, "lighttts.v1.Encode/EncodeText")
        llm, decode = only(spans, "lighttts.v1.Llm/Generate"), only(spans, decode_name)
    assert format(door.context.trace_id, "032x") in CALLER
    assert door.parent is not None
    assert format(door.parent.span_id, "016x") in CALLER
    for span, parent in ((session, door), (utterance, session), (encode, session), (llm, utterance), (decode, llm)):
        assert below(span, parent), span.name
        assert span.context.trace_id == door.context.trace_id
        assert parent.start_time is not None
        assert span.start_time is not None
        assert parent.start_time <= span.start_time
    assert happened(session) == ["first audio"]
    assert happened(llm) == ["first token", "first audio"]
    assert happened(decode) == ["first audio"]
    assert door.attributes is not None
    assert door.attributes["request_id"] == "mine"


async def test_a_move_is_an_event_and_the_second_worker_has_the_same_parent(
    spans: InMemorySpanExporter,
) -> None:
    async with rig(llms=2) as r:
        for llm in r.llms:
            llm.scripts[0] = Script(fail_at_hop=1, error=Unavailable("gone"))
        r.llms[1].scripts.clear()
        while not r.llms[0].calls:
            await synthesize(r.tts, "A long sentence.")
        calls = sum(len(llm.calls) for llm in r.llms)
        await until(lambda: len(named(spans, "lighttts.v1.Llm/Generate")) == calls)
        utterance = named(spans, "utterance")[-1]
        assert happened(utterance) == ["moved"]
        assert sum(below(call, utterance) for call in named(spans, "lighttts.v1.Llm/Generate")) == 2


async def test_failed_and_cancelled_spans_are_marked(spans: InMemorySpanExporter) -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(fail_at_hop=0, error=NotFound("there is no style 'x'"))
        response = await r.http.post("/inference_zero_shot", files={"prompt_wav": b"RIFF"}, data=form())
        assert response.status_code == 404
        await until(lambda: bool(named(spans, "POST /inference_zero_shot")))
        session = only(spans, "session")
        assert "no style 'x'" in (session.status.description or "")
        assert below(session, only(spans, "POST /inference_zero_shot"))
        spans.clear()
        # Speech that is under way: without any, the session may find the end of the text before the cancellation.
        r.llm.scripts[1] = Script(hold={0: asyncio.Event()})
        call = r.tts.StreamingSynthesize()
        await call.write(tts_pb2.StreamingSynthesizeRequest(config=tts_pb2.SynthesisConfig()))
        await call.write(tts_pb2.StreamingSynthesizeRequest(text="A long sentence. "))
        await until(lambda: len(r.llm.calls) == 2)
        call.cancel()
        await until(lambda: bool(named(spans, "session")))
        cancelled = only(spans, "session")
        assert dict(cancelled.attributes or {}).get("cancelled") is True, cancelled.to_json()


async def test_clients_cannot_invent_names_of_spans(spans: InMemorySpanExporter) -> None:
    async with rig() as r:
        spans.clear()
        for path in ("/v1/audio/voices/none", "/v1/audio/voices/other", "/invented/1", "/invented/2"):
            await r.http.delete(path)
        await r.http.request("BREW", "/health")
        served = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
        while len(served) < 5:  # the last one may end after its answer has arrived
            await asyncio.sleep(0.005)
            served = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
        names = {span.name for span in served}
    assert names == {"DELETE /v1/audio/voices/{voice}", "unregistered", "unregistered /health"}


async def test_without_a_collector_nothing_is_traced_or_sent() -> None:
    async with rig() as r:
        await synthesize(r.tts)
        assert [key for key, _ in tracing.outgoing("mine")] == ["x-request-id"]


def form() -> dict[str, str]:
    return {"tts_text": "One.", "prompt_text": "hello", "stream": "true"}
