"""Breaks llm or decode workers while utterances play, and compares the received with the undisturbed audio."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cli.client import ClientError
from cli.local.process import Worker, is_serving
from cli.local.stack import Stack, StackConfig
from services.common.checkpoint.model_dir import CARD
from services.common.settings import EMBEDDED_MODEL
from tests.support.spoken import say

Fault = Literal["kill", "freeze", "drain"]
Stage = Literal["llm", "decode"]
Kind = Literal["simulated", "embedded", "cosyvoice3"]
"""What speaks: backends that sleep, the embedded voice, or CosyVoice3's checkpoint with random weights."""
FAULTS: dict[Stage, tuple[Fault, ...]] = {
    "decode": ("kill", "freeze", "drain"),
    "llm": ("kill", "freeze", "drain"),
}
WORKERS = 3
AT_ONCE = 3
"""Utterances that play when a worker breaks: as many as workers, so that a fault nearly always affects one."""
SENTENCES = (
    "And who is this person you are speaking of?",
    "I have not seen the other one for years, and I do not know where he went.",
    "We do not tell what we heard in the house.",
)
TIERS = {"simulated": 0.0, "embedded": 1e-3 + 2**-15, "cosyvoice3": 1e-3 + 2**-15}
"""Largest difference of a sample: none if audio is a function of the tokens, else float32's error and one s16 step."""
RANDOM_SECONDS = 6.0
"""Longest utterance of random weights, which do not end it."""
DRAIN_LIMIT = 30.0
"""Seconds in which a drained worker must end."""
UTTERANCE_LIMIT = 60.0
"""Seconds after which an utterance counts as hung."""


@dataclass
class Outcome:
    """One fault and the utterances that it affected."""

    fault: Fault
    worker: str
    after: float
    """Seconds from the requests to the fault."""
    moved: int = 0
    wrong: list[str] = field(default_factory=list)
    """Errors; empty if every utterance was complete and equal within its tier's tolerance."""


