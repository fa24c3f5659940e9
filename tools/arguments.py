"""The command line of the tools that write files of this repository."""

from __future__ import annotations

import argparse
from pathlib import Path


def path_to_write(description: str | None) -> Path:
    """Return the file or folder that the command line names; `--help` shows the description."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("path", type=Path, help="what to write; `make format` writes all")
    path: Path = parser.parse_args().path
    return path
