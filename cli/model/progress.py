"""Shows a bar per file while a checkpoint is fetched; plain lines if the output is not a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.console import err


class DownloadProgress:
    """Receives the progress of `cli.model.fetch`. A context manager: the bar disappears at its end."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=err, disable=not err.is_terminal, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, line: str) -> None:
        err.print(line, markup=False, soft_wrap=True)

    def begin(self, name: str, size: int, done: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        if not err.is_terminal:
            self.note(f"  {name} ({size / 1e6:.1f} MB)" + (f", {done / 1e6:.1f} MB on disk" if done else ""))
        self._task = self._bars.add_task(name, total=size, completed=done)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, count)
