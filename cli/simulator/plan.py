"""How many workers a number of streams needs: measured by the simulator at the costs of a GPU."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cli.bench.report import Report, Target
from cli.bench.search import largest_held
from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import simulate

STATE_BYTES_PER_SECOND = 115e6
"""States of CosyVoice2's flow at full size in bfloat16, per second of prompt and speech (docs/architecture.md)."""
KV_BYTES_PER_TOKEN = 2 * 24 * 2 * 64 * 2
"""Keys and values of the 0.5B language model in bfloat16: 24 layers, 2 heads of 64."""
LLM_WEIGHTS_BYTES, DECODE_WEIGHTS_BYTES = 1.3e9, 4e9
"""What a worker holds without any stream: weights, programs and buffers, rounded up."""
ALONE = 0.2
"""Streams of a load in which hardly two play at once."""
LENGTHS = 4
"""Length of a simulated load in lengths of a session, so that most of it runs with all streams."""
SPARE = 1
"""Decode workers that may fail without a refusal."""
PLENTY = {"max_running": 1024, "steps_per_turn": 8}
"""Settings of an llm worker that is never full; a GPU runs eight steps at a time."""
OPEN = {"decode_max_streams": 1024, "decode_max_queue": 1024}


@dataclass(frozen=True)
class Need:
    """What is to be served."""

    streams: int
    """Sessions that play at once, at the peak."""
    voice_seconds: float
    """Audio of a session."""
    first_audio: float
    """Largest p95 of the time to the first audio, in seconds."""
    llm_costs: str
    decode_costs: str
    """Cost files."""
    prompt_seconds: float = 8.0
    sessions: int = 60
    """Least sessions of a simulated load."""
    seed: int = 0

    @property
    def target(self) -> Target:
        return Target(self.first_audio)

    def scenario(self, rate: float, **fields: Any) -> dict[str, Any]:
        """Return the fields of a load of `rate` sessions per second, long enough to fill the workers."""
        return {
            "llm_cost_file": self.llm_costs,
            "decode_cost_file": self.decode_costs,
            "sentence_seconds": self.voice_seconds,
            "prompt_seconds": self.prompt_seconds,
            "rate": rate,
            "seconds": max(self.sessions / rate, LENGTHS * self.voice_seconds),
            "seed": self.seed,
            "llm": PLENTY,
            "decode": OPEN,
            **fields,
        }


@dataclass(frozen=True)
class Plan:
    """The answer. Memory in bytes."""

    need: Need
    per_llm: float
    per_decode: float
    """Streams that one worker holds."""
    llm_workers: int
    decode_workers: int

    @classmethod
    def of(cls, need: Need, per_llm: float, per_decode: float) -> Plan:
        llm = max(1, math.ceil(need.streams / per_llm))
        return cls(need, per_llm, per_decode, llm, math.ceil(need.streams / per_decode) + SPARE)

    @property
    def streams_per_decode(self) -> int:
        """Streams of a decode worker while the spare one is lost."""
        return math.ceil(self.need.streams / max(1, self.decode_workers - SPARE))

    @property
    def streams_per_llm(self) -> int:
        return math.ceil(self.need.streams / self.llm_workers)

    @property
    def decode_bytes(self) -> float:
        """Memory of a decode worker in which no state is evicted."""
        seconds = self.need.prompt_seconds + self.need.voice_seconds
        return DECODE_WEIGHTS_BYTES + self.streams_per_decode * seconds * STATE_BYTES_PER_SECOND

    @property
    def kv_tokens(self) -> int:
        """Slots of an llm worker's K/V cache: prompt, text and speech of its streams."""
        seconds = self.need.prompt_seconds + self.need.voice_seconds
        return math.ceil(self.streams_per_llm * seconds * (25 + 25 / 6) / 1024) * 1024

    @property
    def llm_bytes(self) -> float:
        return LLM_WEIGHTS_BYTES + self.kv_tokens * KV_BYTES_PER_TOKEN

    def price_per_audio_hour(self, gpu_price: float) -> float:
        """Price of an hour of audio at the peak, if a GPU costs `gpu_price` per hour."""
        return (self.llm_workers + self.decode_workers) * gpu_price / self.need.streams

    def values(self) -> str:
        """Return the part of the chart's values.yaml."""
        fragment: Mapping[str, Any] = {
            "llm": {
                "replicaCount": self.llm_workers,
                "settings": {"max_running": self.streams_per_llm, "total_tokens": self.kv_tokens},
            },
            "decode": {
                "replicaCount": self.decode_workers,
                "settings": {
                    "decode_max_streams": self.streams_per_decode,
                    "decode_max_queue": max(10, self.streams_per_decode // 4),
                },
            },
        }
        return yaml.safe_dump(fragment, sort_keys=False)


def make_plan(need: Need) -> Plan | None:
    """Find the streams that one worker of each kind holds; None if one decode worker holds no stream in time.

    Raises ScenarioError for costs that cannot be used.
    """
    decode = _held(need, {"decode_workers": 1, "llm_workers": 4})
    if not decode:
        return None
    llm = _held(need, {"decode_workers": max(2, math.ceil(4 * need.streams / decode)), "llm_workers": 1}, need.streams)
    return Plan.of(need, llm or 1.0, decode)


def _held(need: Need, workers: dict[str, Any], most: float = math.inf) -> float:
    """Return the largest number of streams that these workers hold, up to `most`; 0 if they hold none."""

    async def measure(rate: float) -> Report:
        return await asyncio.to_thread(lambda: simulate(make_scenario(need.scenario(rate, **workers))).report)

    async def search() -> Report | None:
        if most < math.inf:
            full = await measure(most / need.voice_seconds)
            if need.target.held(full):
                return full
        if not need.target.held(await measure(ALONE / need.voice_seconds)):
            return None
        return await largest_held(measure, need.target, 4 / need.voice_seconds, within=1.15)

    best = asyncio.run(search())
    return min(most, best.rate * need.voice_seconds) if best is not None else 0.0
