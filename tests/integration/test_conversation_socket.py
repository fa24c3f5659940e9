"""Our own WebSocket: what the gRPC stream can, as JSON, with the same speech and with errors that name the field."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from google.protobuf import json_format
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.auth.keys import key_hash
from lighttts.v1 import tts_pb2
from services.common.errors import Internal, Overloaded
from tests.support.fake_stages import SAMPLES_PER_ID, Conversation, Rig, Script, chunks, rig, until

PCM = {"encoding": "AUDIO_ENCODING_PCM_F32LE", "keep_leading_silence": True}
CONFIG = {"seed": 7, "word_times": True, "audio": PCM}
WAV = b"RIFF a recording"
Events = list[dict[str, Any]]


@asynccontextmanager
async def socket(r: Rig, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"ws://127.0.0.1:{r.gateway.http_port}/v1/conversation", max_size=None, proxy=None, **options
    ) as c:
        yield c


async def send(connection: ClientConnection, *frames: dict[str, Any] | bytes | str) -> None:
    with contextlib.suppress(ConnectionClosed):  # the server may have refused an earlier frame
        for frame in frames:
            await connection.send(json.dumps(frame) if isinstance(frame, dict) else frame)


async def events_of(connection: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """Yield the events; that of audio has the bytes of the next frame as `pcm`."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            event = json.loads(await connection.recv())
            if "audio" in event:
                event["audio"]["pcm"] = await connection.recv()
            yield event


async def rest(connection: ClientConnection) -> Events:
    return [event async for event in events_of(connection)]


async def next_of(connection: ClientConnection, kind: str) -> dict[str, Any]:
    async for event in events_of(connection):
        if kind in event:
            return dict(event[kind])
    raise AssertionError(f"the socket closed without {kind}")


def of(events: Events, kind: str) -> list[Any]:
    return [event[kind] for event in events if kind in event]


def pcm(events: Events) -> bytes:
    return b"".join(audio["pcm"] for audio in of(events, "audio"))


async def test_it_speaks_as_the_grpc_stream_does_with_the_same_events() -> None:
    async with rig() as r:
        r.llm.aligns = True
        grpc = await Conversation(r, json_format.ParseDict(CONFIG, tts_pb2.SynthesisConfig())).begin()
        for text in ("Hello there, big world. ", "And more."):
            await grpc.text(text)
            await grpc.flush()
            await grpc.configure(voice_name="anna", speed=1.5)
        await grpc.end()
        expected = await grpc.rest()
        async with socket(r) as connection:
            await send(connection, {"config": CONFIG})
            for text in ("Hello there, big world. ", "And more."):
                await send(connection, {"text": text}, {"flush": {}})
                await send(connection, {"configure": {"config": {"voice_name": "anna", "speed": 1.5}}})
            await send(connection, {"end": {}})
            events = await rest(connection)
            assert connection.close_code == 1000
        assert pcm(events) == b"".join(chunk.pcm for chunk in chunks(expected))
        words = [word for audio in of(events, "audio") for word in audio["words"] if not word["open"]]
        assert [(word["text_offset"], word["first_sample"], word["samples"]) for word in words] == [
            (word.text_offset, word.first_sample, word.samples)
            for chunk in chunks(expected)
            for word in chunk.words
            if not word.open
        ]
        assert [(mark["flush"], mark["turn"]["characters"]) for mark in of(events, "mark")] == [(0, 24), (1, 9)]
        assert [(event["text_offset"], event["sample"]) for event in of(events, "spoken")] == [
            (event.text_offset, event.sample) for event in expected if isinstance(event, tts_pb2.Spoken)
        ]
        assert [event["number"] for event in of(events, "configured")] == [0, 1]
        assert [event["message"] for event in of(events, "warning")] == ["a bit quiet"] * len(of(events, "warning"))
        started, finished = of(events, "started"), of(events, "finished")
        assert (started[0]["seed"], started[0]["sample_rate"]) == (7, 24000)
        assert started[0]["max_text_chars"] == r.gateway._settings.max_text_chars
        assert finished[0]["audio_seconds"] == pytest.approx(len(pcm(events)) / 4 / 24000)
        first = of(events, "audio")[0]
        assert (first["sequence"], first["first_sample"], first["sample_rate"]) == (0, 0, 24000), "defaults are sent"


async def test_a_cancel_answers_with_the_words_that_were_heard() -> None:
    text = "Hello there, big world. And more."
    async with rig() as r, socket(r) as connection:
        r.llm.aligns = True
        await send(connection, {"config": CONFIG}, {"position": {"seconds": 0}}, {"text": text}, {"flush": {}})
        await next_of(connection, "mark")
        await send(connection, {"position": {"seconds": text.index("ig") * SAMPLES_PER_ID / 24000}}, {"cancel": {}})
        while not (spoken := await next_of(connection, "spoken"))["cut"]:
            pass
        assert text[: spoken["text_offset"]] == "Hello there"
        await send(connection, {"text": "Two."}, {"end": {}})
        assert len(of(await rest(connection), "finished")) == 1


