"""Stage flow: conditional flow matching from tokens to mel (spec section 5), and its distillation to few steps."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.decode.flow.solver import euler_times
from training.batches import by_speaker, same_speaker
from training.codes import Codes, load_codes
from training.fit import Fit, load_averaged, read_checkpoint
from training.networks.flow import FlowTrainer, Given, Windows, cosine_time, of_tensors
from training.plan import Plan
from training.recorded import Figures, Recorded
from training.sizes import flow_config
from training.start import start_from
from training.store import Store
from training.work import Work, write_json

TOKENS, BATCH = 70, 14
"""Tokens of a window, and windows of a step."""
FEW_STEPS, SUB_STEPS = 4, 3
"""Euler steps of the distilled flow, and the teacher's steps for each of them."""
_CHUNKS = (None, None, 25, 50)
"""Chunks of streaming, in tokens, drawn with equal chances; None: a position sees the whole window."""
_NO_PROMPT, _DROPPED = 0.3, 0.2
_PRIOR = 0.3
"""Weight of the distance between the front's output and the mel; it gets a small flow going (Grad-TTS, Popov 2021)."""


def run(work: Work, plan: Plan, effort: float, device: torch.device) -> None:
    """Train up to the round's steps."""
    net = FlowTrainer(flow_config())
    if not work.checkpoint("flow").is_file():
        start_from(work, net, "flow")
    until = plan.upto("flow", effort)
    fit = Fit(
        work,
        "flow",
        net,
        until=until,
        rate=1e-3 * plan.rate_share,
        seed=plan.seed,
        device=device,
        betas=(0.9, 0.99),
        average=0.995,
        minutes=plan.minutes,
    )
    if fit.done:
        return

    def step(kind: tuple[int | None, bool], inputs: tuple[Tensor, ...]) -> Figures:
        chunk, early = kind
        windows = of_tensors(inputs, chunk)
        given = net.given(windows)
        prior = (given.mu - windows.mel).abs().mean()
        matching = _matching(net, given, windows.mel)
        weight = _PRIOR * (1 if early else 0.3)
        return fit.descend(matching + weight * prior, matching=matching, prior=prior)

    recorded = Recorded(step, device, records=plan.records)
    for _, windows in fit.batches(_Batches(work, plan).draw, plan.workers):
        fit.advance(recorded((windows.chunk, fit.share < 0.5), windows.tensors))


def distil(work: Work, plan: Plan, effort: float, device: torch.device) -> None:
    """Train a flow whose FEW_STEPS unguided steps do what three times as many guided ones of the stage flow do.

    From a point between noise and data, the teacher takes SUB_STEPS guided steps; the pupil learns the one step that
    ends there (progressive distillation, Salimans 2022, with guidance as in Meng 2023).
    """
    teacher, net = FlowTrainer(flow_config()), FlowTrainer(flow_config())
    load_averaged(teacher, work.checkpoint("flow")).to(device)
    _begin_again_if_the_teacher_changed(work)
    if not work.checkpoint("distil").is_file():
        net.load_exported(teacher.exported())
    until = plan.upto("distil", effort)
    fit = Fit(
        work,
        "distil",
        net,
        until=until,
        rate=3e-4 * plan.rate_share,
        seed=plan.seed,
        device=device,
        average=0.995,
        minutes=plan.minutes,
    )
    if fit.done:
        return
    times = [float(t) for t, _ in euler_times(FEW_STEPS * SUB_STEPS)] + [1.0]

    def step(kind: tuple[int | None, int], inputs: tuple[Tensor, ...]) -> Figures:
        chunk, number = kind
        windows = of_tensors(inputs, chunk)
        fine = times[number * SUB_STEPS : (number + 1) * SUB_STEPS + 1]
        x = _between(windows.mel, torch.full((len(windows.mel),), fine[0], device=device))
        with torch.no_grad():
            target = (_walk(teacher, teacher.given(windows), x, fine) - x) / (fine[-1] - fine[0])
        velocity = net.velocity(x, torch.full((len(x),), fine[0], device=device), net.given(windows))
        loss = ((velocity - target) ** 2).mean()
        return fit.descend(loss, **{f"step{number}": loss})

    recorded = Recorded(step, device, records=plan.records)
    for draw, windows in fit.batches(_Batches(work, plan).draw, plan.workers):
        fit.advance(recorded((windows.chunk, draw.randrange(FEW_STEPS)), windows.tensors))


def _begin_again_if_the_teacher_changed(work: Work) -> None:
    """A pupil of an earlier round is further from the teacher than the teacher's own weights are."""
    note, trained = work.root / "distil_of.json", read_checkpoint(work.checkpoint("flow"))["step"]
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != trained:
        work.checkpoint("distil").unlink(missing_ok=True)
        write_json(note, trained)


def _walk(net: FlowTrainer, given: Given, x: Tensor, times: list[float]) -> Tensor:
    """Guided Euler steps from the first of `times` to the last."""
    for now, after in pairwise(times):
        x = x + (after - now) * net.guided(x, torch.full((len(x),), now, device=x.device), given)
    return x


def _matching(net: FlowTrainer, given: Given, mel: Tensor) -> Tensor:
    t = cosine_time(torch.rand(len(mel), device=mel.device))
    noise = torch.randn_like(mel)
    x = (1 - t[:, None, None]) * noise + t[:, None, None] * mel
    kept = (torch.rand(len(mel), device=mel.device) >= _DROPPED).float()
    return ((net.velocity(x, t, given, kept) - (mel - noise)) ** 2).mean()


def _between(mel: Tensor, t: Tensor) -> Tensor:
    return (1 - t[:, None, None]) * torch.randn_like(mel) + t[:, None, None] * mel


class _Batches:
    """Windows across utterances of one speaker."""

    def __init__(self, work: Work, plan: Plan) -> None:
        self._store, self._codes = Store(work.speech), load_codes(work.codes / "codes.npz")
        self._groups = by_speaker(self._store, plan.held_back)
        self._count = max(2, round(BATCH * plan.batch_share))
        self._lookahead = flow_config().lookahead_tokens

    def draw(self, draw: random.Random) -> Windows:
        """Return a batch."""
        rows = [_window(self._store, self._codes, self._groups, draw, self._lookahead) for _ in range(self._count)]
        tokens, mel, cond, speakers = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return Windows(tokens, mel, cond, speakers, draw.choice(_CHUNKS))


def _window(
    store: Store, codes: Codes, groups: dict[int, list[int]], draw: random.Random, lookahead: int
) -> tuple[NDArray[Any], ...]:
    """Tokens, mel, prompt and speaker of one window; streams are utterances one after the other, and may end early."""
    indices = same_speaker(groups, draw, 2)
    while sum(len(codes.tokens[i]) for i in indices) < TOKENS:
        indices.append(draw.choice(indices))
    tokens = np.concatenate([codes.tokens[i] for i in indices])
    mel = np.concatenate([store.read(i, "mel") for i in indices])
    tokens = np.concatenate((tokens, np.full(lookahead, -1)))
    first = draw.randrange(len(tokens) - lookahead - TOKENS + 1)
    mel = mel[2 * first : 2 * (first + TOKENS)].astype(np.float32)
    cond = np.zeros_like(mel)
    if draw.random() >= _NO_PROMPT:
        prompt = draw.randint(1, round(1.1 * TOKENS))
        cond[:prompt] = mel[:prompt]
    return tokens[first : first + TOKENS + lookahead], mel, cond, codes.speakers[draw.choice(indices)]
