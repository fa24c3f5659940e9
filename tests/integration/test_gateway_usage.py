"""Usage by API key: metrics that add up, and one log line for each session."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.auth.keys import key_hash
from lighttts.v1 import tts_pb2
from services.common.log_rate import BURST, LogRate
from tests.support.fake_stages import Conversation, Rig, Script, rig, until
from tests.support.logs import capture_logs

KEYS = {"app": "ltts_app", "bot": "ltts_bot"}
SECONDS = 240 / 24000
"""Of audio for a character."""


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    entries = [f"- {{name: {name}, sha256: {key_hash(key)}, owner: team}}" for name, key in KEYS.items()]
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n" + "\n".join(entries))
    return path


def used(key: str) -> dict[str, float]:
    names = ("requests", "characters", "audio_seconds")
    return {
        name: REGISTRY.get_sample_value(f"lighttts_gateway_usage_{name}_total", {"key": key}) or 0.0 for name in names
    }


async def speak(r: Rig, key: str, text: str, **fields: Any) -> None:
    body = {"input": text, "response_format": "pcm", "trim_leading_silence": False} | fields
    answer = await r.http.post("/v1/audio/speech", json=body, headers={"x-api-key": KEYS[key]})
    assert answer.status_code == 200


async def test_usage_is_counted_by_key_and_logged_once_for_each_session(key_file: Path) -> None:
    before = {key: used(key) for key in KEYS}
    async with rig(api_keys_file=key_file) as r:
        with capture_logs() as lines:
            await speak(r, "app", "One. Two.")
            await speak(r, "bot", "Three.")
            conversation = Conversation(r, metadata=(("x-api-key", KEYS["app"]),))
            await conversation.begin()
            await conversation.text("Four.")
            await conversation.flush()
            await conversation.next_of(tts_pb2.Mark)
            await conversation.text("Five.")
            await conversation.end()
            await conversation.rest()
            refused = await r.http.post("/v1/audio/speech", json={"input": "No."}, headers={"x-api-key": "wrong"})
            assert refused.status_code == 401
        found = [line for line in lines if line["event"] == "usage"]
    assert [(line["key"], line["characters"], line["outcome"]) for line in found] == [
        ("app", 9, "finished"),
        ("bot", 6, "finished"),
        ("app", 10, "finished"),
    ]
    assert [line["audio_seconds"] for line in found] == [round(n * SECONDS, 3) for n in (9, 6, 10)]
    assert {(line["owner"], line["requests"], line["cached"]) for line in found} == {("team", 1, False)}
    for key, sessions, characters in (("app", 2, 19), ("bot", 1, 6)):
        now = used(key)
        assert now["requests"] - before[key]["requests"] == sessions
        assert now["characters"] - before[key]["characters"] == characters
        assert now["audio_seconds"] - before[key]["audio_seconds"] == pytest.approx(characters * SECONDS)


async def test_what_a_client_has_received_before_it_left_is_counted(key_file: Path) -> None:
    async with rig(api_keys_file=key_file) as r:
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        with capture_logs() as lines:
            conversation = Conversation(r, metadata=(("x-api-key", KEYS["app"]),))
            await conversation.begin()
            await conversation.text("A long sentence.")
            await conversation.flush()
            await conversation.next_of(tts_pb2.FirstAudio)
            conversation.call.cancel()
            await until(lambda: any(line["event"] == "usage" for line in lines))
        (line,) = [line for line in lines if line["event"] == "usage"]
    assert (line["outcome"], line["characters"]) == ("cancelled", 16)
    assert line["audio_seconds"] == pytest.approx(4 * SECONDS)


async def test_a_cached_answer_is_used_as_well(key_file: Path) -> None:
    async with rig(api_keys_file=key_file, result_cache="memory") as r:
        with capture_logs() as lines:
            await speak(r, "app", "One.", seed=1)
            await speak(r, "app", "One.", seed=1)
        found = [line for line in lines if line["event"] == "usage"]
    assert [line["cached"] for line in found] == [False, True]
    assert {(line["characters"], line["audio_seconds"], line["key"]) for line in found} == {(4, 0.04, "app")}


def test_no_line_about_usage_is_dropped() -> None:
    rate = LogRate(clock=lambda: 0.0)
    record = logging.makeLogRecord({"name": "gateway.usage", "msg": {"event": "usage"}})
    assert all(rate.filter(record) for _ in range(2 * BURST))
