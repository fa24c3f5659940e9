"""Breaks a whole stack while streams play, and compares what a client received with an undisturbed run.

`python -m tests.faults` breaks one llm or decode worker at a time. This command also breaks encode and the gateway,
several processes at once, and the network between llm and decode workers. It starts its own stack on free ports
(processes that die are restarted), or attaches to one that `light-tts up` runs on this machine.

  python -m tests.faults.client --runs 36                 every kind of fault twice, with the embedded voice
  python -m tests.faults.client --simulated --runs 100    backends that sleep instead of computing: exact and cheap
  python -m tests.faults.client --only kill-llm,net-stall --runs 20 --seed 7
  python -m tests.faults.client --attach 127.0.0.1:50050  breaks a running stack; its supervisor restarts processes

Each run speaks random texts on --streams streams, sent in random fragments, inflicts one fault at a random moment, and
then checks that a new request succeeds. Results go to DIR/runs.jsonl, one line per stream (`after`: seconds until the
fault; `done`: streams that had ended by then), and accumulate over calls. The table covers the whole file. Its columns:

  streams                 streams that played at a fault
  moved                   streams that another worker resumed
  errors                  streams that ended with an error
  lost, repeated, wrong   samples; wrong ones differ by more than the tolerance
  worst                   largest difference of a sample, in 16-bit steps
  moved gap               median of the longest time between two chunks, of the streams that moved
  gap>1s                  streams with more than 1 s between two chunks
  silent                  streams in which a player with a buffer of 0.25 s had nothing to play for more than 1 s
  next                    failed requests after the fault

Exit status 1 if a stream lost, repeated or changed a sample or did not end, or if a later request failed. Errors
that a stream reported to its client are counted, but do not change the exit status: a killed gateway must cause some.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.client import Access
from cli.local.ports import PortError
from cli.local.process import WorkerError
from tests.faults.comparison import compare, damaged, read_rows, table
from tests.faults.conversation import Recording, converse
from tests.faults.harness import SENTENCES, TIERS
from tests.faults.kinds import KINDS, Faults, possible
from tests.faults.stacks import NoStack, Target, attach, own_stack

TEXTS = tuple(f"{SENTENCES[number]} {SENTENCES[number - 1]}" for number in range(len(SENTENCES)))
CHECK_TEXT = "Good morning, Alice."
CHECK_SEED = 99
SETTLE_SECONDS = 1.5
"""From the end of a fault to the next request: clients need time to find restarted workers."""


class Campaign:
    """Many faults on one target."""

    def __init__(self, target: Target, options: argparse.Namespace, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._target, self._options, self._write = target, options, write
        self._random = random.Random(options.seed)
        self._faults = Faults(target, self._random)
        self._tolerance = TIERS["simulated" if options.simulated else "embedded"]
        self._undisturbed: list[NDArray[np.int32]] = []
        self._seconds = 0.0
        """Duration of undisturbed streams that play at the same time."""

    async def measure(self) -> None:
        """Record the undisturbed audio of every text. Raises NoStack if a request fails."""
        for number in range(len(TEXTS)):
            recording = await self._speak(number)
            if recording.code != "OK":
                raise NoStack(f"an undisturbed request failed: {recording.code}: {recording.details}")
            self._undisturbed.append(recording.samples)
            seconds = len(recording.samples) / recording.sample_rate
            again = await self._speak(number, random.Random(number))
            self._report(f"undisturbed text {number}, {seconds:.1f} s of audio, sent again in fragments", number, again)
        numbers = [number % len(TEXTS) for number in range(self._options.streams)]
        for number, recording in zip(numbers, await asyncio.gather(*map(self._speak, numbers)), strict=True):
            self._seconds = max(self._seconds, recording.seconds)
            self._report(
                f"undisturbed text {number} among {len(numbers)}, {recording.seconds:.1f} s", number, recording
            )

    async def run(self, run: int, kind: str) -> None:
        """Inflict one fault while streams play, and write a row per stream."""
        await self._target.heal()
        numbers = [self._random.randrange(len(TEXTS)) for _ in range(self._options.streams)]
        speaking = [asyncio.create_task(self._speak(number, random.Random(run))) for number in numbers]
        after = self._random.uniform(0.05, 0.8) * self._seconds
        await asyncio.sleep(after)
        done = sum(stream.done() for stream in speaking)
        await self._faults.inflict(kind)
        for number, recording in zip(numbers, await asyncio.gather(*speaking), strict=True):
            comparison = compare(recording, self._undisturbed[number], self._tolerance)
            row = {"run": run, "kind": kind, "after": round(after, 2), "done": done}
            self._write(row | asdict(comparison))
        await self._faults.ended()
        await self._target.heal()
        await asyncio.sleep(SETTLE_SECONDS)
        check = await converse(self._target.access, CHECK_TEXT, CHECK_SEED, self._options.voice)
        if check.code != "OK":
            self._write({"run": run, "kind": kind, "next": check.code, "details": check.details})

    async def _speak(self, number: int, fragments: random.Random | None = None) -> Recording:
        access, voice = self._target.access, self._options.voice
        return await converse(access, TEXTS[number], number + 1, voice, fragments=fragments)

    def _report(self, what: str, number: int, recording: Recording) -> None:
        comparison = compare(recording, self._undisturbed[number], self._tolerance)
        _print(f"{what}: {json.dumps(asdict(comparison))}")


async def break_stack(options: argparse.Namespace) -> bool:
    """Return whether a stream was damaged. Raises NoStack, PortError, WorkerError and TimeoutError."""
    options.dir.mkdir(parents=True, exist_ok=True)
    path, found = options.dir / "runs.jsonl", False
    with path.open("a", encoding="utf-8") as file:

        def write(row: Mapping[str, Any]) -> None:
            nonlocal found
            found = found or damaged(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            _print(json.dumps(row))

        async with AsyncExitStack() as cleanup:
            if options.attach:
                target = attach(Access.of(options.attach))
            else:
                stack = own_stack(options.dir / "logs", options.llm, options.decode, options.simulated)
                target = await cleanup.enter_async_context(stack)
            kinds = [kind for kind in options.only or KINDS if possible(kind, target)]
            if left_out := [kind for kind in options.only or KINDS if kind not in kinds]:
                _print(f"not possible with this stack: {', '.join(left_out)}")
            if not kinds:
                raise NoStack("the chosen faults are not possible with this stack; choose others with --only")
            campaign = Campaign(target, options, write)
            await campaign.measure()
            try:
                for run in range(options.runs):
                    await campaign.run(run, kinds[run % len(kinds)])
            finally:
                await target.heal()
    _print(table(read_rows(path)))
    return found


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(KINDS)}")
    return kinds


def arguments() -> argparse.Namespace:
    width = max(map(len, KINDS))
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.client",
        description=__doc__,
        epilog="kinds of faults:\n" + "\n".join(f"  {kind:{width}}  {text}" for kind, text in KINDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=60, help="faults to inflict, each kind in turn (default: 60)")
    parser.add_argument("--only", type=_kinds, metavar="KIND,...", help="kinds of faults (default: all)")
    parser.add_argument("--streams", type=int, default=2, help="streams that play at a fault (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="selects texts, moments and workers (default: 1)")
    parser.add_argument("--voice", default="anna", help="name of the voice that speaks (default: anna)")
    parser.add_argument("--dir", type=Path, default=Path(".run/faults"), help="results and logs (default: .run/faults)")
    own = parser.add_argument_group("own stack")
    own.add_argument("--llm", type=int, default=2, help="llm workers (default: 2)")
    own.add_argument("--decode", type=int, default=3, help="decode workers (default: 3)")
    own.add_argument(
        "--simulated", action="store_true", help="sleep for a cost model instead of computing; no tolerance"
    )
    other = parser.add_argument_group("running stack")
    other.add_argument(
        "--attach", metavar="HOST:PORT", help="gateway of a stack on this machine, without TLS; no net- faults"
    )
    return parser.parse_args()


def main() -> int:
    try:
        return int(asyncio.run(break_stack(arguments())))
    except (NoStack, PortError, WorkerError, TimeoutError) as error:
        sys.stderr.write(f"{str(error) or 'the stack did not recover in time'}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
