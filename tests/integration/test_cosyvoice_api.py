"""CosyVoice's gRPC and HTTP APIs on their one port, with clients written from the wire specification."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from lighttts.compat import cosyvoice_pb2, cosyvoice_pb2_grpc
from lighttts.v1 import llm_pb2
from services.common.rpc import channel_options
from tests.support.fake_stages import Rig, Script, ids_of, rig, until

PCM16K = b"\1\0" * 16000
WAV = b"RIFF a recording"
MODEL_SAMPLES = len("One.") * 240
SAMPLES = round(MODEL_SAMPLES * 22050 / 24000)

ZERO_SHOT = cosyvoice_pb2.Request(
    zero_shot_request=cosyvoice_pb2.zeroshotRequest(tts_text="One.", prompt_text="hello", prompt_audio=PCM16K)
)


@asynccontextmanager
async def api() -> AsyncIterator[tuple[Rig, Any, httpx.AsyncClient]]:
    """A rig, a gRPC stub and an HTTP client of the same port."""
    async with rig(cosyvoice_port=0) as r:
        address = f"127.0.0.1:{r.gateway.cosyvoice_port}"
        async with (
            grpc.aio.insecure_channel(address) as channel,
            httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=None) as http,  # noqa: S113 - the rig has its own limit
        ):
            yield r, cosyvoice_pb2_grpc.CosyVoiceStub(channel), http


async def speak(stub: Any, request: cosyvoice_pb2.Request) -> bytes:
    return b"".join([response.tts_audio async for response in stub.Inference(request)])


async def test_zero_shot_prompts_are_bare_samples() -> None:
    async with api() as (r, stub, _):
        assert len(await speak(stub, ZERO_SHOT)) == SAMPLES * 2
        ((header, parts),) = r.encode.uploads
        wav = b"".join(parts)
        assert header.transcript == "hello"
        assert (wav[:4], wav[24:28], wav[44:]) == (b"RIFF", (16000).to_bytes(4, "little"), PCM16K)
        assert r.llm.calls[0].start.prompt_use == llm_pb2.PROMPT_USE_ZERO_SHOT


async def test_every_mode_speaks_over_grpc() -> None:
    async with api() as (r, stub, _):
        sft = cosyvoice_pb2.sftRequest(spk_id="anna", tts_text="One.")
        cross = cosyvoice_pb2.crosslingualRequest(tts_text="One.", prompt_audio=PCM16K)
        instruct = cosyvoice_pb2.instructRequest(tts_text="One.", spk_id="hugo", instruct_text="sadly")
        for request in (
            cosyvoice_pb2.Request(sft_request=sft),
            cosyvoice_pb2.Request(cross_lingual_request=cross),
            cosyvoice_pb2.Request(instruct_request=instruct),
        ):
            assert len(await speak(stub, request)) == SAMPLES * 2
        uses = [call.start.prompt_use for call in r.llm.calls]
        timbre = llm_pb2.PROMPT_USE_TIMBRE
        assert uses == [llm_pb2.PROMPT_USE_ZERO_SHOT, timbre, timbre]
        assert [header.bundled_voice for header, _ in r.encode.uploads] == ["anna", "", "hugo"]


async def test_a_language_may_be_named() -> None:
    async with api() as (r, stub, http):
        sft = cosyvoice_pb2.Request(sft_request=cosyvoice_pb2.sftRequest(spk_id="anna", tts_text="One."))
        assert b"".join([part.tts_audio async for part in stub.Inference(sft, metadata=(("language", "de-DE"),))])
        form = {"tts_text": "One.", "spk_id": "anna"}
        assert (await http.post("/inference_sft", data=form | {"language": "fr"})).status_code == 200
        assert (await http.post("/inference_sft", data=form)).status_code == 200
        assert [start.language for start in r.encode.starts] == ["de-DE", "fr", ""]
        refused = await http.post("/inference_sft", data=form | {"language": "x!"})
        assert refused.status_code == 400
        assert "language" in refused.json()["message"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_every_mode_speaks_over_http(method: str) -> None:
    text, prompt = {"tts_text": "One."}, {"prompt_wav": ("prompt.wav", WAV)}
    async with api() as (r, _, http):
        for path, form, files in (
            ("/inference_sft", text | {"spk_id": "anna"}, None),
            ("/inference_zero_shot", text | {"prompt_text": "hello"}, prompt),
            ("/inference_cross_lingual", text, prompt),
            ("/inference_instruct", text | {"spk_id": "hugo", "instruct_text": "sadly"}, None),
            ("/inference_instruct2", text | {"instruct_text": "sadly"}, prompt),
        ):
            response = await http.request(method, path, data=form, files=files)
            assert (response.status_code, len(response.content)) == (200, SAMPLES * 2), path
            assert "content-length" not in response.headers, "always streamed"
        assert [call.ids for call in r.llm.calls] == [ids_of("One.")] * 5


@pytest.mark.parametrize(
    ("request_", "words", "field"),
    [
        (cosyvoice_pb2.Request(), "empty request", None),
        (cosyvoice_pb2.Request(sft_request=cosyvoice_pb2.sftRequest(spk_id="hugo")), "empty", "tts_text"),
        (
            cosyvoice_pb2.Request(sft_request=cosyvoice_pb2.sftRequest(spk_id="bob", tts_text="One.")),
            "known voices",
            "spk_id",
        ),
        (
            cosyvoice_pb2.Request(
                zero_shot_request=cosyvoice_pb2.zeroshotRequest(tts_text="a", prompt_text="b", prompt_audio=b"odd")
            ),
            "two each",
            "prompt_audio",
        ),
        (
            cosyvoice_pb2.Request(
                instruct_request=cosyvoice_pb2.instructRequest(tts_text="One.", spk_id="hugo", instruct_text=" ")
            ),
            "instruction is empty",
            "instruct_text",
        ),
    ],
)
async def test_bad_requests_get_a_status_that_names_the_field(
    request_: cosyvoice_pb2.Request, words: str, field: str | None
) -> None:
    async with api() as (_, stub, _http):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await speak(stub, request_)
        error = caught.value
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        assert words in str(error.details())
        details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
        assert field is None or field.encode() in details
        assert len(await speak(stub, ZERO_SHOT)) == SAMPLES * 2


async def test_invalid_forms_get_a_message() -> None:
    async with api() as (_, _stub, http):
        unknown = await http.post("/inference_sft", data={"tts_text": "One.", "spk_id": "bob"})
        assert unknown.status_code == 404
        assert "known voices" in unknown.json()["message"]
        missing = await http.post("/inference_cross_lingual", data={"tts_text": "One."})
        assert missing.json()["detail"][0]["loc"] == ["body", "prompt_wav"]
        assert (await http.get("/healthz")).status_code == 200


async def test_a_client_that_disconnects_frees_everything_through_the_shared_port() -> None:
    async with api() as (r, stub, _):
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        call = stub.Inference(ZERO_SHOT)
        await until(lambda: bool(r.llm.calls))
        call.cancel()
        await r.llm.calls[0].cancelled.wait()


async def test_a_preface_in_pieces_is_grpc_and_noise_is_refused() -> None:
    async with api() as (r, _, _http):
        reader, writer = await asyncio.open_connection("127.0.0.1", r.gateway.cosyvoice_port)
        for byte in (b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n", b"\r\n", b"\0\0\0\4\0\0\0\0\0"):
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(0)
        assert len(await reader.readexactly(9)) == 9, "the server's own settings frame"
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", r.gateway.cosyvoice_port)
        writer.write(b"PRIVET\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
        await writer.wait_closed()


async def test_large_prompts_pass_the_shared_port() -> None:
    async with rig(cosyvoice_port=0) as r:
        address = f"127.0.0.1:{r.gateway.cosyvoice_port}"
        async with grpc.aio.insecure_channel(address, options=channel_options(2**24)) as channel:
            request = cosyvoice_pb2.Request()
            request.CopyFrom(ZERO_SHOT)
            request.zero_shot_request.prompt_audio = PCM16K * 100
            stub: Any = cosyvoice_pb2_grpc.CosyVoiceStub(channel)
            assert len(await speak(stub, request)) == SAMPLES * 2
            ((_, parts),) = r.encode.uploads
            assert sum(map(len, parts)) == 44 + 3_200_000