@pytest.mark.parametrize("base64_in_json", [True, False])
async def test_a_recording_comes_as_base64_or_in_a_frame_of_its_own(base64_in_json: bool) -> None:
    prompt = {"transcript": "hello"} | ({"audio": base64.b64encode(WAV).decode()} if base64_in_json else {})
    frames: list[Any] = [{"config": {"prompt": prompt}}] + ([] if base64_in_json else [WAV])
    change: list[Any] = [{"configure": {"config": {"prompt": {"transcript": "another"}}}}, WAV + b" of another person"]
    async with rig() as r, socket(r) as connection:
        await send(connection, *frames, {"text": "One."}, *change, {"text": "Two."}, {"end": {}})
        assert of(await rest(connection), "finished")
        uploads = [(header.transcript, b"".join(parts)) for header, parts in r.encode.uploads]
        assert uploads == [("hello", WAV), ("another", WAV + b" of another person")]


async def test_a_whole_text_can_start_at_a_later_sample() -> None:
    async with rig() as r:
        answers = []
        for start in (0, 1000):
            async with socket(r) as connection:
                request = {"config": CONFIG, "text": "One. Two.", "start_sample": start}
                await send(connection, {"synthesize": request})
                answers.append(await rest(connection))
                assert connection.close_code == 1000
        whole, late = answers
        assert pcm(late) == pcm(whole)[4000:]
        assert next(audio["first_sample"] for audio in of(late, "audio") if audio["pcm"]) == 1000
        async with socket(r) as connection:
            r.llm.scripts[len(r.llm.calls)] = Script(hold={1: asyncio.Event()})
            await send(connection, {"synthesize": {"text": "A long sentence."}})
            await next_of(connection, "audio")
            await send(connection, {"cancel": {}})
            (error,) = of(await rest(connection), "error")
            assert error["field"] == "synthesize"
        await r.llm.calls[-1].cancelled.wait()


START: list[Any] = [{"config": {}}]
FAULTS: list[tuple[list[Any], str | None, str]] = [
    (["no json"], None, "no JSON"),
    (["[" * 100_000], None, "too many levels"),
    ([[1]], None, "JSON object"),
    ([{"text": "One."}], "config", "the first message must be the config"),
    ([{"flush": None}], "config", "the first message must be the config"),
    ([b"audio first"], "prompt.audio", "binary frame"),
    ([{"hello": {}}], "hello", "unknown field 'hello'; the fields here are config, text"),
    ([{"config": {"tempo": 1}}], "config.tempo", "the fields here are voice_name"),
    ([{"config": {"speed": "fast"}}], "config.speed", "config.speed must be a number"),
    ([{"config": {"wordTimes": 1}}], "config.wordTimes", "true or false"),
    ([{"config": {"seed": -1}}], "config.seed", "a whole number of 64 bits"),
    ([{"config": {"seed": 1.5}}], "config.seed", "a whole number"),
    ([{"config": {"sampling": {"top_k": 10**12}}}], "config.sampling.top_k", "32 bits"),
    ([{"config": {"mode": "SAD"}}], "config.mode", "SPEECH_MODE_ZERO_SHOT"),
    ([{"config": {"prompt": "x"}}], "config.prompt", "an object"),
    ([{"config": {"prompt": {"audio": 7}}}], "config.prompt.audio", "base64"),
    ([{"config": {"voice_name": "anna", "prompt": {}}}], "config.prompt", "exclude each other"),
    ([{"config": {"lexicon": [{"phrase": "a"}, {"phrase": 7}]}}], "config.lexicon[1].phrase", "must be text"),
    ([{"config": {"lexicon": [{}] * 101}}], "config.lexicon", "at most 100"),
    ([{"config": {"lexicon": [None]}}], "config.lexicon[0]", "an object"),
    ([{"config": {"speed": 9}}], "config.speed", "0.25 to 4"),
    ([{"config": {"voice_name": "nobody"}}], "config.voice_name", "known voices"),
    ([{"config": {"prompt": {}}}, {"text": "One."}], "prompt.audio", "must be binary"),
    ([{"config": {"prompt": {"transcript": "x"}}}, b"BAD"], "prompt.audio", "not audio"),
    ([*START, {"text": 7}], "text", "text must be text"),
    ([*START, {"text": "a", "flush": {}}], "flush", "exclude each other"),
    ([*START, '{"text": "\\ud800"}'], "text", "text must be text"),
    ([*START, '{"\\ud800": 1}'], "?", "unknown field"),
    (['{"config": {"mode": "\\ud800"}}'], "config.mode", "one of"),
    ([*START, '{"position": {"seconds": NaN}}'], "position.seconds", "a number"),
    ([*START, {"flush": 1}], "flush", "an object"),
    ([*START, {}], "request", "an empty message"),
    ([*START, {"config": {}}], "config", "one config"),
    ([*START, b"more"], "prompt.audio", "binary frame"),
    ([*START, {"configure": {"config": {"seed": 3}}}], "configure.config.seed", "whole stream"),
    ([*START, {"text": "a" * 30_000}], "text", "20000"),
    ([*START, {"text": "a" * 2**20}], None, "several frames"),
    ([{"synthesize": {"text": "."}}], "text", "only punctuation"),
    ([{"synthesize": {"txt": "One."}}], "synthesize.txt", "unknown field"),
    ([{"synthesize": {"text": "One."}, "config": {}}], "synthesize", "alone"),
    ([{"synthesize": {"text": "One.", "start_sample": 5}}], "config.seed", "needs the seed"),
]


