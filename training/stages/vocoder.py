"""Stage vocoder: mel to samples; for the last third of the steps against small discriminators."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
from torch import Tensor

from training.batches import long_enough
from training.fit import Fit, adam, descend
from training.networks.discriminators import Discriminators, adversarial, real_or_made
from training.networks.spectra import Spectra
from training.networks.vocoder import VocoderTrainer
from training.plan import Plan
from training.recorded import Figures, Recorded
from training.sizes import vocoder_config
from training.start import start_from
from training.store import Store
from training.work import Work

FRAMES, BATCH = 20, 12
ADVERSARIAL_FROM = 2 / 3
"""Share of the plan's steps after which discriminators take part."""
_MEL, _PITCH, _FEATURES = 3.0, 0.02, 2.0
_TRUE_PITCH, _TRUE_PITCH_STEPS = 0.3, 600
"""How often the excitation has the true pitch, and the first steps, in which it always has."""


def run(work: Work, plan: Plan, effort: float, device: torch.device) -> None:
    """Train up to the round's steps."""
    net, critics, spectra = VocoderTrainer(vocoder_config()), Discriminators(), Spectra().to(device)
    fresh = not work.checkpoint("vocoder").is_file()
    if fresh:
        start_from(work, net, "hift")
    until = plan.upto("vocoder", effort)
    fit = Fit(
        work,
        "vocoder",
        net,
        until=until,
        rate=8e-4 * plan.rate_share,
        seed=plan.seed,
        device=device,
        betas=(0.8, 0.98),
        decay=0.0,
        clip=10.0,
        average=0.99,
        beside={"critics": critics},
        minutes=plan.minutes,
    )
    if fit.done:
        return
    store = Store(work.speech)
    usable = long_enough(store, FRAMES, plan.held_back)
    trains_critics = adam(critics, 2e-4 * plan.rate_share, (0.8, 0.99))

    def step(kind: tuple[bool, bool], inputs: tuple[Tensor, ...]) -> Figures:
        true, judged = kind
        mel, samples, pitch = inputs
        predicted = net.pitch(mel)
        made = net(mel, pitch if true else predicted.detach())[:, : samples.shape[1]]
        spectral, mels = spectra.distance(made, samples)
        off = (predicted - pitch).abs().mean()
        loss = spectral + _MEL * mels + _PITCH * off
        figures = {"spectrum": spectral, "mel": mels, "pitch": off}
        if judged:
            critic = real_or_made(critics(samples), critics(made.detach()))
            descend(trains_critics, critics, critic)
            fooled, features = adversarial(critics(samples), critics(made))
            loss = loss + fooled + _FEATURES * features
            figures |= {"critic": critic.detach(), "fooled": fooled}
        return fit.descend(loss, **figures)

    recorded = Recorded(step, device, records=plan.records)
    for draw, host in fit.batches(partial(_batch, store, usable, plan), plan.workers):
        true = fit.step < _TRUE_PITCH_STEPS or draw.random() < _TRUE_PITCH
        judged = fit.share_of(plan.steps["vocoder"]) >= ADVERSARIAL_FROM
        fit.advance(recorded((true, judged), host))


def _batch(store: Store, usable: list[int], plan: Plan, draw: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """mel [B, 80, FRAMES], samples [B, FRAMES * 480], pitch [B, FRAMES] in Hz."""
    mel, samples, pitch = [], [], []
    for _ in range(max(2, round(BATCH * plan.batch_share))):
        index = draw.choice(usable)
        first = draw.randrange(store.places[index].utterance.frames - FRAMES + 1)
        last = first + FRAMES
        mel.append(store.read(index, "mel", first, last).T.astype(np.float32))
        samples.append(store.read(index, "wav", first, last).astype(np.float32) / 32768)
        pitch.append(store.read(index, "pitch", first, last))
    parts = [torch.from_numpy(np.stack(rows)) for rows in (mel, samples, pitch)]
    return parts[0], parts[1], parts[2]
