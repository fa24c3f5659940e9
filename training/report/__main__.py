"""`python -m training.report DIRECTORY`: measure any model directory, without training."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from training.plan import FULL
from training.stages import report
from training.work import DEFAULT, Work


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.report", description="Measure a voice.")
    parser.add_argument("directory", type=Path, help="model directory")
    parser.add_argument("--work", type=Path, default=DEFAULT, help="folder of the report and of the logged losses")
    parser.add_argument("--sentences", type=int, default=FULL.report_sentences, help="how many sentences to speak")
    given = parser.parse_args()
    lines = report.run(Work(given.work), replace(FULL, report_sentences=given.sentences), given.directory)
    sys.stdout.write("\n".join(lines) + "\n")


main()
