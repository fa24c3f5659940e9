"""Breaks decode and llm workers at random moments of playing utterances; `make faults`.

    python -m tests.faults [--stage llm] [--simulated 100] [--embedded 20] [--cosyvoice3 0] [--seed 0]

Exit status 1 if an utterance lost, repeated or changed a sample or failed, or if a drained worker did not end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.harness import FAULTS, Kind, break_often, summary


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--simulated", type=int, default=100, help="faults with the simulated backends")
    parser.add_argument("--embedded", type=int, default=20, help="faults with the embedded voice")
    parser.add_argument("--cosyvoice3", type=int, default=0, help="faults with CosyVoice3's random weights")
    parser.add_argument("--seed", type=int, default=0, help="selects moments, workers and sentences")
    parser.add_argument(
        "--stage",
        choices=list(FAULTS),
        action="append",
        help="service whose workers break; default: both, one after the other",
    )
    options = parser.parse_args()
    wrong = 0
    kinds: tuple[tuple[Kind, int], ...] = (
        ("simulated", options.simulated),
        ("embedded", options.embedded),
        ("cosyvoice3", options.cosyvoice3),
    )
    for stage, (kind, times) in itertools.product(options.stage or FAULTS, kinds):
        if not times:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-") as logs:
            outcomes = asyncio.run(break_often(kind, stage, times, Path(logs), options.seed))
        wrong += sum(bool(outcome.wrong) for outcome in outcomes)
        sys.stdout.write(f"{stage}, {summary(kind, outcomes)}\n  in {time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
