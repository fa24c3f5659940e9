"""Stage lm: text tokens to speech tokens."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from training.batches import by_speaker, same_speaker
from training.codes import load_codes
from training.fit import Fit
from training.networks.lm import CHARACTERS, LmTrainer, Sequences
from training.plan import Plan
from training.sequences import I64, Row, Spoken, align, batch, can_interleave, interleaved, join, whole
from training.sizes import llm_config
from training.stages.codes import text_strings
from training.start import continued, start_from
from training.store import Store
from training.teacher.labels import PHONES
from training.work import Work

POSITIONS, LONGEST = 1900, 420
"""Positions of a step, and of the longest sequence."""
INTERLEAVED, COUNTS = 0.4, (1, 2, 2, 3)
"""Share of interleaved sequences; utterances of a sequence, drawn with equal chances."""
_NOISE = 0.06
"""Share of speech tokens that the model sees replaced, so that its own mistakes do not throw it off."""
_GUIDE, _PHONE, _LATER = 0.3, 0.4, 0.4
"""Weights of the helping losses, and their factor in the last third."""
_POOL = 96
_OF_TOKENS = ("llm.model.model.embed_tokens", "speech_embedding", "llm_decoder")
"""Weights that mean nothing for other tokenizers."""
_ASCII = 128


def make(work: Work) -> LmTrainer:
    """Return the network for the run's text tokenizer."""
    return LmTrainer(llm_config(), len(PHONES), spelling(text_strings(work.codes)))


def spelling(strings: list[str]) -> Tensor:
    """Numbers of (place, character) pairs of each text token: int64 [tokens, CHARACTERS]."""
    table = torch.zeros(len(strings), CHARACTERS, dtype=torch.int64)
    for number, string in enumerate(strings):
        for place, character in enumerate(string[:CHARACTERS]):
            table[number, place] = 1 + place * _ASCII + min(ord(character), _ASCII - 1)
    table[0, -1] = max(int(table[0, -1]), 1 + CHARACTERS * _ASCII)  # the table's size does not depend on the tokens
    return table


def run(work: Work, plan: Plan, effort: float, device: torch.device) -> None:
    """Train up to the round's steps."""
    net = make(work)
    if not work.checkpoint("lm").is_file():
        start_from(work, net, "llm", skip=() if continued(work) else _OF_TOKENS)
    until = plan.upto("lm", effort)
    fit = Fit(
        work,
        "lm",
        net,
        until=until,
        rate=1.6e-3 * plan.rate_share,
        seed=plan.seed,
        device=device,
        decay=0.02,
        average=0.99,
        minutes=plan.minutes,
    )
    if fit.done:
        return
    batches = _Batches(work, plan)
    held_back = batches.held_back(plan.held_back).to(device)
    fit.judge = lambda: {"token": net(held_back).token}
    for _, host in fit.batches(batches.draw, plan.workers):
        losses = net(host.to(device))
        helping = 1.0 if fit.share < 2 / 3 else _LATER
        loss = losses.token + helping * (_GUIDE * losses.guide + _PHONE * losses.phone)
        fit.update(loss, token=losses.token, guide=losses.guide, phone=losses.phone, right=losses.right)


class _Batches:
    """Sequences of similar length."""

    def __init__(self, work: Work, plan: Plan) -> None:
        self._store, self._codes, self._config = Store(work.speech), load_codes(work.codes / "codes.npz"), llm_config()
        self._groups = by_speaker(self._store, plan.held_back)
        self._positions = POSITIONS * plan.batch_share
        self._lengths = np.array([max(1, len(string)) for string in text_strings(work.codes)])
        self._aligned: dict[tuple[int, int], tuple[I64, I64]] = {}

    def draw(self, draw: random.Random) -> Sequences:
        """Return a batch: one length is drawn, and shorter neighbours fill the batch."""
        pool = sorted((self._candidate(draw) for _ in range(_POOL)), key=lambda found: found[0])
        pick = draw.randrange(len(pool))
        chosen = [pool[pick]]
        while pick > 0 and (len(chosen) + 1) * chosen[0][0] <= self._positions:
            pick -= 1
            chosen.append(pool[pick])
        return batch([self._row(indices, draw) for _, indices in chosen])

    def held_back(self, count: int) -> Sequences:
        """Return the utterances that no stage trains on, one per sequence, all text first."""
        plain = [self._spoken(index, 0) for index in range(min(count, len(self._store)))]
        return batch([(whole(self._config, spoken, spoken.tokens), spoken) for spoken in plain])

    def _candidate(self, draw: random.Random) -> tuple[int, list[int]]:
        """A length in positions, and utterances of one speaker."""
        indices = same_speaker(self._groups, draw, draw.choice(COUNTS))
        length = sum(len(self._codes.tokens[i]) + len(self._codes.encodings[i][0].ids) for i in indices) + 2
        return (length, indices) if length <= LONGEST else self._candidate(draw)

    def _row(self, indices: list[int], draw: random.Random) -> tuple[Row, Spoken]:
        spoken = join([self._spoken(index, self._encoding(index, draw)) for index in indices])
        heard = spoken.tokens.copy()
        for place in range(len(heard)):
            if draw.random() < _NOISE:
                heard[place] = draw.randrange(self._config.speech_tokens)
        order = interleaved if draw.random() < INTERLEAVED and can_interleave(self._config, spoken) else whole
        return order(self._config, spoken, heard), spoken

    def _encoding(self, index: int, draw: random.Random) -> int:
        """The plain one in half of all cases, else any."""
        return draw.randrange(len(self._codes.encodings[index])) if draw.random() < 0.5 else 0

    def _spoken(self, index: int, which: int) -> Spoken:
        encoding, tokens = self._codes.encodings[index][which], self._codes.tokens[index]
        if (index, which) not in self._aligned:
            words = self._store.read(index, "words").astype(np.int64)
            lengths = self._lengths[encoding.ids]
            self._aligned[index, which] = align(words, encoding.spans, lengths, len(tokens))
        coarse, fine = self._aligned[index, which]
        phones = self._store.read(index, "phones").astype(np.int64).reshape(-1, 2)
        return Spoken(encoding.ids, tokens, phones, coarse, fine)
