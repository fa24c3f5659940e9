"""Sequences for the language model: text and speech of one to three utterances, in the llm service's orders.

`whole` is `WholeText` of `services.llm.engine.layout`: all text, then all speech. `interleaved` is `InterleavedText`:
blocks of text, each followed by a run of speech (spec section 4.6).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import LlmConfig
from services.llm.engine.layout import InputCodes
from training.networks.lm import Sequences

I64 = NDArray[np.int64]
NOTHING = -100
_OVERLAP = 0.1


@dataclass(frozen=True)
class Spoken:
    """Text and speech of one or more utterances.

    text    text tokens [n]; tokens speech tokens [m]; phones [m, 2]
    coarse  [m, 2] text tokens [first, last) of the word that each speech token speaks, -1 in silence before any word
    fine    [m, 2] the part of those that is spoken at that moment
    """

    text: I64
    tokens: I64
    phones: I64
    coarse: I64
    fine: I64


def join(parts: list[Spoken]) -> Spoken:
    """Put utterances one after the other; their spans move with the text."""
    starts = np.cumsum([0] + [len(part.text) for part in parts])[:-1]

    def moved(name: str) -> I64:
        spans = [getattr(part, name) for part in parts]
        return np.concatenate([np.where(s >= 0, s + start, s) for s, start in zip(spans, starts, strict=True)])

    def joined(name: str) -> I64:
        return np.concatenate([getattr(part, name) for part in parts])

    return Spoken(joined("text"), joined("tokens"), joined("phones"), moved("coarse"), moved("fine"))


def align(words: I64, spans: I64, lengths: I64, count: int) -> tuple[I64, I64]:
    """Coarse and fine spans of `count` speech tokens.

    words    word of each frame of 20 ms, -1 in silence; spans text tokens of each word; lengths characters of each
    text token. In silence after a word the next token's text is not known yet, so the word before stays.
    """
    coarse, fine = np.full((count, 2), -1, dtype=np.int64), np.full((count, 2), -1, dtype=np.int64)
    said = words[::2][:count].copy()
    for place in range(1, count):
        if said[place] < 0:
            said[place] = said[place - 1]
    edges = np.flatnonzero(np.diff(said)) + 1
    for first, last in zip([0, *edges.tolist()], [*edges.tolist(), count], strict=True):
        if said[first] < 0:
            continue
        begin, end = spans[said[first]].tolist()
        coarse[first:last] = begin, end
        borders = np.concatenate(([0.0], np.cumsum(lengths[begin:end]))) / max(1, lengths[begin:end].sum())
        for place in range(first, last):
            low = (place - first) / (last - first) - _OVERLAP
            high = (place - first + 1) / (last - first) + _OVERLAP
            inside = np.flatnonzero((borders[1:] > low) & (borders[:-1] < high))
            fine[place] = begin + inside[0], begin + inside[-1] + 1
    return coarse, fine


@dataclass
class Row:
    """A sequence while it is put together. `place_of` maps a text token to its position in the sequence."""

    codes: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    speech: list[int] = field(default_factory=list)
    """Per position, the number of the speech token after it, or -1."""
    place_of: list[int] = field(default_factory=list)

    def add(self, code: int, target: int = NOTHING, speech: int = -1) -> None:
        self.codes.append(code)
        self.target.append(target)
        self.speech.append(speech)

    def add_text(self, ids: list[int]) -> None:
        for number in ids:
            self.place_of.append(len(self.codes))
            self.add(number)

    def expect(self, target: int, speech: int = -1) -> None:
        """Say what follows the last position."""
        self.target[-1], self.speech[-1] = target, speech


def whole(config: LlmConfig, spoken: Spoken, heard: I64) -> Row:
    """`sos | text | task | speech`; `heard` are the speech tokens as the model sees them."""
    codes, row = InputCodes(config), Row()
    row.add(codes.sos)
    row.add_text(spoken.text.tolist())
    row.add(codes.task)
    _speak(row, codes, spoken, heard, 0, len(heard))
    row.expect(config.eos)
    return row


def can_interleave(config: LlmConfig, spoken: Spoken) -> bool:
    """Whether there is a whole run of speech for each whole block of text."""
    block, run = config.mix_ratio
    return len(spoken.tokens) >= len(spoken.text) // block * run


def interleaved(config: LlmConfig, spoken: Spoken, heard: I64) -> Row:
    """Blocks of text, each followed by a run of speech and a fill id; at the end the rest of both.

    The service feeds the last speech token once more before the rest of the text, as upstream does. The utterance must
    satisfy `can_interleave`.
    """
    codes, row = InputCodes(config), Row()
    block, run = config.mix_ratio
    row.add(codes.sos)
    text, done, at = spoken.text.tolist(), 0, 0
    while len(text) - done >= block:
        row.add_text(text[done : done + block])
        _speak(row, codes, spoken, heard, at, at + run)
        row.expect(config.fill)
        done, at = done + block, at + run
    if at:
        row.add(codes.speech(int(heard[at - 1])))
    row.add_text(text[done:])
    row.add(codes.task)
    _speak(row, codes, spoken, heard, at, len(heard))
    row.expect(config.eos)
    return row


def _speak(row: Row, codes: InputCodes, spoken: Spoken, heard: I64, first: int, last: int) -> None:
    for number in range(first, last):
        row.expect(int(spoken.tokens[number]), number)
        row.add(codes.speech(int(heard[number])))


def batch(rows: list[tuple[Row, Spoken]]) -> Sequences:
    """Pad rows to one length. A span of text that is not in the sequence yet is not learnt."""
    length = max(len(row.codes) for row, _ in rows)
    codes, target = np.zeros((len(rows), length), dtype=np.int64), np.full((len(rows), length), NOTHING, dtype=np.int64)
    coarse, fine, phones = (np.full((len(rows), length, 2), -1, dtype=np.int64) for _ in range(3))
    for number, (row, spoken) in enumerate(rows):
        codes[number, : len(row.codes)] = row.codes
        target[number, : len(row.target)] = row.target
        speech = np.array(row.speech)
        at = np.flatnonzero(speech >= 0)
        phones[number, at] = spoken.phones[speech[at]]
        place_of = np.array(row.place_of)
        coarse[number, at] = _positions(spoken.coarse[speech[at]], place_of, at)
        fine[number, at] = _positions(spoken.fine[speech[at]], place_of, at)
    return Sequences(*(torch.from_numpy(array) for array in (codes, target, coarse, fine, phones)))


def _positions(spans: I64, place_of: I64, at: I64) -> I64:
    """The positions [first, last) in the sequence of spans [n, 2] of text tokens, as they are seen from positions `at`.

    A span whose text is cut by speech between its tokens becomes its last token that is in the sequence already; one
    whose text comes later is -1.
    """
    first, last = np.maximum(spans[:, 0], 0), spans[:, 1]
    here = np.searchsorted(place_of, at, side="right")  # text tokens up to each position
    seen = np.maximum(np.minimum(last, here) - 1, 0)
    whole = place_of[seen] - place_of[first] == seen - first
    found = np.stack((np.where(whole, place_of[first], place_of[seen]), place_of[seen] + 1), axis=1)
    found[(spans[:, 0] < 0) | (place_of[first] > at)] = -1
    return found
