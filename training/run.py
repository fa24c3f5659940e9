"""The driver: all stages in order, round by round, each resuming where it stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from training.plan import FULL, QUICK, Plan, Round
from training.stages import speech, text
from training.work import DEFAULT, Work

WORDNET = Path(".tools/wordnet/usr/share/wordnet")


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    work: Work
    plan: Plan
    wordnet: Path
    device: torch.device
    stages: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse(arguments)
    torch.set_num_threads(1)
    for number, goal in enumerate(options.plan.rounds, start=1):
        say(f"Round {number} of {len(options.plan.rounds)}: {goal.hours} hours of speech, effort {goal.effort}")
        run_round(options, goal)


def run_round(options: Options, goal: Round) -> None:
    """Run the chosen stages up to the goal of one round."""
    work, plan, stages = options.work, options.plan, options.stages
    if "text" in stages or "speech" in stages:
        sentences = text.run(work, plan, options.wordnet)
        say(f"text: {len(sentences)} sentences")
        if "speech" in stages:
            speech.run(work, plan, sentences, goal.hours)


STAGES = ("text", "speech")


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Make the embedded voice.")
    parser.add_argument("--work", type=Path, default=DEFAULT, help="folder of all intermediate results")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder with WordNet's files data.*")
    parser.add_argument("--quick", action="store_true", help="every stage on a few sentences, in about two minutes")
    parser.add_argument("--check", action="store_true", help="keep only speech that a recogniser understands")
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to run, separated by commas")
    parser.add_argument("--rounds", help="HOURS:EFFORT of each round, separated by commas, for example 0.6:0.12,5:1")
    parser.add_argument("--device", help="cuda or cpu; by default cuda where torch sees a GPU")
    given = parser.parse_args(arguments)
    stages = given.stages.split(",")
    unknown = set(stages) - set(STAGES)
    if unknown:
        parser.error(f"--stages: no stage is named {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    plan = QUICK if given.quick else FULL
    changes = {"check_words": given.check, "rounds": read_rounds(given.rounds) if given.rounds else plan.rounds}
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    work = Work(given.work / "quick" if given.quick else given.work)
    return Options(work, replace(plan, **changes), given.wordnet, torch.device(device), stages)


def read_rounds(text: str) -> tuple[Round, ...]:
    """Read `HOURS:EFFORT,…`."""
    pairs = [pair.split(":") for pair in text.split(",")]
    return tuple(Round(float(hours), float(effort)) for hours, effort in pairs)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
