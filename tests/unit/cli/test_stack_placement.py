"""The device of each process of a stack, and a stack of which one process does not start."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cli.local.ports import default_ports, free_ports
from cli.local.process import Worker, WorkerError, is_serving
from cli.local.stack import Stack, StackConfig
from tests.unit.cli.test_worker import PATIENCE, Events

FAILURE = '{"event": "no such file", "level": "error"}'


def flag(flags: tuple[str, ...], name: str) -> str | None:
    return flags[flags.index(name) + 1] if name in flags else None


@pytest.mark.parametrize(
    ("devices", "workers", "placed", "shares", "llm_share"),
    [
        ((), 2, [None, None], ["0.5", "0.5"], "0.5"),
        (("cuda:0", "cuda:1", "cuda:2"), 3, ["cuda:0", "cuda:1", "cuda:2"], ["0.8", "0.95", "0.95"], "0.15"),
        (("cuda:0",), 3, ["cuda:0"] * 3, ["0.27"] * 3, "0.15"),
        (("cuda:0", "cuda:1"), 1, ["cuda:0"], ["0.8"], "0.15"),
    ],
)
def test_devices_are_assigned_round_robin_and_shared(
    devices: tuple[str, ...], workers: int, placed: list[str | None], shares: list[str], llm_share: str
) -> None:
    stack = Stack(StackConfig(decode_workers=workers, devices=devices))
    assert [flag(worker.spec.flags, "--device") for worker in stack.decode] == placed
    assert [flag(worker.spec.flags, "--decode-memory-fraction") for worker in stack.decode] == shares
    assert flag(stack.llm.spec.flags, "--device") == (devices[0] if devices else None)
    assert flag(stack.llm.spec.flags, "--llm-memory-fraction") == llm_share


@pytest.mark.parametrize(("name", "scheme"), [("PUBLIC_TLS_CERT", "https"), ("TLS_CERT", "http"), ("", "http")])
def test_with_certificates_health_is_checked_at_ports_without_tls(
    name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name:
        monkeypatch.setenv(f"LIGHTTTS_{name}", "/tls/tls.crt")
    stack = Stack(StackConfig(decode_workers=1))
    for worker in stack.workers():
        port = flag(worker.spec.flags, "--health-port")
        assert worker.health == (worker.address if port is None else f"127.0.0.1:{port}")
        assert (worker.health != worker.address) == bool(name)
    assert stack.http_url == f"{scheme}://127.0.0.1:{stack.ports.http}"


def stand_in(worker: Worker, *flags: str) -> None:
    """Replace a worker by a process that only answers health checks, or with `--fail` one that ends at once."""
    port = worker.address.rpartition(":")[2]
    worker.spec = replace(worker.spec, module="tests.unit.cli.fake_service", flags=("--port", port, *flags))


def of_stand_ins(tmp_path: Path, events: Events) -> Stack:
    stack = Stack(StackConfig(decode_workers=3, ports=free_ports(3), log_dir=tmp_path), events)
    for worker in stack.workers():
        stand_in(worker)
    return stack


async def test_the_others_serve_when_a_worker_does_not_start(tmp_path: Path) -> None:
    events = Events()
    stack = of_stand_ins(tmp_path, events)
    failing = stack.decode[1]
    stand_in(failing, "--fail", FAILURE)
    async with stack:
        assert [await is_serving(worker.address, seconds=PATIENCE) for worker in stack.decode] == [True, False, True]
        assert await is_serving(stack.gateway.address, seconds=PATIENCE)
        event = next(event for event in events.seen if event.kind == "died")
        assert (event.worker, "no such file" in event.detail) == ("decode-2", True)
        stand_in(failing)  # for example, its GPU is available again
        await events.wait_for("serving", times=6)
        assert await is_serving(failing.address, seconds=PATIENCE)


async def test_a_stack_whose_gateway_cannot_speak_does_not_start(tmp_path: Path) -> None:
    stack = of_stand_ins(tmp_path, Events())
    stand_in(stack.gateway, "--unable")
    stack.config = replace(stack.config, start_timeout=0.2)
    with pytest.raises(WorkerError, match="no text could be spoken"):
        async with stack:
            pass
    assert all(worker.pid is None for worker in stack.workers())


async def test_the_gateway_stops_first(tmp_path: Path) -> None:
    events = Events()
    stack = of_stand_ins(tmp_path, events)
    stand_in(stack.gateway, "--linger", "0.5")
    async with stack:
        pass
    stopped = [event for event in events.seen if event.kind == "stopped"]
    assert (len(stopped), stopped[0].worker) == (6, "gateway")
    assert {event.detail for event in stopped} == {"exit code 0"}


async def test_a_cancelled_stop_leaves_no_process(tmp_path: Path) -> None:
    stack = of_stand_ins(tmp_path, Events())
    stand_in(stack.gateway, "--deaf")
    async with stack:
        closing = asyncio.create_task(stack.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert all(worker.pid is None for worker in stack.workers())


@pytest.mark.parametrize(
    ("environment", "configured", "grace"),
    [({}, None, "5.0"), ({"LIGHTTTS_DRAIN_GRACE_SECONDS": "70"}, None, "70.0"), ({}, 80.0, "80.0")],
)
async def test_streams_have_the_drain_grace_that_the_operator_sets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    configured: float | None,
    grace: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stack = Stack(StackConfig(log_dir=tmp_path, drain_grace=configured))
    assert {flag(worker.spec.flags, "--drain-grace-seconds") for worker in stack.workers()} == {grace}
    waits: list[float] = []

    async def stop(wait: float) -> None:
        waits.append(wait)

    for worker in stack.workers():
        monkeypatch.setattr(worker, "stop", stop)
    await stack.close()
    assert all(wait > float(grace) for wait in waits)


@pytest.mark.parametrize("broken", ["decode", "encode"])
async def test_a_stack_without_a_necessary_process_does_not_start(tmp_path: Path, broken: str) -> None:
    stack = of_stand_ins(tmp_path, Events())
    for worker in stack.workers():
        if worker.name.startswith(broken):
            stand_in(worker, "--fail", FAILURE)
    with pytest.raises(WorkerError, match="no such file"):
        async with stack:
            pass
    assert all(worker.pid is None for worker in stack.workers())


def test_the_addresses_of_every_api_are_named() -> None:
    stack = Stack(StackConfig(ports=default_ports(2)))
    assert dict(stack.addresses) == {
        "127.0.0.1:50050": "gRPC: light-tts, NVIDIA Riva",
        "http://127.0.0.1:8080/v1": "OpenAI, ElevenLabs",
        "http://127.0.0.1:8080": "LightTTS, and a test page",
        "ws://127.0.0.1:8080/v1/conversation": "light-tts, as over gRPC, in JSON and binary frames",
        "ws://127.0.0.1:8080/inference_zero_shot_bistream": "LightTTS, text word by word",
        "127.0.0.1:50000": "CosyVoice: gRPC and HTTP",
    }
    without = Stack(StackConfig(ports=default_ports(2).with_gateway(None, None, 0)))
    assert not any("CosyVoice" in apis for _, apis in without.addresses)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_dialled_in_brackets(host: str) -> None:
    stack = Stack(StackConfig(ports=default_ports(2), gateway_host=host))
    assert stack.gateway.address == "[::1]:50050"
    assert stack.http_url == "http://[::1]:8080"
