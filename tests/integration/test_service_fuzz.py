"""Bytes at the APIs between the services: damaged messages and hostile values get an answer that names the fault.

The corpora are in `tests/data/fuzz/services`; `test_api_fuzz.py` describes their form.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2
from services.common.errors import from_rpc_error
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.common.workers.call_end import CallEnd
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings
from tests.integration.test_api_fuzz import CORPUS, INTERNAL, Example, damaged, examples, line_of
from tests.support.llm import TINY, VOICE, all_serving, metric, until

APIS = sorted(f"services/{path.stem}" for path in (CORPUS / "services").glob("*.txt"))
UNARY = ("DescribeModel", "ListStyles")
CALL_SECONDS = 5.0
COSTS = {
    "llm": {"step_s": 0.0, "step_s_per_sequence": 0, "prefill_s_per_token": 0, "tokens_per_text_id": 2},
    "decode": {"batch_s": 0.0, "stream_s": 0.0, "frame_s": 0.0},
}

Channels = dict[str, grpc.aio.Channel]


@pytest_asyncio.fixture
async def channels(tmp_path: Path) -> AsyncIterator[Channels]:
    """The three services, with simulated engines."""
    async with asyncio.timeout(600), AsyncExitStack() as opened:
        made: Channels = {}

        async def serve(name: str, service: Any, settings: Any) -> str:
            server = ServiceServer(service(settings), settings)
            opened.push_async_callback(server.close)
            await server.start()
            made[name] = await opened.enter_async_context(open_channel(server.address))
            return server.address

        for name, costs in COSTS.items():
            (tmp_path / name).write_text(json.dumps(costs), encoding="utf-8")
        shared: dict[str, Any] = {"port": 0, "model_dir": TINY, "drain_notice_seconds": 0.0}
        decode_options: dict[str, Any] = {"decode_backend": "simulated", "decode_cost_file": tmp_path / "decode"}
        decode = await serve("Decode", DecodeService, DecodeSettings(**shared, **decode_options))
        llm_options: dict[str, Any] = {"llm_backend": "simulated", "llm_cost_file": tmp_path / "llm"}
        target = f"static:///{decode}"
        await serve("Llm", LlmService, LlmSettings(**shared, **llm_options, decode_target=target))
        await serve("Encode", EncodeService, EncodeSettings(**shared, normaliser="builtin"))
        await all_serving([decode])
        yield made
        # Whatever the calls sent, none of them has left anything.
        await until(lambda: metric("lighttts_decode_streams") == metric("lighttts_llm_sequences_running") == 0)


async def test_the_corpora_are_answered(channels: Channels) -> None:
    for api in APIS:
        for example in examples(api):
            await is_answered(channels, api, example)


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_damaged_messages_are_answered(channels: Channels, data: st.DataObject) -> None:
    api = data.draw(st.sampled_from(APIS))
    await is_answered(channels, api, data.draw(damaged(api)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
async def test_numbers_that_would_disorder_the_schedule_are_refused(channels: Channels, value: float) -> None:
    urgency = audio_pb2.Urgency(first_audio_target=value)
    position = audio_pb2.PlaybackPosition(seconds=value)
    generate = llm_pb2.GenerateRequest(start=llm_pb2.GenerateStart(voice_hash="h", urgency=urgency))
    decode = decode_pb2.DecodeRequest(start=decode_pb2.DecodeStart(voice_hash=VOICE.voice_hash, urgency=urgency))
    usual = decode_pb2.DecodeRequest(start=decode_pb2.DecodeStart(voice_hash=VOICE.voice_hash))
    voice = decode_pb2.DecodeRequest(voice=VOICE)
    cases: list[tuple[str, str, list[Any], str]] = [("Llm", "Generate", [generate], "start.urgency.first_audio_target")]
    cases += [("Decode", "Decode", [decode, voice], "start.urgency.first_audio_target")]
    if value != -1:  # playback may begin in a second
        cases += [("Decode", "Decode", [usual, voice, decode_pb2.DecodeRequest(position=position)], "position.seconds")]
    for service, method, sent, field in cases:
        error = await answer(channels, service, method, [one.SerializeToString() for one in sent])
        assert error is not None
        assert (error.code(), from_rpc_error(error).field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def is_answered(channels: Channels, api: str, example: Example) -> None:
    service, _, method = api.removeprefix("services/").partition(".")
    refusal = await answer(channels, service, method, example)
    if refusal is not None and refusal.code() in INTERNAL:
        # gRPC itself answers a unary call with several messages, or none.
        by_grpc = "deserializ" in (refusal.details() or "") or len(example) != 1
        if not (by_grpc and method in UNARY):
            raise AssertionError(f"{refusal}; add to tests/data/fuzz/{api}.txt: {line_of(example)}")


async def answer(channels: Channels, service: str, method: str, example: Example) -> grpc.aio.AioRpcError | None:
    """Send the messages; return the error of the call, or None. A call that waits for more ends by its deadline."""

    async def messages() -> AsyncIterator[bytes]:
        for message in example:
            yield message

    method_of: grpc.aio.StreamStreamMultiCallable[bytes, Any] = channels[service].stream_stream(
        f"/lighttts.v1.{service}/{method}"
    )
    call = method_of(messages(), timeout=CALL_SECONDS)
    end = CallEnd(call)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return await end.error(error)
    finally:
        with suppress(asyncio.CancelledError):
            call.cancel()
    return None
