"""The thread of an engine: it runs its callers' commands between two turns of work, and sleeps without work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch


def current_device(device: torch.device | None) -> AbstractContextManager[object]:
    """Make a CUDA device the current one of the calling thread within a block; do nothing for any other device.

    Triton's kernels, CUDA graphs and new streams use the current device, whatever device their tensors are on.
    """
    return torch.cuda.device(device) if device is not None and device.type == "cuda" else nullcontext()


class EngineThread:
    """Owns one thread, which `start` starts. Other threads use only `post`, `close`, `alive` and state under `lock`."""

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
            name: name of the thread.
            turn: runs one turn of work; returns whether the next one should follow at once.
            end: called after the last turn, that is after `close` or a defect of `turn`.
            heartbeat_s: longest sleep between two turns, in seconds.
            device: the device of the work. The thread makes it current, because a new thread starts with CUDA device 0.
        """
        self.lock = threading.Condition()
        """Guards the state that the thread shares with callers."""
        self.alive = True
        """Whether turns still follow; false after `close`."""
        self._turn, self._end = turn, end
        self._heartbeat_s, self._device = heartbeat_s, device
        self._commands: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, command: Callable[[], object]) -> None:
        """Let the thread call `command` before its next turn; wake the thread if it sleeps."""
        with self.lock:
            self._commands.append(command)
            self.lock.notify()

    def close(self) -> None:
        """End the thread after its current turn and wait for it; may be called twice, and from the thread itself."""
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
        finally:  # also after a defect of a turn, so that no caller waits for an engine that has ended
            with self.lock:
                self.alive = False
            self._end()

    def _take_commands(self, busy: bool) -> list[Callable[[], object]]:
        with self.lock:
            if not busy and self.alive and not self._commands:
                self.lock.wait(self._heartbeat_s)
            commands, self._commands = self._commands, []
        return commands
