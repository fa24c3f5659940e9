"""Cuts the teacher's speech to its utterance and labels its frames with phones and words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.teacher.kokoro import RATE, Spoken
from training.teacher.pronounce import Pronunciation

F32 = NDArray[np.float32]

FRAME = 480
"""Samples of a label's frame (20 ms); two frames are one speech token."""
SILENCE, NO_WORD = 0, -1
PHONES = "·AIOQWYbdfhijklmnpstuvwzæðŋɑɔəɛɜɡɪɹʃʊʌʒʤʧθᵊᵻTɾʔɐ"
"""Phones without stress marks, by number; the first stands for silence."""
_MARKS = frozenset(',.!?;:—…"()“” ')
_STRESS = frozenset("ˈˌ")
_TOKEN = 2 * FRAME
_LEAD, _TAIL = round(0.012 * RATE), round(0.12 * RATE)
_QUIET = 10 ** (-42 / 20)
"""Of the utterance's peak; what is below is silence."""
_LONGEST_CLOSURE = 5
"""Frames; a longer quiet run inside a word is a pause."""
_REACH = 8
"""Frames by which a phone's label may be off."""
_LOUDNESS, _PEAK = 0.08, 0.95


@dataclass(frozen=True)
class Labelled:
    """An utterance of whole tokens (40 ms): samples float32, and a phone and a word per frame of 20 ms.

    phones int8 [frames], numbers of PHONES; words int16 [frames], numbers of the text's words or NO_WORD in silence.
    """

    samples: F32
    phones: NDArray[np.int8]
    words: NDArray[np.int16]


def label(spoken: Spoken, said: Pronunciation) -> Labelled:
    """Cut `spoken` from 12 ms before its first sound to 120 ms after its last; RMS becomes 0.08.

    Raises ValueError if the speech is empty or not finite.
    """
    loud = _loud(spoken.samples)
    sounding = np.flatnonzero(loud)
    if not len(sounding) or not np.isfinite(spoken.samples).all():
        raise ValueError("the speech is empty")
    begin = max(0, int(sounding[0]) * FRAME // 4 - _LEAD)
    end = min(len(spoken.samples), (int(sounding[-1]) + 1) * FRAME // 4 + _TAIL)
    length = -(-(end - begin) // _TOKEN) * _TOKEN
    samples = np.zeros(length, dtype=np.float32)
    samples[: end - begin] = spoken.samples[begin:end]
    _fade(samples[: end - begin])
    samples *= _LOUDNESS / max(1e-6, float(np.sqrt(np.mean(samples[: end - begin] ** 2))))
    samples *= min(1.0, _PEAK / max(1e-6, float(np.abs(samples).max())))
    phones, words = _frames(spoken, said, begin, length // FRAME)
    quiet = ~_loud_frames(samples)
    silent = quiet & ((words == NO_WORD) | _in_long_run(quiet))
    phones[silent], words[silent] = SILENCE, NO_WORD
    _extend(phones, words, ~quiet)
    return Labelled(samples, phones, words)


def _loud(samples: F32) -> NDArray[np.bool_]:
    """Which quarters of a frame are louder than silence."""
    size = FRAME // 4
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    rms = np.sqrt((blocks.astype(np.float64) ** 2).mean(axis=1))
    return np.asarray(rms > _QUIET * max(1e-6, float(rms.max(initial=0.0))))


def _loud_frames(samples: F32) -> NDArray[np.bool_]:
    return np.asarray(_loud(samples).reshape(-1, 4).any(axis=1))


def _in_long_run(quiet: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which frames are in a run of quiet frames that is longer than the closure of a stop."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], quiet, [False])).astype(np.int8)))
    found = np.zeros_like(quiet)
    for first, last in edges.reshape(-1, 2):
        found[first:last] = last - first >= _LONGEST_CLOSURE
    return found


def _extend(phones: NDArray[np.int8], words: NDArray[np.int16], loud: NDArray[np.bool_]) -> None:
    """Give a loud frame without a phone the label of the nearest one: durations are coarse at an utterance's edges."""
    labelled = np.flatnonzero(phones != SILENCE)
    lost = np.flatnonzero(loud & (phones == SILENCE))
    if not len(labelled) or not len(lost):
        return
    after = np.clip(np.searchsorted(labelled, lost), 0, len(labelled) - 1)
    before = np.maximum(after - 1, 0)
    nearer_before = np.abs(labelled[before] - lost) < np.abs(labelled[after] - lost)
    nearest = np.where(nearer_before, labelled[before], labelled[after])
    near = np.abs(nearest - lost) <= _REACH
    phones[lost[near]], words[lost[near]] = phones[nearest[near]], words[nearest[near]]


def _fade(samples: F32) -> None:
    size = min(120, len(samples) // 2)
    ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
    samples[:size] *= ramp
    samples[-size:] *= ramp[::-1]


def _frames(spoken: Spoken, said: Pronunciation, begin: int, count: int) -> tuple[NDArray[np.int8], NDArray[np.int16]]:
    """The phone and the word at the centre of each frame.

    The time of a stress mark belongs to the phone after it, the time of a space to the phone before it.
    """
    owner = np.full(len(said.phones), NO_WORD, dtype=np.int16)
    for number, (first, last) in enumerate(said.spans):
        owner[first:last] = number
    names, edges, words = [SILENCE], [spoken.begin], [NO_WORD]
    pending = spoken.begin
    for place, (character, end) in enumerate(zip(said.phones, spoken.ends.tolist(), strict=True)):
        if character in _STRESS or (character not in PHONES and character not in _MARKS):
            continue
        if character == " " and names[-1] != SILENCE:
            edges[-1] = end
        elif character in _MARKS:
            names, edges, words = [*names, SILENCE], [*edges, end], [*words, NO_WORD]
        else:
            names.append(PHONES.index(character))
            edges.append(end)
            words.append(int(owner[place]))
        pending = end
    names, edges, words = [*names, SILENCE], [*edges, max(pending, begin + count * FRAME) + FRAME], [*words, NO_WORD]
    centres = begin + FRAME // 2 + FRAME * np.arange(count)
    segment = np.minimum(np.searchsorted(np.array(edges), centres, side="right"), len(names) - 1)
    return np.array(names, dtype=np.int8)[segment], np.array(words, dtype=np.int16)[segment]
