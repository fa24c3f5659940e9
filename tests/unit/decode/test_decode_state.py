"""Stream specs and resume records."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.state import NO_WEIGHTS, RecordMismatch, ResumeRecord, StreamError
from tests.unit.decode import decode_support as support


def record(rows: int = 15, harmonics: int = 9) -> ResumeRecord:
    rng = np.random.default_rng(0)
    mel = rng.standard_normal((rows, 80)).astype(np.float32)
    return ResumeRecord(ChunkPlan(40), 2**63 + 5, 75, 10 + rows, 10, mel, rng.random(harmonics))


@pytest.mark.parametrize("rows", [0, 15])
def test_a_record_round_trips(rows: int) -> None:
    before = record(rows)
    after = ResumeRecord.from_bytes(before.to_bytes())
    assert (after.plan, after.seed, after.done) == (before.plan, before.seed, before.done)
    assert (after.emitted, after.start) == (before.emitted, before.start)
    assert np.array_equal(after.mel, before.mel)
    assert np.array_equal(after.phase, before.phase)
    assert len(before.to_bytes()) < 15_000


def version_1(record: ResumeRecord) -> bytes:
    """The record as the first release writes it."""
    plan = (record.plan.first_boundary, record.plan.chunk_tokens)
    counts = (*plan, record.done, record.emitted, record.start, *record.mel.shape, len(record.phase))
    fields = struct.pack("<Q8I", record.seed, *counts) + record.mel.tobytes() + record.phase.tobytes()
    return b"LTD1" + struct.pack("<I", zlib.crc32(b"LTD1\0\0\0\0" + fields)) + fields


def test_a_record_of_version_1_fits_any_weights() -> None:
    before = record()
    after = ResumeRecord.from_bytes(version_1(before))
    after.check_weights(b"w" * 16)
    assert (after.seed, after.done, after.weights) == (before.seed, before.done, NO_WEIGHTS)
    assert np.array_equal(after.mel, before.mel)
    assert np.array_equal(after.phase, before.phase)


def test_a_record_of_a_later_version_does_not_fit() -> None:
    with pytest.raises(RecordMismatch, match="of another version"):
        ResumeRecord.from_bytes(b"LTD3" + record().to_bytes()[4:])


def test_a_record_fits_only_its_own_weights() -> None:
    after = ResumeRecord.from_bytes(replace(record(), weights=b"w" * 16).to_bytes())
    after.check_weights(b"w" * 16)
    after.check_weights(NO_WEIGHTS)
    with pytest.raises(RecordMismatch, match="of other weights"):
        after.check_weights(b"v" * 16)


@given(st.binary(max_size=200))
def test_other_bytes_are_not_a_record(data: bytes) -> None:
    with pytest.raises(StreamError, match="start the utterance again"):
        ResumeRecord.from_bytes(data)


@given(st.data())
def test_a_damaged_record_is_refused(data: st.DataObject) -> None:
    damaged = bytearray(record().to_bytes())
    index = data.draw(st.integers(0, len(damaged) - 1))
    damaged[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StreamError, match="start the utterance again"):
        ResumeRecord.from_bytes(bytes(damaged[: data.draw(st.integers(index + 1, len(damaged)))]))


@pytest.mark.parametrize(
    ("option", "value"), [("speed", 0.0), ("speed", float("nan")), ("seed", -1), ("max_unread_s", 0.0)]
)
def test_invalid_specs_are_refused(option: str, value: Any) -> None:
    with pytest.raises(StreamError, match=option):
        support.voice(**{option: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_mel": np.zeros((59, 80), np.float32)}, "cut both to the same duration"),
        ({"prompt_tokens": np.full(30, 6561, np.int32)}, "speech token 6561"),
        ({"embedding": np.zeros(100, np.float32)}, "speaker embedding"),
        ({"embedding": np.full(192, np.nan, np.float32)}, "not finite"),
        ({"resume": b"nonsense"}, "start the utterance again"),
        ({"resume": record(harmonics=8).to_bytes()}, "another model"),
    ],
)
def test_voices_that_do_not_fit_the_model_are_refused(change: dict[str, object], message: str) -> None:
    spec = support.voice()
    fields = {name: getattr(spec, name) for name in ("prompt_tokens", "prompt_mel", "embedding")}
    with pytest.raises(StreamError, match=message):
        support.mini_backend().check(type(spec)(**{**fields, **change}))
