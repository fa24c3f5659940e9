"""Sessions of several sentences at several times what the workers hold: accepted ones are whole, the others refused.

The four services are real and connected by gRPC; the engines sleep instead of computing. `benchmarks/sessions.py`
measures more loads in the same way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sessions import Outcome, offer
from cli.bench.prompts import text_of
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from lighttts.v1 import tts_pb2_grpc
from services.common.errors import Overloaded
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings

MODEL = Path(__file__).parents[2] / "models" / "tiny"
LIMIT_SECONDS = 400
QUICK: dict[str, Any] = {"port": 0, "drain_notice_seconds": 0.0}
PLACES = 2
"""Sessions that one worker holds."""
LLM_COSTS = {"step_s": 0.002, "step_s_per_sequence": 0.0, "prefill_s_per_token": 0.0, "tokens_per_text_id": 1.0}
DECODE_COSTS = {"batch_s": 0.02, "stream_s": 0.01, "frame_s": 0.0, "holdback_frames": 10, "pair_s": 0.0}


@asynccontextmanager
async def stack(folder: Path, decode: dict[str, Any], llm: dict[str, Any]) -> AsyncIterator[Any]:
    """The four services in this process, with simulated engines; a stub of the gateway's API."""
    costs = {"llm": LLM_COSTS, "decode": DECODE_COSTS}
    for name, values in costs.items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    async with asyncio.timeout(LIMIT_SECONDS), AsyncExitStack() as opened:

        async def serve(service: Any, settings: Any) -> str:
            server = ServiceServer(service(settings), settings)
            opened.push_async_callback(server.close)
            await server.start()
            return f"static:///{server.address}"

        model = QUICK | {"model_dir": MODEL}
        simulated = {"decode_backend": "simulated", "decode_cost_file": folder / "decode", "decode_admission": "off"}
        decode_target = await serve(DecodeService, DecodeSettings(**model | simulated | decode))
        simulated = {"llm_backend": "simulated", "llm_cost_file": folder / "llm", "decode_target": decode_target}
        llm_target = await serve(LlmService, LlmSettings(**model | simulated | llm))
        encode_target = await serve(EncodeService, EncodeSettings(**model))
        targets: dict[str, Any] = {"encode_target": encode_target, "llm_target": llm_target}
        front: dict[str, Any] = {"http_port": 0, "cosyvoice_port": "off"}
        gateway = await serve(GatewayService, GatewaySettings(**QUICK, **targets, **front))
        channel = await opened.enter_async_context(open_channel(gateway.removeprefix("static:///")))
        yield tts_pb2_grpc.TextToSpeechStub(channel)


@pytest.mark.parametrize(
    ("full", "decode", "llm"),
    [
        ("decode", {"decode_max_streams": PLACES}, {}),
        ("llm", {}, {"max_running": 1, "max_waiting": PLACES - 1}),
    ],
)
async def test_no_accepted_session_is_cut(
    full: str, decode: dict[str, Any], llm: dict[str, Any], tmp_path: Path
) -> None:
    async with stack(tmp_path, decode, llm) as stub:
        await offer(stub, text_of(1), [0.0])  # caches the voice
        outcomes = await offer(stub, text_of(3), [0.0] * (4 * PLACES))
        assert not [str(one.error) for one in outcomes if one.cut]
        assert sum(one.whole for one in outcomes) >= PLACES
        assert all(refused_by(one, full) for one in outcomes if not one.whole)
        assert any(one.refused for one in outcomes)


def refused_by(one: Outcome, stage: str) -> bool:
    return isinstance(one.error, Overloaded) and one.error.stage == stage and one.error.retry_after is not None
