"""`/v1/audio/detect`: recordings with and without the watermark, bad ones, and too many at once."""

from __future__ import annotations

import asyncio
import io
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from gateway.api.native import detect
from services.common.start_error import StartError
from services.common.watermark.embed import Watermark
from services.common.watermark.recording import search
from tests.support.fake_stages import Rig, rig, until

KEY = b"a key of sixteen"
RATE = 24_000


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "marks.keys"
    path.write_text(f"3 {KEY.hex()}\n", encoding="utf-8")
    return path


def recording(seconds: float = 3.0, marked: bool = False, **form: Any) -> bytes:
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(
        file, Watermark(KEY, 0x0309).apply(0, samples) if marked else samples, RATE, **{"format": "WAV"} | form
    )
    return file.getvalue()


async def ask(r: Rig, content: bytes, name: str = "file") -> httpx.Response:
    return await r.http.post(detect.PATH, files={name: ("call.wav", content)})


async def test_a_marked_recording_is_found_and_another_is_not(keys: Path) -> None:
    async with rig(watermark_key_file=keys) as r:
        found = (await ask(r, recording(marked=True, format="OGG", subtype="VORBIS"))).json()
        absent = (await ask(r, recording())).json()
    assert (found["marked"], found["spans"][0]["key"], found["spans"][0]["deployment"]) == (True, 3, 9)
    assert found["p_value"] < 1e-6
    assert (absent["marked"], absent["spans"]) == (False, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no audio at all", "not an audio file"),
        (b"", "not an audio file"),
        (recording(0.1), "0.10 s; at least 0.5 s"),
        (recording()[:60], "at least 0.5 s"),
    ],
    ids=["text", "empty", "short", "cut"],
)
async def test_what_cannot_be_searched_is_refused_by_its_field(keys: Path, content: bytes, message: str) -> None:
    async with rig(watermark_key_file=keys) as r:
        answer = await ask(r, content)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "file"


async def test_long_recordings_are_refused_however_small_their_file_is(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "LONGEST_SECONDS", 2.0)
    async with rig(watermark_key_file=keys) as r:
        answer = await ask(r, recording(3.0))
    assert (answer.status_code, "longer than 2 seconds" in answer.text) == (400, True)


async def test_a_body_beyond_the_limit_and_a_form_without_a_file_are_refused(keys: Path) -> None:
    async with rig(watermark_key_file=keys, max_prompt_bytes=100_000) as r:
        large = await ask(r, bytes(100_000 + 2 * 2**20))
        missing = await ask(r, b"x", name="audio")
    assert large.status_code == 413
    assert (missing.status_code, "file" in missing.json()["error"]["message"]) == (400, True)


async def test_a_gateway_without_keys_says_so() -> None:
    async with rig() as r:
        answer = await ask(r, recording())
    assert answer.status_code == 404
    assert "LIGHTTTS_WATERMARK_KEY_FILE" in answer.json()["error"]["message"]


async def test_too_many_searches_at_once_are_refused_and_the_others_end(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), []

    def slow(*arguments: Any) -> Any:
        begun.append(1)
        go.wait(60)
        return search(*arguments)

    monkeypatch.setattr("gateway.api.native.detect.search", slow)
    async with rig(watermark_key_file=keys) as r:
        content = recording(1.0)
        first = asyncio.create_task(ask(r, content))
        await until(lambda: len(begun) == 1)
        waiting = [asyncio.create_task(ask(r, content)) for _ in range(detect.MOST_WAITING + 2)]
        await until(lambda: sum(task.done() for task in waiting) == 2)
        refused = [task.result() for task in waiting if task.done()]
        go.set()
        answers = [await task for task in (first, *waiting)]
        after = await ask(r, content)
    assert {answer.status_code for answer in refused} == {429}
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * (detect.MOST_WAITING + 1) + [429] * 2
    assert after.status_code == 200


async def test_a_key_file_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="LIGHTTTS_WATERMARK_KEY_FILE: cannot read"):
        async with rig(watermark_key_file=tmp_path / "nowhere"):
            pass
