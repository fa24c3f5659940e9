"""The life cycle of a service: loading, serving, draining, stopping, and starts that fail with a reason."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cli.local.ports import free_ports
from lighttts.v1 import decode_pb2, decode_pb2_grpc, encode_pb2, encode_pb2_grpc
from services.common.checkpoint.model_dir import ModelDirError
from services.common.errors import InvalidInput, LightTtsError, NotFound, Overloaded, Unavailable, from_rpc_error
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from services.common.start_error import StartError
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings
from tests.support.llm import until

ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
QUICK = {"drain_notice_seconds": 0.0, "drain_grace_seconds": 600.0}


class Loadable(encode_pb2_grpc.EncodeServicer, decode_pb2_grpc.DecodeServicer):
    """A service whose loading, draining and answers the test controls."""

    name = "loadable"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Encode", "lighttts.v1.Decode")

    def __init__(self) -> None:
        self.loaded, self.drained, self.answer = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.draining = self.cancelled = False
        self.closed = 0
        self.error: Exception | None = None

    def register(self, server: grpc.aio.Server) -> None:
        encode_pb2_grpc.add_EncodeServicer_to_server(self, server)
        decode_pb2_grpc.add_DecodeServicer_to_server(self, server)

    async def start(self) -> None:
        await self.loaded.wait()
        if self.error is not None:
            raise self.error

    async def drain(self) -> None:
        self.draining = True
        await self.drained.wait()

    async def close(self) -> None:
        self.closed += 1

    async def DescribeModel(self, request: Any, context: Any) -> encode_pb2.DescribeModelResponse:
        if self.error is not None:
            raise self.error
        return encode_pb2.DescribeModelResponse(name="here")

    async def Decode(self, request_iterator: Any, context: Any) -> AsyncGenerator[decode_pb2.DecodeResponse]:
        yield decode_pb2.DecodeResponse(started=decode_pb2.DecodeStarted(worker="one"))
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        yield decode_pb2.DecodeResponse(started=decode_pb2.DecodeStarted(worker="two"))


@asynccontextmanager
async def running(
    service: Loadable, *, wait: bool = True, **settings: Any
) -> AsyncIterator[tuple[ServiceServer, grpc.aio.Channel]]:
    server = ServiceServer(service, ServiceSettings(**(QUICK | settings)))
    async with asyncio.timeout(400):
        starting = asyncio.create_task(server.start())
        try:
            if wait:
                service.loaded.set()
                await starting
            else:
                await until(lambda: server.port != 0)
            async with grpc.aio.insecure_channel(server.address) as channel:
                yield server, channel
        finally:
            service.loaded.set()
            await asyncio.gather(starting, return_exceptions=True)
            await server.close()


def describe(channel: grpc.aio.Channel) -> Any:
    return encode_pb2_grpc.EncodeStub(channel).DescribeModel(encode_pb2.DescribeModelRequest())


async def failure(call: Any) -> LightTtsError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def watch(channel: grpc.aio.Channel, service: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service))


@pytest.mark.parametrize("name", ["", *Loadable.rpc_services])
async def test_health_reports_loading_serving_and_draining(name: str) -> None:
    service = Loadable()
    async with running(service, wait=False) as (server, channel):
        health = watch(channel, name)
        assert (await health.read()).status == NOT_SERVING
        service.loaded.set()
        assert (await health.read()).status == SERVING
        draining = asyncio.create_task(server.drain())
        assert (await health.read()).status == NOT_SERVING
        service.drained.set()
        await draining


async def test_calls_are_refused_while_loading_and_draining() -> None:
    service = Loadable()
    async with running(service, wait=False) as (server, channel):
        error = await failure(describe(channel))
        assert isinstance(error, Unavailable)
        assert (error.message, error.retry_after) == ("loading the model; try again shortly", 1.0)
        service.loaded.set()
        health = watch(channel, "")
        while (await health.read()).status != SERVING:
            pass
        assert (await describe(channel)).name == "here"
        stream = decode_pb2_grpc.DecodeStub(channel).Decode()
        await stream.read()
        draining = asyncio.create_task(server.drain())
        for step in ("the service hands over", "streams finish"):
            await until(lambda: service.draining)
            error = await failure(describe(channel))
            assert isinstance(error, Unavailable), step
            assert (error.message, error.retry_after) == ("draining; another worker will serve you", 1.0)
            service.drained.set()
        service.answer.set()
        await draining
    assert service.closed == 1


async def test_a_running_stream_finishes_and_then_the_drain_ends() -> None:
    """The grace period is ten minutes: a drain must not wait for its end because of a health watch."""
    service = Loadable()
    async with running(service) as (server, channel):
        health = watch(channel, "")
        await health.read()
        stream: Any = decode_pb2_grpc.DecodeStub(channel).Decode()
        assert (await stream.read()).started.worker == "one"
        service.drained.set()
        draining = asyncio.create_task(server.drain())
        await until(lambda: service.draining)
        assert not draining.done()
        service.answer.set()
        assert (await stream.read()).started.worker == "two"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        await draining
    assert not service.cancelled


async def test_a_stream_beyond_the_grace_is_cancelled() -> None:
    service = Loadable()
    service.drained.set()
    async with running(service, drain_grace_seconds=0.05) as (server, channel):
        stream = decode_pb2_grpc.DecodeStub(channel).Decode()
        await stream.read()
        await server.drain()
        await until(lambda: service.cancelled)
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()


async def test_reflection_lists_the_services() -> None:
    async with running(Loadable()) as (_, channel):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        call.cancel()
    assert {*Loadable.rpc_services, "grpc.health.v1.Health"} <= listed


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("speed 9 is out of range; send 0.5 to 2", field="speed"),
        NotFound("there is no voice 'x'", field="voice_name"),
        Overloaded("too many", retry_after=2.5),
        Overloaded("too many"),
        Unavailable("nobody is here", retry_after=0.25),
        Unavailable("nobody is here; Ünïcödé"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.retry_after}",
)
@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_every_error_keeps_its_meaning_over_the_wire(error: LightTtsError, kind: str) -> None:
    service = Loadable()
    async with running(service) as (_, channel):
        service.error = error
        service.answer.set()
        if kind == "unary":
            call = describe(channel)
            received = await failure(call)
        else:
            call = decode_pb2_grpc.DecodeStub(channel).Decode()
            await call.read()
            received = await failure(call.read())
        assert await call.code() is error.code
    assert type(received) is type(error)
    assert (received.message, received.field, received.retry_after) == (error.message, error.field, error.retry_after)


async def test_a_defect_is_internal_without_details_and_ends_only_its_call() -> None:
    service = Loadable()
    async with running(service) as (_, channel):
        service.error = RuntimeError("the secret path /etc/secret")
        stub = encode_pb2_grpc.EncodeStub(channel)
        call = stub.DescribeModel(encode_pb2.DescribeModelRequest(), metadata=(("x-request-id", "abc123"),))
        error = await failure(call)
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in error.message
        assert "abc123" in error.message
        service.error = None
        assert (await describe(channel)).name == "here"


async def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    async with running(Loadable()) as (first, _):
        second = ServiceServer(Loadable(), ServiceSettings(port=first.port))
        with pytest.raises(StartError, match=rf"cannot listen on 127\.0\.0\.1:{first.port}.*LIGHTTTS_PORT"):
            await second.start()
        await second.close()


# Separate processes. They inherit no settings of this machine.


def command(service: str, *flags: str) -> tuple[list[str], dict[str, str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTTTS_")}
    return [sys.executable, "-m", f"services.{service}", "--log-format", "json", *flags], environment


def fails(service: str, *flags: str) -> str:
    """Run a service that cannot start; return the reason in the last line of its log."""
    line, environment = command(service, "--port", "0", *flags)
    done = subprocess.run(
        line,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done.stderr
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["event"] == "cannot start"
    assert "Traceback" not in done.stderr
    return str(last["reason"])


def damaged_copy(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> Path:
    """Link the tiny model's files, with one of them damaged."""
    copy = tmp_path / "model"
    shutil.copytree(ROOT / "models" / "tiny", copy, copy_function=os.link)
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    (copy / name).write_bytes(content)
    damage(copy / name)
    return copy


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_missing_model_directory_ends_the_process_with_the_reason() -> None:
    assert "/nonexistent does not exist; set LIGHTTTS_MODEL_DIR" in fails("encode", "--model-dir", "/nonexistent")


