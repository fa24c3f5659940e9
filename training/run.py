"""The driver: all stages in order, round by round, each resuming where it stopped."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from training.plan import FULL, QUICK, Plan, Round
from training.start import remember
from training.work import DEFAULT, Work

WORDNET = Path(".tools/wordnet/usr/share/wordnet")
"""Where `make voice` unpacks Debian's package wordnet-base."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    work: Work
    plan: Plan
    wordnet: Path
    device: torch.device
    stages: Sequence[str]
    start: Path | None


Stage = Callable[[Options, Round], None]


def _module(name: str) -> Any:
    """A stage's module, imported when it runs: on a GPU machine most packages of the other stages are missing."""
    return importlib.import_module(f"training.stages.{name}")


def _sentences(options: Options) -> list[str]:
    sentences: list[str] = _module("text").run(options.work, options.plan, options.wordnet)
    return sentences


def _text(options: Options, goal: Round) -> None:
    say(f"text: {len(_sentences(options))} sentences")


def _phones(options: Options, goal: Round) -> None:
    sentences = _sentences(options)
    say(f"phones: {_module('phones').run(options.work, sentences)} of {len(sentences)} sentences can be pronounced")


def _speech(options: Options, goal: Round) -> None:
    _module("speech").run(options.work, options.plan, _sentences(options), goal.hours, options.device.type)


def _trains(module: str, function: str = "run") -> Stage:
    def stage(options: Options, goal: Round) -> None:
        getattr(_module(module), function)(options.work, options.plan, goal.effort, options.device)

    return stage


def _codes(options: Options, goal: Round) -> None:
    _module("codes").run(options.work, _sentences(options), options.device)


def _export(options: Options, goal: Round) -> None:
    say(f"export: {_module('export').run(options.work)}")


def _report(options: Options, goal: Round) -> None:
    for line in _module("report").run(options.work, options.plan, options.work.export):
        say(f"  {line}")


def _pack(options: Options, goal: Round) -> None:
    for path in _module("pack").run(options.work):
        say(f"  {path}: {path.stat().st_size / 1e6:.1f} MB")


STAGES: Mapping[str, Stage] = {
    "text": _text,
    "phones": _phones,
    "speech": _speech,
    "tokenizer": _trains("tokenizer"),
    "speaker": _trains("speaker"),
    "codes": _codes,
    "flow": _trains("flow"),
    "vocoder": _trains("vocoder"),
    "lm": _trains("lm"),
    "distil": _trains("flow", "distil"),
    "export": _export,
    "report": _report,
    "pack": _pack,
}
"""In order. Flow and vocoder come first, because they decide most of the quality."""
NOT_BY_DEFAULT = ("pack",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse(arguments)
    if options.device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    else:
        # TensorFloat-32 is exact enough for training.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    remember(options.work, options.start)
    rounds = options.plan.rounds
    for number, goal in enumerate(rounds, start=1):
        say(f"Round {number} of {len(rounds)}: {goal.hours} hours of speech, {goal.effort:.0%} of all training steps")
        for name, stage in STAGES.items():
            if name in options.stages:
                say(f"{name}:")
                torch.manual_seed(options.plan.seed)  # of a network's first weights
                stage(options, goal)


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    default = [name for name in STAGES if name not in NOT_BY_DEFAULT]
    parser = argparse.ArgumentParser(prog="python -m training", description="Make the embedded voice.")
    parser.add_argument("--work", type=Path, default=DEFAULT, help="folder of all intermediate results")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder with WordNet's files data.*")
    parser.add_argument("--quick", action="store_true", help="every stage on a few sentences, in about three minutes")
    parser.add_argument("--check", action="store_true", help="keep only speech that a recogniser understands")
    parser.add_argument("--stages", default=",".join(default), help="stages to run, separated by commas")
    parser.add_argument("--rounds", type=read_rounds, help="HOURS:EFFORT of each round, for example 0.6:0.12,5:1")
    parser.add_argument("--device", help="cuda or cpu; by default cuda where torch finds a GPU")
    parser.add_argument("--minutes", type=float, help="most minutes of each stage's training; it ends well then, too")
    parser.add_argument("--batch", type=float, default=1.0, metavar="FACTOR", help="factor of the batch sizes")
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="FACTOR", help="factor of the learning rates; below 1 to go on well"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that speak, or make batches; default: 0 on a CPU, else all cores but two"
    )
    parser.add_argument("--plain-steps", action="store_true", help="on a GPU, launch each step's kernels one by one")
    parser.add_argument("--start", type=Path, help="model directory whose weights flow, vocoder and lm start from")
    given = parser.parse_args(arguments)
    stages = given.stages.split(",")
    unknown = set(stages) - set(STAGES)
    if unknown:
        parser.error(f"--stages: no stage is named {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if given.start is not None and not given.start.is_dir():
        parser.error(f"--start: {given.start} is not a directory")
    plan = replace(
        QUICK if given.quick else FULL, check_words=given.check, records=not given.plain_steps, rate_share=given.rate
    )
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    work = Work(given.work / "quick" if given.quick else given.work)
    share = plan.batch_share * given.batch
    # A CPU's cores train; with a GPU they make batches.
    workers = given.workers if given.workers is not None else 0 if device == "cpu" else max(1, cores() - 2)
    plan = replace(plan, rounds=given.rounds or plan.rounds, minutes=given.minutes, batch_share=share, workers=workers)
    return Options(work, plan, given.wordnet, torch.device(device), stages, given.start)


def read_rounds(written: str) -> tuple[Round, ...]:
    """Read `HOURS:EFFORT,…`. Raises ValueError."""
    pairs = [pair.split(":") for pair in written.split(",")]
    return tuple(Round(float(hours), float(effort)) for hours, effort in pairs)


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
