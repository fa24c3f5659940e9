"""LightTTS's statistics per worker, and batches."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest

from lighttts.v1 import audio_pb2
from services.common.errors import Internal
from tests.support.fake_stages import Script, rig, until


async def test_concurrent_stats_report_each_decode_worker_s_work() -> None:
    async with rig() as r:
        empty = (await r.http.get("/concurrent_stats")).json()
        assert (empty["total_requests"], empty["success_rate"], empty["gpu_stats"]) == (0, 1.0, {})
        await r.http.post("/v1/audio/speech", json={"input": "One. Two."})
        r.llm.scripts[2] = Script(fail_at_hop=0, error=Internal("broken", repeated=True))
        await r.http.post("/v1/audio/speech", json={"input": "One."})
        r.llm.scripts[3] = Script(hold={1: asyncio.Event()})
        running = asyncio.create_task(r.http.post("/v1/audio/speech", json={"input": "A long sentence."}))
        await until(lambda: len(r.llm.calls) == 4 and r.llm.calls[3].hops == 1)
        stats = (await r.http.get("/concurrent_stats")).json()
        assert {key: stats[key] for key in ("total_requests", "completed_requests", "failed_requests")} == {
            "total_requests": 3,
            "completed_requests": 1,
            "failed_requests": 1,
        }
        assert stats["success_rate"] == 0.5
        # The fakes start every utterance on decode-0 and name another worker at its end.
        assert {name: entry["requests_processed"] for name, entry in stats["gpu_stats"].items()} == {
            "decode-0": 1,
            "decode-1": 1,
        }
        assert stats["gpu_count"] == 2
        assert stats["queue_status"]["decode-0"]["request_queue"] == 1
        assert stats["queue_status"]["decode-1"] == {"request_queue": 0, "response_queue": 0}
        running.cancel()
        await asyncio.wait({running})


async def batch(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/synthesize_batch", json={"texts": ["One.", "Two, three."]} | fields)


async def test_a_batch_is_answered_in_order_with_offline_priority() -> None:
    async with rig() as r:
        answer = (await batch(r.http, texts=["One.", "?!", "Two, three."], voice="anna", tts_model_name="calm")).json()
        audio = [item["audio"] and len(base64.b64decode(item["audio"])) for item in answer["results"]]
        assert audio == [4 * 240 * 2, None, 11 * 240 * 2]
        assert "only punctuation" in answer["results"][1]["error"]
        assert answer["sample_rate"] == 24000
        assert answer["results"][0]["seconds"] == pytest.approx(4 * 240 / 24000)
        offline = audio_pb2.Urgency.PRIORITY_OFFLINE
        assert {(call.start.urgency.priority, call.start.style) for call in r.llm.calls} == {(offline, "calm")}


async def test_a_batch_in_a_voice_from_a_recording() -> None:
    async with rig() as r:
        await batch(r.http, prompt_wav=base64.b64encode(b"RIFF").decode(), prompt_text="hello")
        assert [(header.transcript, parts) for header, parts in r.encode.uploads] == [("hello", [b"RIFF"])]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"texts": []}, 422, "texts"),
        ({"texts": ["a"] * 65}, 422, "64"),
        ({"texts": ["a" * 15_000, "a" * 15_000]}, 400, "20000"),
        ({"speed": 9}, 422, "speed"),
        ({"prompt_wav": "?"}, 400, "base64"),
        ({"prompt_wav": "UklGRg=="}, 400, "transcript"),
    ],
)
async def test_invalid_batches(fields: dict[str, Any], status: int, words: str) -> None:
    async with rig() as r:
        response = await batch(r.http, **fields)
        assert response.status_code == status
        assert words in response.text


async def test_a_batch_is_cancelled_when_its_client_disconnects() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        request = asyncio.create_task(batch(r.http, texts=["One."]))
        await until(lambda: bool(r.llm.calls))
        request.cancel()
        await r.llm.calls[0].cancelled.wait()
        await asyncio.wait({request})
