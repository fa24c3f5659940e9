"""Soaks a whole stack with simulated backends: all APIs, cancels, faults and hostile clients together; `make soak`.

    python -m tests.soak [--minutes 10] [--clients 8] [--seed 0]

Exit status 1 if a process keeps memory, descriptors, threads, tasks or slots, if an act does not end, or if the stack
does not speak afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.soak.harness import Soak, soak, soak_stack


async def run(options: argparse.Namespace, folder: Path) -> Soak:
    async with soak_stack(folder) as (target, doors):
        return await soak(target, doors, 60 * options.minutes, options.clients, options.seed, tell=say)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long clients act and faults happen")
    parser.add_argument("--clients", type=int, default=8, help="clients at the same time")
    parser.add_argument("--seed", type=int, default=0, help="selects acts, faults and moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = asyncio.run(run(options, Path(folder)))
    say(result.report())
    return 1 if result.wrong() else 0


if __name__ == "__main__":
    sys.exit(main())
