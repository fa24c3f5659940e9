"""`python -m tools.dashboards DIR`: write one JSON file per dashboard."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.dashboards import gpu, pool, time, user
from tools.dashboards.grafana import to_json

BOARDS = (user.BOARD, time.BOARD, pool.BOARD, gpu.BOARD)


def write(directory: Path) -> None:
    """Write every dashboard into `directory`; create the directory if it does not exist."""
    directory.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (directory / f"{board.uid}.json").write_text(to_json(board), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
