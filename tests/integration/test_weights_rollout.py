"""A rollout of other weights: a draining decode worker keeps the utterances that its successors cannot continue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import services.decode.server
from lighttts.v1 import llm_pb2
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from tests.integration.test_llm_streaming import converse, interleaved
from tests.integration.test_state_mismatch import weights as set_weights
from tests.support.llm import TEXT, TINY, Llm, Spoken, all_free, all_serving, llm_service, metric, text_message, until

__all__ = ["interleaved"]
HEARD = 15
"""Text ids that are enough for audio, and too few for all of it."""
TOO_FEW = 5
"""Text ids that are too few for audio."""


@dataclass
class Worker:
    """A decode service with the simulated backend; `drain` is what SIGTERM starts in its process."""

    server: ServiceServer
    weights: int
    draining: asyncio.Task[None] | None = None

    def drain(self) -> None:
        self.draining = asyncio.create_task(self.server.drain())


@asynccontextmanager
async def rollout(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, *weights_of: int
) -> AsyncIterator[tuple[Llm, dict[str, Worker]]]:
    """An llm service over one decode service for each of `weights_of`, by name."""
    costs = tmp_path / "decode.json"
    costs.write_text('{"batch_s": 0.001, "stream_s": 0, "frame_s": 0}')
    async with AsyncExitStack() as opened:

        async def start(name: str, weights: int) -> Worker:
            settings = DecodeSettings(
                port=0,
                model_dir=TINY,
                decode_backend="simulated",
                decode_cost_file=costs,
                heartbeat_seconds=0.02,
                drain_notice_seconds=0.0,
                worker_name=name,
            )
            server = ServiceServer(DecodeService(settings), settings)
            opened.push_async_callback(server.close)
            await server.start()
            return Worker(server, weights)

        workers = {}
        for number, value in enumerate(weights_of):
            set_weights(monkeypatch, services.decode.server, value)
            workers[f"decode-{number}"] = await start(f"decode-{number}", value)
        addresses = [one.server.address for one in workers.values()]
        llm = await opened.enter_async_context(llm_service(tmp_path, *addresses, model_dir=model_dir))
        await all_serving(addresses)
        yield llm, workers
        drains = [one.draining for one in workers.values() if one.draining is not None]
        await asyncio.gather(*drains)


async def speak(llm: Llm, begun: int, then: Callable[[Spoken], Awaitable[None]]) -> Spoken:
    """Speak TEXT of which the first `begun` ids are there at first; the others follow after `then`."""
    spoken = Spoken()

    async def text() -> AsyncIterator[llm_pb2.GenerateRequest]:
        yield text_message(TEXT[:begun], last=False)
        await until(lambda: bool(spoken.audio if begun == HEARD else spoken.started))
        await then(spoken)
        yield text_message(TEXT[begun:])

    await converse(llm, spoken, text(), text_order=llm_pb2.TEXT_ORDER_INTERLEAVED)
    await all_free()
    return spoken


async def undisturbed(spoken: Spoken) -> None: ...


def refused() -> float:
    return metric("lighttts_rpc_finished_total", method="/lighttts.v1.Decode/Decode", code="UNAVAILABLE")


async def test_a_draining_worker_keeps_what_was_heard_if_its_successor_has_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interleaved: Path
) -> None:
    async with rollout(tmp_path, interleaved, monkeypatch, 1, 2) as (llm, workers):
        whole = await speak(llm, HEARD, undisturbed)
        before = refused()

        async def drain(spoken: Spoken) -> None:
            workers[spoken.started[0].decode_worker].drain()
            await until(lambda: refused() > before)  # by the worker of other weights

        spoken = await speak(llm, HEARD, drain)
    assert np.array_equal(spoken.samples, whole.samples)
    assert len(spoken.started) == 1
    assert not spoken.moved


async def test_a_draining_worker_is_left_for_one_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interleaved: Path
) -> None:
    async with rollout(tmp_path, interleaved, monkeypatch, 1, 2, 1, 2) as (llm, workers):
        whole = await speak(llm, HEARD, undisturbed)

        async def drain(spoken: Spoken) -> None:
            workers[spoken.started[0].decode_worker].drain()
            await until(lambda: bool(spoken.moved))

        spoken = await speak(llm, HEARD, drain)
    assert np.array_equal(spoken.samples, whole.samples)
    assert [workers[move.to_worker].weights for move in spoken.moved] == [
        workers[spoken.started[0].decode_worker].weights
    ]
    assert [move.reason for move in spoken.moved] == ["draining"]


async def test_an_utterance_of_which_nothing_was_heard_begins_again_at_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interleaved: Path
) -> None:
    async with rollout(tmp_path, interleaved, monkeypatch, 1, 2) as (llm, workers):
        whole = await speak(llm, HEARD, undisturbed)

        async def drain(spoken: Spoken) -> None:
            assert not spoken.audio
            workers[spoken.started[0].decode_worker].drain()
            await until(lambda: bool(spoken.moved))

        spoken = await speak(llm, TOO_FEW, drain)
    assert np.array_equal(spoken.samples, whole.samples)
    assert len({worker for move in spoken.moved for worker in (move.from_worker, move.to_worker)}) == 2


async def test_a_draining_llm_worker_keeps_what_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interleaved: Path
) -> None:
    async with rollout(tmp_path, interleaved, monkeypatch, 1) as (llm, _):
        whole = await speak(llm, HEARD, undisturbed)
        drains: list[asyncio.Task[None]] = []

        async def drain(spoken: Spoken) -> None:
            drains.append(asyncio.create_task(llm.server.drain()))
            known = spoken.kinds.count("heartbeat")
            await until(lambda: spoken.kinds.count("heartbeat") > known + 2)

        spoken = await speak(llm, HEARD, drain)
        await asyncio.gather(*drains)
    assert np.array_equal(spoken.samples, whole.samples)
