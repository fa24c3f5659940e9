"""Conversion of float samples to 16 bits: exact for 16-bit audio, monotone, without overflow."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.samples import to_s16le

floats = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=50)


def converted(values: list[float]) -> list[int]:
    samples: list[int] = np.frombuffer(to_s16le(np.array(values, "<f4").tobytes()), "<i2").tolist()
    return samples


def test_every_16_bit_value_is_restored_from_floats() -> None:
    values = np.arange(-32768, 32768, dtype="<i2")
    assert to_s16le((values / np.float32(32768)).astype("<f4").tobytes()) == values.tobytes()


def test_full_scale_clips_and_does_not_wrap() -> None:
    assert converted([1.0, -1.0, 1.5, -1.5, np.inf, -np.inf]) == [32767, -32768, 32767, -32768, 32767, -32768]


def test_not_a_number_is_silence() -> None:
    assert converted([np.nan, 0.0, -0.0]) == [0, 0, 0]


def test_rounds_to_the_nearest() -> None:
    assert converted([0.6 / 32768, -0.6 / 32768, 0.4 / 32768, -0.4 / 32768]) == [1, -1, 0, 0]


@given(floats)
def test_order_and_sign_are_kept(values: list[float]) -> None:
    ordered = sorted(value for value in values if not np.isnan(value))
    samples = converted(ordered)
    assert samples == sorted(samples)
    assert all(value * sample >= 0 for value, sample in zip(ordered, samples, strict=True) if np.isfinite(value))


@given(floats)
def test_one_sample_in_one_sample_out(values: list[float]) -> None:
    assert len(to_s16le(np.array(values, "<f4").tobytes())) == 2 * len(values)
