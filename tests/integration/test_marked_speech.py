"""A decode service that marks its audio: in hops, after a move, and with settings that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.common.start_error import StartError
from services.common.watermark.embed import Watermark
from services.decode.marking import watermark_of
from services.decode.settings import DecodeSettings
from tests.integration.test_decode_service import audio_of, decode_service, responses, start, tokens

KEY = "ab" * 16
LONG = [7 * token % 729 for token in range(150)]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "marks.keys"
    path.write_text(f"5 {KEY}\n9 {'cd' * 16}\n", encoding="utf-8")
    return path


async def test_speech_is_marked_alike_in_hops_and_after_a_move(tmp_path: Path, keys: Path) -> None:
    async with decode_service(tmp_path) as (stub, _):
        plain = audio_of(await responses(stub, start(), tokens(LONG)))
    on = {"watermark": "on", "watermark_key_file": keys, "watermark_key_id": 5, "watermark_deployment": 3}
    async with decode_service(tmp_path, **on) as (stub, _):
        answers = [answer for answer in await responses(stub, start(), tokens(LONG)) if answer.HasField("audio")]
        first = answers[0].audio
        moved = await responses(stub, start(resume_record=first.resume_record), tokens(LONG))
    marked = audio_of(answers)
    whole = Watermark(bytes.fromhex(KEY), 0x0503).apply(0, plain)
    assert len(answers) > 2
    assert np.array_equal(marked, whole)
    assert not np.array_equal(marked, plain)
    begin = len(np.frombuffer(first.audio.pcm, "<f4"))
    assert np.array_equal(audio_of(moved), whole[begin:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"watermark_key_file": None}, "set LIGHTTTS_WATERMARK_KEY_FILE"),
        ({"watermark_key_id": 6}, "LIGHTTTS_WATERMARK_KEY_ID is 6, but .* has 5, 9"),
        ({"watermark_key_file": Path("nowhere")}, "LIGHTTTS_WATERMARK_KEY_FILE: cannot read"),
    ],
)
def test_a_watermark_without_its_key_ends_the_start(keys: Path, changes: dict[str, object], message: str) -> None:
    options = {"watermark": "on", "watermark_key_file": keys, "watermark_key_id": 5} | changes
    with pytest.raises(StartError, match=message):
        watermark_of(DecodeSettings.model_validate(options), 24_000)


def test_another_rate_is_refused_and_off_needs_nothing(keys: Path) -> None:
    options = {"watermark": "on", "watermark_key_file": keys, "watermark_key_id": 5}
    with pytest.raises(StartError, match="24000 Hz"):
        watermark_of(DecodeSettings.model_validate(options), 22_050)
    assert watermark_of(DecodeSettings(), 22_050) is None
