"""Clients that leave at any moment, in any way: nothing leaks, and other clients are unaffected."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from lighttts.v1 import llm_pb2_grpc
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from tests.support.llm import Llm, Spoken, all_free, all_serving, llm_service, metric, until

CALLS = 60
TEXTS = [tuple(range(5, 5 + count)) for count in (8, 20, 40)]
"""Texts of 2, 5 and 10 s of speech."""
WAYS = ("stay", "cancel", "disconnect", "deadline")
LAST_MESSAGE = 14
"""Clients leave before the first response or after at most this many: waiting for the voice, queued or playing."""


@asynccontextmanager
async def decode_service(tmp_path: Path) -> AsyncIterator[str]:
    costs = tmp_path / "decode-costs.json"
    costs.write_text(json.dumps({"batch_s": 0.001, "stream_s": 0, "frame_s": 0}), encoding="utf-8")
    limits: dict[str, Any] = {"decode_max_streams": CALLS, "decode_max_queue": CALLS, "decode_admission": "off"}
    settings = DecodeSettings(
        port=0, decode_backend="simulated", decode_cost_file=costs, drain_notice_seconds=0, **limits
    )
    server = ServiceServer(DecodeService(settings), settings)
    try:
        await server.start()
        yield server.address
    finally:
        await server.close()


async def visit(llm: Llm, number: int, way: str, messages: int) -> Spoken:
    """Run one client with its own connection, which stays or leaves after `messages` messages."""
    spoken = Spoken()
    async with open_channel(llm.server.address) as channel:
        client = Llm(llm_pb2_grpc.LlmStub(channel), llm.server)
        deadline = 0.01 * messages if way == "deadline" else None
        call = client.responses(spoken, TEXTS[number % len(TEXTS)], deadline=deadline, seed=number % 7)
        # The client's own deadline may expire during a write.
        with suppress(*(grpc.aio.AioRpcError,) if way == "deadline" else ()):
            async with aclosing(call):
                async for _ in call:
                    if way != "stay" and len(spoken.kinds) >= messages:
                        break
                if way == "disconnect":
                    await channel.close()
    return spoken


def sessions() -> float:
    """Return the number of calls and streams open at both services."""
    calls = ("/lighttts.v1.Llm/Generate", "/lighttts.v1.Decode/Decode")
    return metric("lighttts_decode_streams") + sum(metric("lighttts_rpc_active", method=name) for name in calls)


@pytest.mark.parametrize("seed", [1, 2])
async def test_clients_leave_at_random(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    # Few places and few K/V blocks, so that clients also leave while they are queued or preempted.
    limits: dict[str, Any] = {"max_running": 6, "total_tokens": 1024, "max_request_tokens": 1024}
    async with decode_service(tmp_path) as decode, llm_service(tmp_path, decode, step_s=0.0005, **limits) as llm:
        await all_serving([decode])
        plan = [(number, draw.choice(WAYS), draw.randrange(1, LAST_MESSAGE)) for number in range(CALLS)]
        received = await asyncio.gather(*(visit(llm, *one) for one in plan))
        await until(lambda: sessions() == 0)
        await all_free()
        stayed = [(number, spoken) for (number, way, _), spoken in zip(plan, received, strict=True) if way == "stay"]
        assert len(stayed) >= CALLS // 8
        for number, spoken in stayed:
            alone = await visit(llm, number, "stay", 0)
            assert spoken.raw_ids == alone.raw_ids
            assert np.array_equal(spoken.samples, alone.samples)
        await until(lambda: sessions() == 0)
        await all_free()
