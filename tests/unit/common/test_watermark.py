"""The watermark: the same in any pieces, found again in its excerpts, and not found where it is not."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.common.watermark.codebook import BLOCK, CELLS, SAMPLE_RATE, SYMBOLS, codebook
from services.common.watermark.detect import P_VALUE, TooShort, detect
from services.common.watermark.embed import Watermark
from services.common.watermark.keys import KeyFileError, new_line, read_keys
from services.common.watermark.recording import BadRecording, search

DATA = Path(__file__).parents[2] / "data" / "heldout25"
KEY, OTHER = b"a key of sixteen", b"sixteen of a key"
PAYLOAD = 0x0107
Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def speech() -> Audio:
    """Eight seconds of recordings at 24 kHz."""
    parts = []
    for number in (1, 2, 3, 4, 5, 6):
        samples, rate = soundfile.read(DATA / f"{number:02}.flac", dtype="float32")
        parts.append(soxr.resample(samples, rate, SAMPLE_RATE))
    return np.concatenate(parts)[: 8 * SAMPLE_RATE]


@pytest.fixture(scope="module")
def marked(speech: Audio) -> Audio:
    return Watermark(KEY, PAYLOAD).apply(0, speech)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, BLOCK - 1), st.integers(0, 500))
def test_pieces_are_marked_as_the_whole(pieces: list[int], rest: int, skipped: int) -> None:
    mark = Watermark(KEY, PAYLOAD)
    total = sum(pieces) * BLOCK + rest
    samples = np.random.default_rng(total).normal(0, 0.1, total).astype(np.float32)
    first = skipped * BLOCK  # as of an utterance that moved here
    whole = mark.apply(first, samples)
    borders = [0, *(BLOCK * int(end) for end in np.cumsum(pieces))]
    borders[-1] = total
    parts = [mark.apply(first + begin, samples[begin:end]) for begin, end in pairwise(borders)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(whole, samples)
    assert np.array_equal(whole[total - rest :], samples[total - rest :])


def test_silence_and_pieces_shorter_than_a_block_stay_as_they_are() -> None:
    mark, short = Watermark(KEY, PAYLOAD), np.full(BLOCK - 1, 0.5, np.float32)
    assert np.array_equal(mark.apply(0, np.zeros(4 * BLOCK, np.float32)), np.zeros(4 * BLOCK, np.float32))
    assert np.array_equal(mark.apply(0, short), short)
    assert mark.apply(0, np.zeros(0, np.float32)).size == 0


def test_the_mark_is_far_below_the_speech(speech: Audio, marked: Audio) -> None:
    change = marked - speech
    assert float((speech**2).sum()) > 10**2.5 * float((change**2).sum())
    assert marked.dtype == np.float32


@pytest.mark.parametrize("payload", [0, 1, 0x0107, 0xFFFF])
def test_every_payload_is_read_from_an_excerpt(speech: Audio, payload: int) -> None:
    marked = Watermark(KEY, payload).apply(0, speech)
    found = detect(marked[12_345 : 12_345 + 4 * SAMPLE_RATE], {7: KEY})
    assert found.marked
    assert (found.best.payload, found.best.key) == (payload, 7)


def test_the_mark_survives_a_telephone_line(marked: Audio) -> None:
    narrow = soxr.resample(soxr.resample(marked, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)
    loud = 0.4 * np.round(np.clip(narrow, -1, 1) * 127) / 127
    found = detect(loud, {1: KEY})
    assert found.marked
    assert found.best.payload == PAYLOAD


def test_each_of_two_marks_is_found(marked: Audio) -> None:
    both = Watermark(OTHER, 0x0203).apply(0, marked)
    found = detect(both, {1: KEY, 2: OTHER})
    assert {(one.key, one.payload) for one in found.spans} == {(1, PAYLOAD), (2, 0x0203)}


def test_a_marked_part_is_located(speech: Audio, marked: Audio) -> None:
    mixed = np.concatenate([speech, marked, speech[: 6 * SAMPLE_RATE]])
    found = detect(mixed, {1: KEY})
    assert found.marked
    assert found.spans
    assert all(one.payload == PAYLOAD for one in found.spans)
    assert 4.0 <= found.spans[0].start <= 10.0
    assert 14.0 <= found.spans[-1].end <= 20.0


def test_unmarked_audio_and_other_keys_are_not_found(speech: Audio, marked: Audio) -> None:
    part = slice(0, 4 * SAMPLE_RATE)
    keys = {number: bytes([number]) * 16 for number in range(4)}
    assert min(detect(audio[part], keys).best.p_value for audio in (speech, marked)) > P_VALUE
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * SAMPLE_RATE)
    assert not detect(noise, {1: KEY}).marked
    assert not detect(np.zeros(SAMPLE_RATE), {1: KEY}).marked


def test_audio_that_is_too_short_is_refused() -> None:
    with pytest.raises(TooShort, match=r"0\.10 s; at least 0\.5 s"):
        detect(np.zeros(SAMPLE_RATE // 10), {1: KEY})


def test_a_file_without_a_length_is_searched(tmp_path: Path, marked: Audio) -> None:
    path = tmp_path / "stream.flac"
    soundfile.write(path, marked[: 4 * SAMPLE_RATE], SAMPLE_RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # STREAMINFO's total samples: not known
    found = search(io.BytesIO(data), {1: KEY}, longest_seconds=10)
    assert (found.best.payload, found.marked) == (PAYLOAD, True)
    with pytest.raises(BadRecording, match="longer than 2 seconds"):
        search(io.BytesIO(data), {1: KEY}, longest_seconds=2)


def test_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.raw"
    path.write_bytes(bytes(SAMPLE_RATE))
    with pytest.raises(BadRecording, match="no header"):
        search(path, {1: KEY}, longest_seconds=10)


def test_a_payload_has_sixteen_bits() -> None:
    with pytest.raises(ValueError, match="16 bits"):
        Watermark(KEY, 65536)


def test_a_key_gives_the_same_sequences_in_every_release() -> None:
    book = codebook(KEY)
    assert sorted(np.concatenate(book.cells)) == list(range(CELLS))
    assert [cells[:3].tolist() for cells in book.cells] == [[173, 1939, 1974], [2704, 1652, 828]]
    assert [signs[7, :4].tolist() for signs in book.signs] == [[-1, -1, -1, -1], [1, 1, -1, 1]]
    assert abs(float(np.concatenate([signs.ravel() for signs in book.signs]).mean())) < 0.01
    assert book.signs[0].shape == (SYMBOLS, CELLS // 2)


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# of 2026\n{new_line(3)}\n\n200 {'ab' * 16}\n", encoding="utf-8")
    keys = read_keys(path)
    assert set(keys) == {3, 200}
    assert keys[200] == b"\xab" * 16
    assert new_line(3) != new_line(3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no key"),
        ("1 zz", "line 1: write"),
        ("1", "line 1: write"),
        (f"256 {'ab' * 16}", "0 to 255"),
        (f"1 {'ab' * 16}\n1 {'cd' * 16}", "line 2: the number"),
        ("1 abcd", "has 2 bytes; it needs 16"),
    ],
)
def test_a_bad_key_file_names_the_line_and_not_the_key(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(KeyFileError, match=message) as refused:
        read_keys(path)
    assert "abab" not in str(refused.value)
