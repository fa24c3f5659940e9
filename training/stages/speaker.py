"""Stage speaker: tell the speakers apart from a second of speech (additive-margin softmax)."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.batches import long_enough
from training.fit import Fit
from training.networks.speaker import SpeakerClassifier
from training.plan import Plan
from training.store import Store
from training.teacher.speakers import SPEAKERS
from training.work import Work

LENGTHS, BATCH = (60, 80, 100), 32
"""Frames of 20 ms."""
_SCALE, _MARGIN, _NOISE = 15.0, 0.2, 0.1


def run(work: Work, plan: Plan, effort: float, device: torch.device) -> None:
    """Train up to the round's steps."""
    net = SpeakerClassifier(len(SPEAKERS))
    fit = Fit(
        work,
        "speaker",
        net,
        until=plan.upto("speaker", effort),
        rate=2e-3 * plan.rate_share,
        seed=plan.seed,
        device=device,
        minutes=plan.minutes,
    )
    if fit.done:
        return
    store = Store(work.speech)
    usable = long_enough(store, max(LENGTHS), plan.held_back)
    for _, host in fit.batches(partial(_batch, store, usable, plan), plan.workers):
        bank, speakers = (part.to(device) for part in host)
        bank = bank + _NOISE * torch.randn_like(bank)
        cosines = net.cosines(bank)
        wanted = F.one_hot(speakers, len(SPEAKERS))
        loss = F.cross_entropy(_SCALE * (cosines - _MARGIN * wanted), speakers)
        fit.update(loss, right=(cosines.argmax(1) == speakers).float().mean())


def _batch(store: Store, usable: list[int], plan: Plan, draw: random.Random) -> tuple[Tensor, Tensor]:
    frames, rows, speakers = draw.choice(LENGTHS), [], []
    for _ in range(max(4, round(BATCH * plan.batch_share))):
        index = draw.choice(usable)
        utterance = store.places[index].utterance
        first = draw.randrange(utterance.frames - frames + 1)
        rows.append(store.read(index, "kaldi", first, first + frames).astype(np.float32))
        speakers.append(utterance.speaker)
    bank = torch.from_numpy(np.stack(rows))
    return bank - bank.mean(1, keepdim=True), torch.tensor(speakers)
