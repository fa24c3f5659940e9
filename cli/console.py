"""Output, exit status and signals of the commands."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.metadata
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from cli.finding import Finding
from cli.local.process import WorkerEvent

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

PROGRAM = sys.argv[0] if Path(sys.argv[0]).name == "light-tts" else "light-tts"
"""The command as it was called, so that the examples below work when they are pasted."""

_COLOURS = {"starting": "dim", "serving": "green", "warned": "bold yellow", "died": "bold red", "stopped": "dim"}


def examples(*arguments: str) -> str:
    """Return the text under a command's options, one example per line, none longer than a terminal's 80 columns."""
    return "\n".join(["Examples:", *(f"  {PROGRAM} {line}" for line in arguments)])


def package_version() -> str:
    """Return the version of light-tts; a bare GPU machine runs a checkout that is not installed."""
    try:
        return importlib.metadata.version("light-tts")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def show_event(event: WorkerEvent) -> None:
    """Print one line for an event of a process; deaths stand out."""
    colour = _COLOURS[event.kind]
    err.print(f"  {event.worker:<10} [{colour}]{event.kind:<9}[/] ", end="")
    err.print(event.detail, markup=False, soft_wrap=True)


def show_finding(finding: Finding) -> None:
    """Print a finding, and what to do about it."""
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    out.print(f"[{colours[finding.level]}]{finding.level:<4}[/] ", end="")
    out.print(finding.what, markup=False, soft_wrap=True)
    if finding.remedy:
        out.print(f"     → {finding.remedy}", markup=False, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def fail(message: str) -> NoReturn:
    """Print an error and end the command with status 1."""
    err.print("[bold red]error:[/] ", end="")
    err.print(message, markup=False, soft_wrap=True)
    raise typer.Exit(1)


_FAILED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a full or broken disk answers; a closed pipe is handled by the libraries that print."""


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """End the process with status 1 and one line if the block cannot print, for example to a file on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FAILED_WRITES:
            raise
        with contextlib.suppress(OSError):
            err.print(f"error: the output cannot be written: {error.strerror}", markup=False, soft_wrap=True)
        for number in (1, 2):  # what is left in a buffer would fail again while the interpreter ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        sys.exit(1)


def run(main: Coroutine[Any, Any, None]) -> bool:
    """Run `main`. On Ctrl-C, SIGTERM or a closed terminal, cancel it and return False after its cleanup.

    A second signal cancels the cleanup as well, which then kills the processes that it would have stopped.
    """

    async def guarded() -> bool:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        await asyncio.wait({task})
        if task.cancelled():
            return False
        task.result()
        return True

    return asyncio.run(guarded())


def show_serving(addresses: Iterable[tuple[str, str]], example: str) -> None:
    """Print where each API is served, and a command to try."""
    out.print("Serving:")
    for address, apis in addresses:
        out.print(f"  {address:<55} {apis}", markup=False, soft_wrap=True)
    out.print(f"Try:\n  {example}\nCtrl-C stops everything.", markup=False, soft_wrap=True)
