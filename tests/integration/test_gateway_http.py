"""The gateway's HTTP API over fake stages: LightTTS's routes, health, and errors for invalid input."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import numpy as np
import pytest

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from services.common.errors import Internal, NotFound, Unavailable
from services.common.server import ServiceServer
from services.common.start_error import StartError
from tests.support.fake_stages import STYLES, Rig, Script, ids_of, rig, until

WAV = b"RIFF a recording"
FORM = {"tts_text": "One. Two.", "prompt_text": "hello"}
LENGTH = len("One. Two.") * 240 * 2
START_LIMIT_SECONDS = 400


async def post(r: Rig, path: str = "/inference_zero_shot", audio: bytes | None = WAV, **fields: Any) -> httpx.Response:
    form = {name: value for name, value in (FORM | fields).items() if value is not None}
    files = None if audio is None else {"prompt_wav": ("prompt.wav", audio, "audio/wav")}
    return await r.http.post(path, data=form, files=files)


@pytest.mark.parametrize("path", ["/inference_zero_shot", "/inference_zero_shot/"])
@pytest.mark.parametrize("stream", ["True", "true", "1", "on", "false", "", None])
async def test_both_paths_return_raw_pcm(path: str, stream: str | None) -> None:
    async with rig() as r:
        response = await post(r, path, stream=stream)
        assert response.status_code == 200
        assert len(response.content) == LENGTH
        assert not response.content.startswith(b"RIFF")
        streamed = stream in ("True", "true", "1", "on")
        assert ("content-length" in response.headers) is not streamed
        ((header, parts),) = r.encode.uploads
        assert (header.transcript, b"".join(parts)) == ("hello", WAV)


async def test_streamed_audio_equals_the_whole_and_is_sent_before_the_end() -> None:
    async with rig() as r:
        release, later = asyncio.Event(), asyncio.Event()
        r.llm.scripts = {0: Script(hold={0: release}), 1: Script(hold={0: later})}
        request = asyncio.create_task(read_first(r))
        await until(lambda: len(r.llm.calls) == 1)
        assert not request.done(), "the status waits for the first audio"
        release.set()
        response, first, rest = await request
        assert first
        await until(lambda: len(r.llm.calls) == 2)
        assert not r.llm.calls[1].ended.is_set()
        later.set()
        pcm = np.frombuffer(first + b"".join([part async for part in rest]), "<i2")
        await response.aclose()
        assert len(pcm) * 2 == LENGTH


async def read_first(r: Rig, text: str = "One. Two.") -> tuple[httpx.Response, bytes, Any]:
    form = FORM | {"tts_text": text, "stream": "true"}
    files = {"prompt_wav": ("prompt.wav", WAV)}
    request = r.http.build_request("POST", "/inference_zero_shot", data=form, files=files)
    response = await r.http.send(request, stream=True)
    rest = response.aiter_bytes()
    return response, await anext(rest), rest


async def test_speed_and_style_reach_the_llm() -> None:
    async with rig() as r:
        await post(r, speed="1.5", tts_model_name="calm")
        assert (r.llm.calls[0].start.speed, r.llm.calls[0].start.style) == (1.5, "calm")
        await post(r, tts_model_name="default")
        assert r.llm.calls[-1].start.style == ""


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"tts_text": "?!"}, 400, "only punctuation"),
        ({"tts_text": " "}, 400, "empty"),
        ({"tts_text": "a" * 100_000}, 400, "20000"),
        ({"prompt_text": " "}, 400, "transcript"),
        ({"audio": b"BAD"}, 400, "not audio"),
        ({"audio": b""}, 400, "no audio"),
        ({"audio": b"x" * 3000}, 400, "2000 are allowed"),
        ({"audio": b"x" * 2_000_000}, 413, "less audio"),
        ({"speed": "2", "stream": "true"}, 400, "without stream"),
        ({"speed": "0"}, 400, "0.25 to 4"),
        ({"speed": "nan"}, 400, "0.25 to 4"),
        ({"speed": "-3"}, 400, "0.25 to 4"),
    ],
)
async def test_errors_name_what_to_change(fields: dict[str, Any], status: int, words: str) -> None:
    async with rig(max_prompt_bytes=2000) as r:
        response = await post(r, **fields)
        assert response.status_code == status
        assert list(response.json()) == ["message"]
        assert words in response.json()["message"]
        assert len((await post(r)).content) == LENGTH


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tts_text": None}, "tts_text"),
        ({"tts_text": ""}, "tts_text"),
        ({"prompt_text": None}, "prompt_text"),
        ({"audio": None}, "prompt_wav"),
        ({"stream": "perhaps"}, "stream"),
        ({"speed": "fast"}, "speed"),
    ],
)
async def test_invalid_forms_get_fastapi_s_error(fields: dict[str, Any], field: str) -> None:
    async with rig() as r:
        response = await post(r, **fields)
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", field]


@pytest.mark.parametrize("body", [b"", b"no form", b"--x\r\ncontent-disposition: form-data\r\n\r\nlost"])
async def test_bodies_that_are_not_a_form(body: bytes) -> None:
    async with rig() as r:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = await r.http.post("/inference_zero_shot", content=body, headers=headers)
        assert response.status_code in (400, 422)
        assert len((await post(r)).content) == LENGTH


async def test_an_upload_without_a_length_is_cut_at_the_limit() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield b'--x\r\ncontent-disposition: form-data; name="prompt_wav"; filename="a"\r\n\r\n'
        while True:
            sent += 2**16
            yield b"x" * 2**16

    async with rig(max_prompt_bytes=2000) as r:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        try:
            response = await r.http.post("/inference_zero_shot", content=endless(), headers=headers)
        except httpx.TransportError:
            pass  # the connection may be closed before the response is read
        else:
            assert response.status_code == 413
        assert sent < 50 * 2**20
        assert len((await post(r)).content) == LENGTH


@pytest.mark.parametrize(
    ("error", "whole", "streamed"),
    [
        (Internal("the model produced nothing", repeated=True), 417, 500),
        (NotFound("there is no style 'x'"), 404, 404),
        (Unavailable("no decode worker", retry_after=1.5), 503, 503),
    ],
)
async def test_an_error_before_the_first_audio_is_the_response(error: Any, whole: int, streamed: int) -> None:
    async with rig() as r:
        for number, (stream, status) in enumerate([("false", whole), ("true", streamed)]):
            # An utterance that a worker has accepted would wait in line for another worker after Unavailable.
            refused = isinstance(error, Unavailable)
            r.llm.scripts[number] = Script(refusal=error) if refused else Script(fail_at_hop=0, error=error)
            response = await post(r, stream=stream, tts_text="One.")
            assert (response.status_code, response.json()) == (status, {"message": error.message})
            assert response.headers.get("retry-after") == (None if error.retry_after is None else "2")


async def test_an_error_after_the_first_audio_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(fail_at_hop=1, error=Internal("broken", repeated=True), hold={1: asyncio.Event()})
        response, _, rest = await read_first(r, "A long sentence.")
        r.llm.scripts[0].hold[1].set()
        with pytest.raises(httpx.RemoteProtocolError):
            _ = [part async for part in rest]
        await response.aclose()
    # The API writes a line of its own; uvicorn's would raise alarms for what clients see as a cut.
    assert not any("without completing" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("stream", "hop"), [("false", 0), ("true", 0), ("true", 1), ("false", 1)])
async def test_a_client_that_disconnects_cancels_the_synthesis(stream: str, hop: int) -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={hop: asyncio.Event()})
        request = asyncio.create_task(post(r, stream=stream, tts_text="A long sentence."))
        await until(lambda: bool(r.llm.calls) and r.llm.calls[0].hops == hop)
        request.cancel()
        await r.llm.calls[0].cancelled.wait()
        await asyncio.wait({request})


async def test_a_stream_beyond_max_sessions_is_429() -> None:
    async with rig(max_sessions=1) as r:
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        running = asyncio.create_task(post(r, tts_text="One."))
        await until(lambda: len(r.llm.calls) == 1)
        response = await post(r)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        running.cancel()
        await asyncio.wait({running})


async def test_models_metrics_and_request_ids() -> None:
    async with rig() as r:
        for method in ("GET", "POST"):
            assert (await r.http.request(method, "/query_tts_model")).json() == {"tts_models": list(STYLES)}
        response = await r.http.post(
            "/inference_zero_shot", data=FORM, files={"prompt_wav": ("a", WAV)}, headers={"x-request-id": "mine-1"}
        )
        assert response.headers["x-request-id"] == "mine-1"
        assert r.llm.calls[0].start.request_id == "mine-1"
        assert r.llm.calls[0].ids == ids_of("One.")
        strange = await r.http.get("/liveness", headers=[(b"x-request-id", "ü".encode("latin-1"))])
        assert len(strange.headers["x-request-id"]) == 32
        metrics = (await r.http.get("/metrics")).text
        assert "lighttts_gateway_time_to_first_audio_seconds_count" in metrics
        assert "lighttts_gateway_sessions_active 0.0" in metrics


async def test_a_path_or_a_method_that_is_not_served_is_named() -> None:
    """Clients of OpenAI get such an answer if their base URL has no /v1."""
    async with rig() as r:
        missing = await r.http.post("/audio/speech", json={})
        assert missing.status_code == 404
        assert missing.json()["message"].startswith("nothing is served at '/audio/speech'; ")
        wrong = await r.http.put("/v1/audio/speech", json={})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
        assert wrong.json()["error"]["message"].startswith("'/v1/audio/speech' does not take PUT; ")


@pytest.mark.parametrize("name", ["port", "http_port"])
async def test_a_port_in_use_is_a_clear_error(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        ports = {"port": 0, "http_port": 0, "cosyvoice_port": 0, name: taken.getsockname()[1]}
        settings = GatewaySettings.model_validate(ports)
        server = ServiceServer(GatewayService(settings), settings)
        with pytest.raises(StartError, match=f"LIGHTTTS_{name.upper()}"):
            await asyncio.wait_for(server.start(), START_LIMIT_SECONDS)  # a start that shares the port waits for encode
        await server.close()


async def test_a_malformed_target_is_a_clear_error() -> None:
    with pytest.raises(StartError, match="LIGHTTTS_LLM_TARGET"):
        GatewayService(GatewaySettings(llm_target="http://llm"))