class FaultStack:
    """A stack in which the workers of one service break one after the other and are restored."""

    def __init__(self, kind: Kind, stage: Stage, log_dir: Path, seed: int) -> None:
        self.kind = kind
        self._random = random.Random(seed)
        self._stack = Stack(_config(kind, stage, log_dir))
        self._workers = self._stack.decode if stage == "decode" else self._stack.llms
        self._whole: list[NDArray[np.float32]] = []
        self._length = 0.0
        self._restoring: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> FaultStack:
        await self._stack.__aenter__()
        try:
            for number, text in enumerate(SENTENCES):
                self._whole.append((await say(self._stack, text, seed=number)).samples)
            started = time.monotonic()
            await asyncio.gather(*(say(self._stack, text, seed=number) for number, text in enumerate(SENTENCES)))
            self._length = time.monotonic() - started
        except BaseException:
            await self._stack.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._restoring:
            task.cancel()
        await asyncio.gather(*self._restoring, return_exceptions=True)
        await self._stack.close()

    async def run(self, fault: Fault) -> Outcome:
        """Speak AT_ONCE utterances, break a worker at a random moment while they play, and restore it later."""
        worker = self._random.choice(await self._healthy(at_least=2))
        outcome = Outcome(fault, worker.name, self._random.uniform(0.0, self._length))
        numbers = [self._random.randrange(len(SENTENCES)) for _ in range(AT_ONCE)]
        speaking = [asyncio.create_task(self._speak(number, outcome)) for number in numbers]
        await asyncio.sleep(outcome.after)
        breaking = asyncio.create_task(self._break(worker, fault, outcome))
        await asyncio.gather(*speaking)
        await breaking
        self._restoring = [task for task in self._restoring if not task.done()]
        self._restoring.append(asyncio.create_task(self._restore(worker, fault)))
        return outcome

    async def _speak(self, number: int, outcome: Outcome) -> None:
        try:
            async with asyncio.timeout(UTTERANCE_LIMIT):
                spoken = await say(self._stack, SENTENCES[number], seed=number)
        except (ClientError, TimeoutError) as error:
            outcome.wrong.append(f"utterance {number}: {error or 'hangs'}")
            return
        outcome.moved += any("moved" in warning for warning in spoken.speech.warnings)
        outcome.wrong += differences(number, spoken.samples, self._whole[number], TIERS[self.kind])
        ends = np.cumsum([len(chunk.pcm) // 2 for chunk in spoken.chunks])
        if [chunk.first_sample for chunk in spoken.chunks] != [0, *ends[:-1]]:
            outcome.wrong.append(f"utterance {number}: its chunks are not consecutive")

    async def _break(self, worker: Worker, fault: Fault, outcome: Outcome) -> None:
        match fault:
            case "kill":
                worker.kill()
            case "freeze":
                worker.freeze()
            case "drain":
                began = time.monotonic()
                await worker.stop(grace=2 * DRAIN_LIMIT)
                took = time.monotonic() - began
                if took > DRAIN_LIMIT:
                    outcome.wrong.append(f"{worker.name} needed {took:.1f} s to drain")

    async def _restore(self, worker: Worker, fault: Fault) -> None:
        if fault == "freeze":
            worker.thaw()
        else:
            await worker.restart()

    async def _healthy(self, at_least: int) -> list[Worker]:
        """Wait until `at_least` workers serve, so that a fault does not break the last one; return those that do."""
        async with asyncio.timeout(UTTERANCE_LIMIT):
            serving: list[Worker] = []
            while len(serving) < at_least:
                serving = [worker for worker in self._workers if await is_serving(worker.address)]
            return serving


def differences(number: int, samples: NDArray[np.float32], whole: NDArray[np.float32], tolerance: float) -> list[str]:
    """Return the errors of an utterance's samples: lost, repeated or changed ones."""
    if samples.shape != whole.shape:
        return [f"utterance {number}: {samples.shape[0]} samples instead of {whole.shape[0]}"]
    worst = float(np.abs(samples - whole).max(initial=0.0))
    return [f"utterance {number}: a sample differs by {worst:.2g}"] if worst > tolerance else []


async def break_often(kind: Kind, stage: Stage, times: int, log_dir: Path, seed: int) -> list[Outcome]:
    """Break a worker `times` times, with each kind of fault in turn, and return the outcomes."""
    outcomes = []
    faults = FAULTS[stage]
    async with FaultStack(kind, stage, log_dir, seed) as stack:
        for number in range(times):
            outcomes.append(await stack.run(faults[number % len(faults)]))
    return outcomes


def summary(kind: str, outcomes: Sequence[Outcome]) -> str:
    """Return one line per kind of fault, and all errors."""
    counts = Counter(outcome.fault for outcome in outcomes)
    moved = Counter[str]()
    for outcome in outcomes:
        moved[outcome.fault] += outcome.moved
    wrong = [f"  {one.fault} of {one.worker} after {one.after:.2f} s: {text}" for one in outcomes for text in one.wrong]
    lines = [f"{kind}: {len(outcomes)} faults, {AT_ONCE * len(outcomes)} utterances, {len(wrong)} wrong"]
    lines += [f"  {fault}: {counts[fault]} faults, {moved[fault]} utterances moved" for fault in counts]
    return "\n".join([*lines, *wrong])


def _config(kind: Kind, stage: Stage, log_dir: Path) -> StackConfig:
    notice = ["--drain-notice-seconds", "0.3"]
    llm = [*notice, "--lead-seconds", "2", "--decode-silence-seconds", "1.0" if kind == "simulated" else "3.0"]
    decode = [*notice]
    if kind == "simulated":
        log_dir.mkdir(parents=True, exist_ok=True)
        costs = {
            "llm": {"step_s": 0.004, "step_s_per_sequence": 0.0002, "prefill_s_per_token": 1e-5},
            "decode": {"batch_s": 0.05, "stream_s": 0.02, "frame_s": 0.0005},
        }
        for flags, service in ((llm, "llm"), (decode, "decode")):
            path = log_dir / f"{service}-costs.json"
            path.write_text(json.dumps(costs[service]), encoding="utf-8")
            flags += [f"--{service}-backend", "simulated", f"--{service}-cost-file", str(path)]
        decode += ["--decode-admission", "off"]
    with suppress(FileExistsError):
        log_dir.mkdir(parents=True)
    if kind == "cosyvoice3":
        llm += ["--max-seconds", str(RANDOM_SECONDS)]
    return StackConfig(
        model_dir=_checkpoint(log_dir / "model") if kind == "cosyvoice3" else EMBEDDED_MODEL,
        decode_workers=WORKERS,
        llm_workers=WORKERS if stage == "llm" else 1,
        log_dir=log_dir,
        flags={"llm": tuple(llm), "decode": tuple(decode), "gateway": ("--llm-silence-seconds", "1.0")},
        restart_dead=False,
    )


def _checkpoint(folder: Path) -> Path:
    """Make a directory of CosyVoice3's random weights with the embedded voice's prompt as its voice."""
    folder.mkdir()
    for file in (Path(__file__).parents[1] / "data" / "cosyvoice3-mini").iterdir():
        (folder / file.name).symlink_to(file)
    for name in ("prompt_anna.wav", "prompt_anna.txt"):
        (folder / name).symlink_to(EMBEDDED_MODEL / name)
    voice = "{name: anna, audio: prompt_anna.wav, transcript: prompt_anna.txt}"
    (folder / CARD).write_text(f"name: random\ntext_streaming: sentence\nvoices: [{voice}]\n", encoding="utf-8")
    return folder