def test_damaged_weights_end_the_process_with_the_files_name(tmp_path: Path) -> None:
    model = damaged_copy(tmp_path, "llm.pt", cut)
    reason = fails("llm", "--model-dir", str(model))
    assert str(model / "llm.pt") in reason
    assert "fetch it again" in reason


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("campplus.onnx", cut),
        ("speech_tokenizer_v2.onnx", cut),
        ("CosyVoice-BlankEN/tokenizer.json", cut),
        ("CosyVoice-BlankEN/config.json", cut),
        ("cosyvoice2.yaml", lambda path: path.write_text("llm: [")),
        ("prompt_anna.wav", lambda path: path.write_bytes(b"RIFF")),
    ],
    ids=range(6),
)
async def test_a_damaged_file_of_the_encode_service_is_named(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    model = damaged_copy(tmp_path, file, damage)
    service = EncodeService(EncodeSettings(model_dir=model, port=0))
    with pytest.raises((ModelDirError, StartError)) as caught:
        await service.start()
    await service.close()
    tokenizer = str(model / "CosyVoice-BlankEN")
    named = {"prompt_anna.wav": "voice 'anna'", "CosyVoice-BlankEN/tokenizer.json": tokenizer}.get(
        file, str(model / file)
    )
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_request_tokens": 99999}, "max_request_tokens 99999 must fit into total_tokens"),
        ({"decode_target": "somewhere"}, "LIGHTTTS_DECODE_TARGET"),
        ({"llm_backend": "simulated"}, "LIGHTTTS_LLM_COST_FILE"),
        ({"llm_backend": "simulated", "llm_cost_file": Path("/nonexistent.json")}, "/nonexistent.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
async def test_settings_that_cannot_work_are_named(changes: dict[str, Any], words: str) -> None:
    service = LlmService(LlmSettings(**changes))
    with pytest.raises(StartError, match=words):
        await service.start()
    await service.close()


def test_metrics_are_served_and_sigterm_ends_the_process_with_0(tmp_path: Path) -> None:
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps({"step_s": 0.001, "step_s_per_sequence": 0, "prefill_s_per_token": 0}))
    ports = free_ports(1).llm
    port, metrics_port = ports.grpc, ports.metrics
    # The health watch below continues, and must not delay the end.
    draining = ("--drain-notice-seconds", "0", "--drain-grace-seconds", "3600")
    flags = ("--port", str(port), "--metrics-port", str(metrics_port), *draining)
    line, environment = command("llm", *flags, "--llm-backend", "simulated", "--llm-cost-file", str(costs))
    with subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                request = health_pb2.HealthCheckRequest(service="lighttts.v1.Llm")
                stub: Any = health_pb2_grpc.HealthStub(channel)
                watching = stub.Watch(request, wait_for_ready=True, timeout=3600)
                assert any(response.status == SERVING for response in watching)
                with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=400) as answer:
                    text = answer.read().decode()
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=400) == 0
            events = [json.loads(entry)["event"] for entry in process.stderr or () if entry.startswith("{")]
        finally:
            process.kill()
    assert "lighttts_ready 1.0" in text
    assert "lighttts_llm_kv_blocks " in text
    assert [event for event in events if event in ("serving", "draining", "stopped")] == [
        "serving",
        "draining",
        "stopped",
    ]
