"""The thread of an engine: it takes its callers' commands between two turns of work, and sleeps when there is none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch


def current_device(device: torch.device | None) -> AbstractContextManager[object]:
    """Makes a CUDA device the current one of the calling thread for a while; does nothing for any other device.

    Triton's kernels, CUDA graphs and new streams go to the current device, whatever device their tensors are on.
    """
    return torch.cuda.device(device) if device is not None and device.type == "cuda" else nullcontext()


class EngineThread:
    """Owns one thread, which `start` starts. Everything but `post`, `close` and what `lock` guards is the thread's."""

    def __init__(
        self,
        name: str,
        turn: Callable[[], bool],
        end: Callable[[], None],
        heartbeat_s: float,
        device: torch.device | None = None,
    ) -> None:
        """
        Args:
            name: of the thread.
            turn: one turn of work; returns whether the next one should follow at once.
            end: called when no turn follows any more, after `close` or a defect of `turn`.
            heartbeat_s: longest sleep between two turns.
            device: that the work runs on. A new thread's current CUDA device is number 0, so the thread is told.
        """
        self.lock = threading.Condition()
        """Guards what the thread shares with callers."""
        self.alive = True
        """Whether turns still follow; false from `close` on."""
        self._turn, self._end = turn, end
        self._heartbeat_s, self._device = heartbeat_s, device
        self._commands: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, command: Callable[[], object]) -> None:
        """Has the thread call `command` before its next turn, at once if it sleeps."""
        with self.lock:
            self._commands.append(command)
            self.lock.notify()

    def close(self) -> None:
        """Ends the thread after the turn under way and waits for it; safe to call twice, and from the thread itself."""
        with self.lock:
            self.alive = False
            self.lock.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            with current_device(self._device):
                busy = False
                while self.alive:
                    for command in self._take_commands(busy):
                        command()
                    busy = self._turn()
        finally:  # also after a defect of a turn: nobody is left waiting for an engine that is gone
            with self.lock:
                self.alive = False
            self._end()

    def _take_commands(self, busy: bool) -> list[Callable[[], object]]:
        with self.lock:
            if not busy and self.alive and not self._commands:
                self.lock.wait(self._heartbeat_s)
            commands, self._commands = self._commands, []
        return commands