async def test_an_error_names_the_field_and_says_what_to_do() -> None:
    async with rig() as r:
        for frames, field, words in FAULTS:
            async with socket(r) as connection:
                await send(connection, *(json.dumps(frame) if isinstance(frame, list) else frame for frame in frames))
                events = await rest(connection)
                assert [list(event) for event in events[-1:]] == [["error"]], frames
                error = events[-1]["error"]
                assert (error.get("field"), connection.close_code) == (field, 1008), error
                assert words in error["message"], error
                assert error["reason"] in ("INVALID_INPUT", "NOT_FOUND")
        async with socket(r) as connection:
            await send(connection, *START, {"text": "One."}, {"end": {}})
            assert of(await rest(connection), "finished")


async def test_a_refusal_for_load_says_when_to_try_again_and_a_defect_is_told_after_the_audio() -> None:
    async with rig() as r:
        r.llm.scripts = {
            0: Script(refusal=Overloaded("the workers are full")),
            1: Script(fail_at_hop=1, error=Internal("the model produced nothing", repeated=True)),
        }
        for code, reason, retry in ((1013, "OVERLOADED", 1.0), (1011, "INTERNAL", None)):
            async with socket(r) as connection:
                await send(connection, *START, {"text": "A long sentence."}, {"end": {}})
                events = await rest(connection)
                error = events[-1]["error"]
                assert (error["reason"], error.get("retry_after_seconds")) == (reason, retry)
                assert connection.close_code == code
        assert pcm(events)


async def test_a_browser_offers_its_key_as_a_subprotocol(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash('ltts_a-key')}, max_streams: 1}}]")
    async with rig(api_keys_file=tmp_path / "keys.yaml") as r:
        for key, field in (("ltts_a-key", "started"), ("wrong", "error")):
            protocols = [Subprotocol("lighttts"), Subprotocol(f"lighttts.key.{key}")]
            async with socket(r, subprotocols=protocols) as connection:
                assert connection.subprotocol == "lighttts"
                await send(connection, *START, {"end": {}})
                events = await rest(connection)
                assert field in events[0]
        assert events == [{"error": {"reason": "UNAUTHENTICATED", "message": events[0]["error"]["message"]}}]
        assert "unknown API key" in events[0]["error"]["message"]


@pytest.mark.parametrize("ended", [True, False])
async def test_a_client_that_disconnects_frees_everything(ended: bool) -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        async with socket(r) as connection:
            await send(connection, *START, {"text": "A long sentence."}, *([{"end": {}}] if ended else []))
            await next_of(connection, "audio")
        await r.llm.calls[0].cancelled.wait()
        await until(lambda: r.encode.open_texts == 0 and r.gateway._bodies.held == 0)


async def test_a_client_that_reads_slowly_is_not_closed_for_a_late_answer_to_a_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Pings at once; a server that does not set how long their answers may take closes the socket at once too.
    hasty = partial(uvicorn.Config, ws_ping_interval=0.01, ws_ping_timeout=0.01)
    monkeypatch.setattr("gateway.process.http_server.uvicorn.Config", hasty)
    async with rig() as r, socket(r) as connection:
        release = asyncio.Event()
        r.llm.scripts[0] = Script(hold={1: release})
        await send(connection, *START, {"text": "A long sentence."}, {"end": {}})
        await next_of(connection, "audio")
        connection.transport.pause_reading()  # the pings that follow have to wait
        await asyncio.sleep(0.5)
        release.set()
        connection.transport.resume_reading()
        assert of(await rest(connection), "finished")
        assert connection.close_code == 1000


async def test_a_socket_without_a_first_frame_or_a_recording_is_closed() -> None:
    cases: list[tuple[dict[str, Any], list[str], str]] = [
        ({"first_message_seconds": 0.1}, [], "first frame"),
        ({"body_seconds": 0.1}, ['{"config": {"prompt": {}}}'], "prompt's recording"),
    ]
    for settings, frames, words in cases:
        async with rig(**settings) as r, socket(r) as connection:
            await send(connection, *frames)
            (error,) = of(await rest(connection), "error")
            assert (error["reason"], words in error["message"]) == ("TIMED_OUT", True)


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/audio/speech", "/"])
async def test_a_path_without_a_socket_is_not_found(path: str) -> None:
    """Not forbidden, as if the key were wrong."""
    async with rig() as r:
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(f"ws://127.0.0.1:{r.gateway.http_port}{path}", proxy=None):
                pass
        assert refusal.value.response.status_code == 404
        assert b"no WebSocket at this path" in refusal.value.response.body
