"""`python -m tools.dashboards DIR`: write one JSON file per dashboard."""

from __future__ import annotations

from pathlib import Path

from tools.arguments import path_to_write
from tools.dashboards import gpu, pool, time, user
from tools.dashboards.grafana import to_json

BOARDS = (user.BOARD, time.BOARD, pool.BOARD, gpu.BOARD)


def write(directory: Path) -> None:
    """Write every dashboard into `directory`; create the directory if it does not exist."""
    directory.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (directory / f"{board.uid}.json").write_text(to_json(board), encoding="utf-8")


if __name__ == "__main__":
    write(path_to_write(__doc__))
