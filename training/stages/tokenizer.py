"""Stage tokenizer: a token must tell the phones of its 40 ms, and with the speaker the mel."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.batches import long_enough
from training.fit import Fit
from training.networks.tokenizer import Tokenizer
from training.plan import Plan
from training.recorded import Figures, Recorded
from training.store import Store
from training.teacher.labels import PHONES
from training.teacher.speakers import SPEAKERS
from training.work import Work

FRAMES, BATCH = 100, 24
_MEL_WEIGHT = 0.5
_SOFT_STEPS = 300
"""First steps, in which half of a batch sees the digits before rounding."""


def make() -> Tokenizer:
    """Return the networks."""
    return Tokenizer(len(PHONES), len(SPEAKERS))


def run(work: Work, plan: Plan, effort: float, device: torch.device) -> None:
    """Train up to the round's steps."""
    net = make()
    until = plan.upto("tokenizer", effort)
    fit = Fit(
        work,
        "tokenizer",
        net,
        until=until,
        rate=2e-3 * plan.rate_share,
        seed=plan.seed,
        device=device,
        average=0.99,
        minutes=plan.minutes,
    )
    if fit.done:
        return
    store = Store(work.speech)
    usable = long_enough(store, FRAMES, plan.held_back)
    fit.judge = lambda: {"right": _right(net, store, range(min(plan.held_back, len(store))), device)}

    def step(soft_too: bool, inputs: tuple[Tensor, ...]) -> Figures:
        whisper, mel, phones, speakers = inputs
        soft = net.encoder.soft(whisper)
        digits = soft + (soft.round() - soft).detach()
        if soft_too:
            hard = (torch.rand(len(digits), 1, 1, device=device) < 0.5).float()
            digits = digits * hard + soft * (1 - hard)
        scores = net.reader.read_phones(digits)
        phone = F.cross_entropy(scores, phones)
        apart = (net.reader.read_mel(digits, speakers) - mel).abs().mean()
        right = (scores.argmax(1) == phones).float().mean()
        return fit.descend(phone + _MEL_WEIGHT * apart, phone=phone, mel=apart, right=right)

    recorded = Recorded(step, device, records=plan.records)
    for _, host in fit.batches(partial(_batch, store, usable, plan), plan.workers):
        fit.advance(recorded(fit.step < _SOFT_STEPS, host))


def _right(net: Tokenizer, store: Store, utterances: range, device: torch.device) -> Tensor:
    """The share of frames whose phone is read right from the tokens of whole utterances."""
    right = []
    for index in utterances:
        whisper = torch.from_numpy(store.read(index, "whisper").T.astype(np.float32)).to(device)
        phones = torch.from_numpy(store.read(index, "phones").astype(np.int64)).to(device)
        right.append(net.reader.read_phones(net.encoder(whisper[None]))[0].argmax(0) == phones)
    return torch.cat(right).float().mean()


def _batch(store: Store, usable: list[int], plan: Plan, draw: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """whisper [B, 128, 2 * FRAMES] a little varied, mel [B, FRAMES, 80], phones [B, FRAMES], speakers [B]."""
    whisper, mel, phones, speakers = [], [], [], []
    for _ in range(max(2, round(BATCH * plan.batch_share))):
        index = draw.choice(usable)
        utterance = store.places[index].utterance
        first = draw.randrange((utterance.frames - FRAMES) // 2 + 1) * 2
        last = first + FRAMES
        # A shift along the mel axis and a gain stand for other speakers and levels.
        shifted = np.roll(store.read(index, "whisper", first, last), draw.randint(-2, 2), axis=1)
        whisper.append(shifted.T.astype(np.float32) + np.float32(draw.gauss(0, 0.05)))
        mel.append(store.read(index, "mel", first, last).astype(np.float32))
        phones.append(store.read(index, "phones", first, last).astype(np.int64))
        speakers.append(utterance.speaker)
    stacked = [torch.from_numpy(np.stack(rows)) for rows in (whisper, mel, phones)]
    return stacked[0], stacked[1], stacked[2], torch.tensor(speakers)
