"""The kinds of faults: signals to processes, and a bad network between llm and decode workers."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable

from tests.faults.stacks import Process, Target, send

KINDS = {
    "kill-decode": "kill one decode worker (SIGKILL)",
    "stop-decode": "freeze one decode worker for 4 to 9 s (SIGSTOP)",
    "term-decode": "drain one decode worker (SIGTERM)",
    "kill-llm": "kill one llm worker",
    "stop-llm": "freeze one llm worker for 4 to 9 s",
    "term-llm": "drain one llm worker",
    "kill-two-decode": "kill two decode workers at once",
    "kill-llm-and-decode": "kill one llm worker and one decode worker at once",
    "stop-decode-kill-decode": "freeze one decode worker, kill another one up to 2 s later",
    "all-decode-dead-5s": "freeze every decode worker for 5 s",
    "kill-encode": "kill the encode worker",
    "stop-encode": "freeze the encode worker for 4 to 9 s",
    "net-delay": "delay the network to every decode worker by 0.2 s per piece, for 6 s",
    "net-stall": "stall the network to one decode worker for 4 to 8 s",
    "net-reset": "reset every connection to every decode worker",
    "net-slow": "limit the network to every decode worker to 60 kB/s, for 6 s",
    "kill-gateway": "kill the gateway",
    "term-gateway": "drain the gateway",
}
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
NETWORK_SECONDS = 6.0
SLOW_RATE = 60_000.0
"""Bytes per second; 16-bit audio at 24 kHz needs 48,000 in real time."""


def possible(kind: str, target: Target) -> bool:
    """Return whether the target has the parts that this kind of fault breaks."""
    if kind.startswith("net-"):
        return bool(target.proxies)
    return kind.count("decode") + kind.count("two") < 2 or len(target.decodes) > 1


class Faults:
    """Inflicts faults on random parts of a target, and ends lasting ones."""

    def __init__(self, target: Target, random: random.Random) -> None:
        self._target, self._random = target, random
        self._recoveries: list[asyncio.Task[None]] = []

    async def inflict(self, kind: str) -> None:
        """Inflict one fault of KINDS; a lasting fault ends by itself. Raises ValueError for another kind."""
        target = self._target
        decodes = self._random.sample(target.decodes, len(target.decodes))
        llms = self._random.sample(target.llms, len(target.llms))
        proxies = self._random.sample(target.proxies, len(target.proxies))
        single = {"decode": decodes[0], "llm": llms[0], "encode": target.encode, "gateway": target.gateway}
        match kind.split("-"):
            case [("kill" | "stop" | "term") as action, ("decode" | "llm" | "encode" | "gateway") as stage]:
                send(single[stage], SIGNALS[action])
                if action == "stop":
                    self._thaw_after(self._random.uniform(4, 9), single[stage])
            case ["kill", "two", "decode"]:
                send(decodes[0], signal.SIGKILL)
                send(decodes[1], signal.SIGKILL)
            case ["kill", "llm", "and", "decode"]:
                send(llms[0], signal.SIGKILL)
                send(decodes[0], signal.SIGKILL)
            case ["stop", "decode", "kill", "decode"]:
                send(decodes[0], signal.SIGSTOP)
                self._thaw_after(self._random.uniform(4, 9), decodes[0])
                await asyncio.sleep(self._random.uniform(0, 2))
                send(decodes[1], signal.SIGKILL)
            case ["all", "decode", "dead", "5s"]:
                # Frozen and not killed: a killed process needs longer than 5 s to load its model on a slow machine.
                for decode in decodes:
                    send(decode, signal.SIGSTOP)
                    self._thaw_after(5.0, decode)
            case ["net", "delay"]:
                for proxy in proxies:
                    proxy.delay = 0.2
                    self._after(NETWORK_SECONDS, proxy.restore)
            case ["net", "stall"]:
                proxies[0].stall()
                self._after(self._random.uniform(4, 8), proxies[0].restore)
            case ["net", "reset"]:
                for proxy in proxies:
                    proxy.reset()
            case ["net", "slow"]:
                for proxy in proxies:
                    proxy.rate = SLOW_RATE
                    self._after(NETWORK_SECONDS, proxy.restore)
            case _:
                raise ValueError(f"unknown kind of fault: {kind}")

    async def ended(self) -> None:
        """Wait until every lasting fault has ended."""
        await asyncio.gather(*self._recoveries)
        self._recoveries.clear()

    def _thaw_after(self, seconds: float, process: Process) -> None:
        self._after(seconds, lambda: send(process, signal.SIGCONT))

    def _after(self, seconds: float, recover: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            recover()

        self._recoveries.append(asyncio.create_task(wait()))
