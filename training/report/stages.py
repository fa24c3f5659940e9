"""`python -m training.report.stages`: which stage loses words, on utterances that no stage trains on.

Speaks each utterance's own sound, its mel through the vocoder, and its speech tokens through flow and vocoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.decode.flow.solver import euler_times
from training.codes import Codes, load_codes
from training.fit import load_averaged
from training.networks.flow import FlowTrainer, Windows
from training.networks.vocoder import VocoderTrainer
from training.plan import FULL
from training.report.judges import Dnsmos, find_dnsmos
from training.report.words import spelled, word_errors
from training.sizes import flow_config, vocoder_config
from training.stages.export import PROMPT_FRAMES
from training.stages.flow import FEW_STEPS
from training.store import Store
from training.teacher.check import Listener
from training.teacher.kokoro import RATE
from training.work import DEFAULT, Work

F32 = NDArray[np.float32]
Sound = Callable[[int], F32]
"""From an utterance's number to samples."""


def prompt_for(store: Store, index: int) -> int:
    """Return another utterance of the same speaker, of a prompt's length. Raises ValueError if there is none."""
    low, high = PROMPT_FRAMES
    speaker = store.places[index].utterance.speaker
    for other, place in enumerate(store.places):
        if other != index and place.utterance.speaker == speaker and low <= place.utterance.frames <= high:
            return other
    raise ValueError(f"speaker {speaker} has no other utterance of {low} to {high} frames")


@torch.no_grad()
def mel_of(net: FlowTrainer, codes: Codes, index: int, prompt: int, prompt_mel: F32, steps: int) -> Tensor:
    """The mel [frames, bins] of an utterance's tokens after a prompt; guided unless the flow is distilled."""
    lookahead = net.config.lookahead_tokens
    tokens = np.concatenate((codes.tokens[prompt], codes.tokens[index], np.full(lookahead, -1)))
    frames = net.config.mel_frames_per_token * (len(tokens) - lookahead)
    known = torch.zeros(1, frames, prompt_mel.shape[1])
    known[0, : len(prompt_mel)] = torch.from_numpy(prompt_mel)
    windows = Windows(
        torch.from_numpy(tokens)[None], known, known, torch.from_numpy(codes.speakers[prompt])[None], None
    )
    given, x = net.given(windows), torch.randn(known.shape, generator=torch.Generator().manual_seed(0))
    times = [*(float(time) for time, _ in euler_times(steps)), 1.0]
    walk = net.guided if steps > FEW_STEPS else net.velocity
    for now, after in pairwise(times):
        x = x + (after - now) * walk(x, torch.full((1,), now), given)
    return x[0, len(prompt_mel) :]


def sounds(work: Work, store: Store) -> Mapping[str, Sound]:
    """The stages whose checkpoints exist, by a name for the table."""
    vocoder = cast(VocoderTrainer, load_averaged(VocoderTrainer(vocoder_config()), work.checkpoint("vocoder")))
    codes = load_codes(work.codes / "codes.npz")

    @torch.no_grad()
    def voiced(mel: Tensor) -> F32:
        rows = mel.T[None]
        samples: F32 = vocoder(rows, vocoder.pitch(rows))[0].numpy()
        return samples

    def read(index: int) -> F32:
        return store.read(index, "mel").astype(np.float32)

    found: dict[str, Sound] = {
        "the teacher's speech": lambda index: store.read(index, "wav").astype(np.float32) / np.float32(32768),
        "mel, then vocoder": lambda index: voiced(torch.from_numpy(read(index))),
    }
    for stage, steps in (("flow", flow_config().solver.steps), ("distil", FEW_STEPS)):
        if work.checkpoint(stage).is_file():
            net = cast(FlowTrainer, load_averaged(FlowTrainer(flow_config()), work.checkpoint(stage)))

            def through(index: int, net: FlowTrainer = net, steps: int = steps) -> F32:
                prompt = prompt_for(store, index)
                return voiced(mel_of(net, codes, index, prompt, read(prompt), steps))

            found[f"true tokens, then {stage} ({steps} steps) and vocoder"] = through
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.report.stages", description="Find what loses words.")
    parser.add_argument("--work", type=Path, default=DEFAULT, help="working folder of the recipe")
    parser.add_argument("--utterances", type=int, default=30, help="how many, at most those held back")
    given = parser.parse_args()
    work = Work(given.work)
    store, listener, dnsmos = Store(work.speech), Listener(), find_dnsmos()
    judge = None if dnsmos is None else Dnsmos(dnsmos)
    utterances = range(min(given.utterances, FULL.held_back, len(store)))
    sys.stdout.write("| stage | open word error | DNSMOS overall |\n|---|---|---|\n")
    for name, sound in sounds(work, store).items():
        errors = words = 0
        scores: list[float] = []
        for index in utterances:
            samples, wanted = sound(index), spelled(store.places[index].utterance.text)
            errors += word_errors(wanted, listener.hear(samples, RATE))
            words += len(wanted.split())
            scores += [] if judge is None else [judge.score(samples, RATE)["overall"]]
        score = f"{np.mean(scores):.2f}" if scores else ""
        sys.stdout.write(f"| {name} | {errors / max(1, words):.2f} | {score} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
