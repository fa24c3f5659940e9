"""Output, exit status and signals of the commands."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterable
from typing import Any, NoReturn

import typer
from rich.console import Console

from cli.local.process import WorkerEvent

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_COLOURS = {"starting": "dim", "serving": "green", "warned": "bold yellow", "died": "bold red", "stopped": "dim"}


def show_event(event: WorkerEvent) -> None:
    """Print one line for an event of a process; deaths stand out."""
    colour = _COLOURS[event.kind]
    err.print(f"  {event.worker:<10} [{colour}]{event.kind:<9}[/] ", end="")
    err.print(event.detail, markup=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Print an error and end the command with status 1."""
    err.print("[bold red]error:[/] ", end="")
    err.print(message, markup=False, soft_wrap=True)
    raise typer.Exit(1)


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
