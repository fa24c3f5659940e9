"""Every API says that its speech is synthetic: header, handshake, trailing metadata, comment of a file."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import soundfile
from websockets.asyncio.client import connect

from gateway.audio.notice import NOTICE
from lighttts.compat import cosyvoice_pb2, cosyvoice_pb2_grpc, riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput
from tests.support.fake_stages import Rig, Script, rig

HEADER = "x-synthetic-speech"
WAV = b"RIFF a recording"
CONFIG = tts_pb2.SynthesisConfig(seed=1)
FORM: dict[str, Any] = {"data": {"tts_text": "One.", "prompt_text": "hello"}, "files": {"prompt_wav": WAV}}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/audio/speech": {"json": {"input": "One."}},
    "/v1/text-to-speech/alloy": {"json": {"text": "One."}},
    "/v1/text-to-speech/alloy/stream/with-timestamps": {"json": {"text": "One."}},
    "/inference_zero_shot": FORM,
    "/synthesize_batch": {"json": {"texts": ["One."]}},
}
SOCKETS = ("/v1/conversation", "/inference_zero_shot_bistream", "/v1/text-to-speech/alloy/stream-input")


@asynccontextmanager
async def api(**settings: Any) -> AsyncIterator[tuple[Rig, grpc.aio.Channel, httpx.AsyncClient]]:
    """A rig, a gRPC channel and an HTTP client of CosyVoice's port."""
    async with rig(cosyvoice_port=0, **settings) as r:
        address = f"127.0.0.1:{r.gateway.cosyvoice_port}"
        async with (
            grpc.aio.insecure_channel(address) as channel,
            httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=None) as http,  # noqa: S113 - the rig has its own limit
        ):
            yield r, channel, http


def grpc_calls(r: Rig, channel: grpc.aio.Channel) -> dict[str, Any]:
    """Return a call of every gRPC method that speaks."""
    riva = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel)
    cosyvoice = cosyvoice_pb2_grpc.CosyVoiceStub(channel)
    asked = riva_tts_pb2.SynthesizeSpeechRequest(text="One.", sample_rate_hz=16000, language_code="en-US")
    sft = cosyvoice_pb2.Request(sft_request=cosyvoice_pb2.sftRequest(spk_id="anna", tts_text="One."))
    spoken = [
        tts_pb2.StreamingSynthesizeRequest(config=CONFIG),
        tts_pb2.StreamingSynthesizeRequest(text="One."),
        tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End()),
    ]
    return {
        "Synthesize": r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=CONFIG, text="One.")),
        "StreamingSynthesize": r.tts.StreamingSynthesize(iter(spoken)),
        "Riva Synthesize": riva.Synthesize(asked),
        "Riva SynthesizeOnline": riva.SynthesizeOnline(iter([asked])),
        "CosyVoice": cosyvoice.Inference(sft),
    }


async def stated(r: Rig, channel: grpc.aio.Channel, cosyvoice: httpx.AsyncClient) -> dict[str, str | None]:
    """Return what each way to get speech says of it."""
    found: dict[str, str | None] = {}
    for path, body in REQUESTS.items():
        answer = await r.http.post(path, **body)
        assert answer.status_code == 200, (path, answer.text)
        found[path] = answer.headers.get(HEADER)
    answer = await cosyvoice.post("/inference_sft", data={"tts_text": "One.", "spk_id": "anna"})
    found["/inference_sft"] = answer.headers.get(HEADER)
    for path in SOCKETS:
        async with connect(f"ws://127.0.0.1:{r.gateway.http_port}{path}", proxy=None) as socket:
            assert socket.response is not None
            found[path] = socket.response.headers.get(HEADER)
    for name, call in grpc_calls(r, channel).items():
        if hasattr(call, "__aiter__"):
            assert [answer async for answer in call]
        else:
            await call
        found[name] = dict(await call.trailing_metadata()).get(HEADER)
    return found


async def test_every_api_says_so() -> None:
    async with api() as (r, channel, cosyvoice):
        found = await stated(r, channel, cosyvoice)
        assert dict.fromkeys(found, "true") == found
        answers = [
            await r.http.post("/v1/audio/speech", json={"input": "One.", "voice": "none-such"}),
            await r.http.get("/v1/audio/voices"),
            await r.http.get("/v1/models"),
        ]
        assert [HEADER in answer.headers for answer in answers] == [False] * 3, "only answers with speech"
        riva = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel)
        call = riva.GetRivaSynthesisConfig(riva_tts_pb2.RivaSynthesisConfigRequest())
        await call
        assert HEADER not in dict(await call.trailing_metadata())


async def test_it_can_be_switched_off() -> None:
    async with api(provenance="off") as (r, channel, cosyvoice):
        found = await stated(r, channel, cosyvoice)
        assert dict.fromkeys(found) == found
        for format_ in ("mp3", "opus", "flac", "wav"):
            answer = await r.http.post("/v1/audio/speech", json={"input": "One.", "response_format": format_})
            assert b"synthetic" not in answer.content, format_


@pytest.mark.parametrize(("provenance", "wav"), [("on", False), ("all", True)])
async def test_files_carry_it(provenance: str, wav: bool) -> None:
    async with rig(provenance=provenance) as r:
        for format_, there in {"mp3": True, "opus": True, "flac": True, "wav": wav, "pcm": False}.items():
            for stream in (True, False):
                body = {"input": "One.", "response_format": format_, "stream": stream, "seed": 1}
                answer = await r.http.post("/v1/audio/speech", json=body)
                assert (NOTICE.encode() in answer.content) is there, (format_, stream)
                if format_ == "wav" and not stream:
                    samples, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16")
                    assert len(samples) == len("One.") * 240
        config = tts_pb2.SynthesisConfig(seed=1, audio=audio_pb2.AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_FLAC))
        call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=config, text="One."))
        assert NOTICE.encode() in b"".join([answer.audio.pcm async for answer in call]), "over gRPC too"


async def test_cached_speech_carries_it_and_is_the_same() -> None:
    async with rig(result_cache="memory") as r:
        body = {"input": "One.", "response_format": "mp3", "seed": 1}
        first, again = [await r.http.post("/v1/audio/speech", json=body) for _ in range(2)]
        assert len(r.llm.calls) == 1
        assert first.content == again.content
        assert NOTICE.encode() in again.content
        assert again.headers[HEADER] == "true"


async def test_speech_that_an_error_cuts_off_says_so_too() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(fail_at_hop=1, error=InvalidInput("broken off"))
        call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=CONFIG, text="One two three four five six seven."))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [answer async for answer in call]
        trailers = dict(caught.value.trailing_metadata() or ())
        assert trailers[HEADER] == "true"
        assert "grpc-status-details-bin" in trailers
