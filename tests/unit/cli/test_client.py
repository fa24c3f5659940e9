"""The client with a gateway that answers from a script, over gRPC on loopback."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
import soundfile
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from typer.testing import CliRunner

from cli import say
from cli.app import app
from cli.client import Access, ClientError, check_health, list_voices, speak
from cli.local.ports import free_ports
from cli.say import make_config, say_to_file
from gateway.audio.notice import NOTICE
from lighttts.v1 import tts_pb2, tts_pb2_grpc
from lighttts.v1.audio_pb2 import AudioChunk
from services.common.end_to_end import GATEWAY_END_TO_END
from services.common.errors import InvalidInput, Overloaded, Unavailable, to_status

PCM = np.arange(-300, 300, dtype="<i2")


class ScriptedGateway(tts_pb2_grpc.TextToSpeechServicer, tts_pb2_grpc.VoicesServicer):
    """Sends two chunks for every text except the words that make it refuse."""

    def __init__(self) -> None:
        self.requests: list[tts_pb2.StreamingSynthesizeRequest] = []
        self.refusals = 2
        self.warning = "clipped"
        self.description = ""

    async def StreamingSynthesize(self, request_iterator, context):  # type: ignore[no-untyped-def]
        self.requests = [request async for request in request_iterator]
        text = self.requests[1].text
        if text == "wait" and self.refusals:
            self.refusals -= 1
            await context.abort_with_status(rpc_status.to_status(to_status(Unavailable("no worker yet"))))
        if text == "refuse":
            error = InvalidInput("no such voice", field="voice_name")
            await context.abort_with_status(rpc_status.to_status(to_status(error)))
        yield tts_pb2.StreamingSynthesizeResponse(started=tts_pb2.Started(sample_rate=24000, seed=7))
        for sequence, part in enumerate(np.split(PCM, 2)):
            chunk = AudioChunk(sequence=sequence, first_sample=300 * sequence, pcm=part.tobytes(), sample_rate=24000)
            yield tts_pb2.StreamingSynthesizeResponse(audio=chunk)
            if text == "break":
                await context.abort_with_status(rpc_status.to_status(to_status(Overloaded("full", retry_after=2.0))))
        yield tts_pb2.StreamingSynthesizeResponse(audio=AudioChunk(last=True, sample_rate=24000))
        yield tts_pb2.StreamingSynthesizeResponse(warning=tts_pb2.Warning(message=self.warning))
        yield tts_pb2.StreamingSynthesizeResponse(finished=tts_pb2.Finished(decode_workers=["decode-1"]))

    async def ListVoices(self, request, context):  # type: ignore[no-untyped-def]
        return tts_pb2.ListVoicesResponse(
            voices=[tts_pb2.Voice(name="anna", description=self.description)], default_voice="anna"
        )


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
async def server(gateway: ScriptedGateway) -> AsyncIterator[str]:
    server = grpc.aio.server()
    tts_pb2_grpc.add_TextToSpeechServicer_to_server(gateway, server)
    tts_pb2_grpc.add_VoicesServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def test_speech_is_written_and_counted(server: str, gateway: ScriptedGateway, tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    config = make_config("anna", None, None, seed=0, speed=1.5)
    speech = await say_to_file(server, config, "Hello.", path)
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 24000
    np.testing.assert_array_equal(samples, PCM)
    assert soundfile.SoundFile(path).comment == NOTICE, "the file says that its speech is synthetic"
    assert (speech.chunks, speech.samples, speech.seed) == (2, 600, 7)
    assert speech.audio_seconds == 600 / 24000
    assert speech.decode_workers == ["decode-1"]
    assert speech.warnings == ["clipped"]
    assert 0 < speech.time_to_first_audio <= speech.seconds_spent
    sent = gateway.requests[0].config
    assert (sent.voice_name, sent.speed, sent.HasField("seed")) == ("anna", 1.5, True)
    assert [request.WhichOneof("request") for request in gateway.requests] == ["config", "text", "end"]


async def test_a_refusal_is_reported_and_the_file_is_unchanged(server: str, tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.write_bytes(b"kept")
    with pytest.raises(ClientError, match="INVALID_ARGUMENT: no such voice"):
        await say_to_file(server, make_config("anna", None, None, None, 1.0), "refuse", path)
    assert path.read_bytes() == b"kept"


async def test_audio_received_before_a_failure_is_kept(server: str, tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    with pytest.raises(ClientError, match=r"RESOURCE_EXHAUSTED: full \(try again in 2 s\)"):
        await say_to_file(server, make_config("anna", None, None, None, 1.0), "break", path)
    assert soundfile.info(path).frames == 300


async def test_an_unwritable_file_is_reported(server: str, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot write"):
        await say_to_file(server, make_config(None, None, None, None, 1.0), "Hello.", tmp_path / "no" / "out.wav")


async def test_a_file_s_name_need_not_be_utf_8(server: str, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.wav")
    await say_to_file(server, make_config("anna", None, None, None, 1.0), "Hello.", path)
    assert path.read_bytes().startswith(b"RIFF")


async def test_voices_are_listed(server: str) -> None:
    assert (await list_voices(server)).default_voice == "anna"


async def test_a_starting_gateway_is_waited_for(
    gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(say, "RETRY_SECONDS", 0.01)
    address = f"127.0.0.1:{free_ports(1).gateway.grpc}"
    config = make_config(None, None, None, None, 1.0)
    speaking = asyncio.create_task(say_to_file(address, config, "wait", tmp_path / "out.wav", 30.0))
    server = grpc.aio.server()
    tts_pb2_grpc.add_TextToSpeechServicer_to_server(gateway, server)
    server.add_insecure_port(address)
    await server.start()
    assert (await speaking).samples == 600
    assert gateway.refusals == 0
    await server.stop(0)


@pytest.mark.parametrize("status", ["SERVING", "NOT_SERVING"])
async def test_a_gateway_that_does_not_serve_is_reported(status: str) -> None:
    answers = health.aio.HealthServicer()
    await answers.set("", health_pb2.HealthCheckResponse.SERVING)
    await answers.set(GATEWAY_END_TO_END, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(answers, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    expected = pytest.raises(ClientError, match="reports NOT_SERVING") if status == "NOT_SERVING" else nullcontext()
    with expected:
        await check_health(address)
    await server.stop(0)


async def test_an_unreadable_authority_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTTTS_SERVER_CA", "/nonexistent")
    with pytest.raises(ClientError, match="cannot read the authority's certificate /nonexistent"):
        await list_voices("https://127.0.0.1:1")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1", "is not an address; write host:port"),
        ("127.0.0.1:99999", "is not an address"),
        ("gateway.invalid:50050", "the host gateway.invalid was not found"),
        ("gate..way:50050", "the host gate..way was not found"),
    ],
)
async def test_a_wrong_address_is_reported(address: str, words: str) -> None:
    with pytest.raises(ClientError, match=words):
        await list_voices(address)


async def test_a_missing_gateway_is_reported() -> None:
    address = f"127.0.0.1:{free_ports(1).gateway.grpc}"
    with pytest.raises(ClientError, match=r"no gateway answers .*light-tts up"):
        await speak(address, tts_pb2.SynthesisConfig(), "Hello.", lambda audio: None)


def test_a_prompt_needs_recording_and_words(tmp_path: Path) -> None:
    recording = tmp_path / "prompt.wav"
    with pytest.raises(ClientError, match="need each other"):
        make_config(None, recording, None, None, 1.0)
    with pytest.raises(ClientError, match="exclude each other"):
        make_config("anna", recording, "Words.", None, 1.0)
    with pytest.raises(ClientError, match="cannot read"):
        make_config(None, recording, "Words.", None, 1.0)
    recording.write_bytes(b"RIFF")
    config = make_config(None, recording, "Words.", None, 1.0)
    assert (config.prompt.audio, config.prompt.transcript) == (b"RIFF", "Words.")


async def test_brackets_of_a_gateway_s_texts_are_shown(gateway: ScriptedGateway, server: str, tmp_path: Path) -> None:
    """Rich, which prints the tables, reads brackets as its markup."""
    gateway.warning = gateway.description = "it has no [laughter] and no [/b]"
    say_it = ["say", "Hello.", "--out", str(tmp_path / "out.wav"), "--server", server]
    for arguments in (say_it, ["voices", "--server", server]):
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == 0
        assert "[laughter] and no [/b]" in result.output


@pytest.mark.parametrize("arguments", [["\udcff"], ["Hi.", "--voice", "\udcff"], ["Hi.", "--prompt-text", "\udcff"]])
async def test_a_text_that_is_not_utf_8_is_reported(server: str, tmp_path: Path, arguments: list[str]) -> None:
    command = ["say", *arguments, "--out", str(tmp_path / "out.wav"), "--server", server]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 1
    assert "is not UTF-8 text" in result.output


@pytest.mark.parametrize("key", ["secret\n", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_reported(key: str) -> None:
    with pytest.raises(ClientError, match="the API key has a line break"):
        Access("127.0.0.1:1", key=key)
