"""`python -m tests.parity DIR`: puts a folder of golden vectors through every check and prints the table.

Exit status 0 when arrays were compared, none failed, and every array of the folder was compared or is informative;
1 when one failed or was skipped, or none was compared; 2 when DIR is no folder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

from tests.parity import checks
from tests.parity.golden import Golden
from tests.parity.registry import run_all
from tests.parity.report import Verdict, table

__all__ = ["checks"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, metavar="DIR", help="a model directory with its golden arrays")
    directory: Path = parser.parse_args(arguments).directory
    if not directory.is_dir():
        sys.stderr.write(f"{directory} is not a folder\n")
        return 2
    torch.set_num_threads(1)
    with Golden(directory) as golden:
        rows = run_all(golden)
    counts = Counter(row.verdict for row in rows)
    words = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    passed = counts[Verdict.PASS] > 0 and not counts[Verdict.FAIL] and not counts[Verdict.SKIPPED]
    sys.stdout.write(f"{table(rows)}\n\n{directory}: {words}\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
