"""The device of each process of a stack, and a stack of which one process does not start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cli.local.ports import free_ports
from cli.local.process import Worker, WorkerError, is_serving
from cli.local.stack import Stack, StackConfig
from tests.unit.cli.test_worker import Events

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
        assert [await is_serving(worker.address) for worker in stack.decode] == [True, False, True]
        assert await is_serving(stack.gateway.address)
        event = next(event for event in events.seen if event.kind == "died")
        assert (event.worker, "no such file" in event.detail) == ("decode-2", True)
        stand_in(failing)  # for example, its GPU is available again
        await events.wait_for("serving", times=6)
        assert await is_serving(failing.address)


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
