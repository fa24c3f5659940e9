"""How many workers a number of streams needs: measured by the simulator at the costs of a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.bench.report import Target
from cli.simulator.scenario import ScenarioError, make_scenario
from cli.simulator.simulation import simulate
from services.decode.engine.memory import GPU_SHARE
from services.decode.loading import GPU_BATCH

STATE_BYTES_PER_SECOND = 115e6
"""States of CosyVoice2's flow at full size in bfloat16, per second of prompt and speech (docs/architecture.md)."""
KV_BYTES_PER_TOKEN = 2 * 24 * 2 * 64 * 2
"""Keys and values of the 0.5B language model in bfloat16: 24 layers, 2 heads of 64."""
TOKEN_RATE, FRAMES_PER_TOKEN = 25.0, 2
CHUNK_TOKENS, LOOKAHEAD_TOKENS = 25, 3
DEVIATIONS = 3.0
"""Streams hold half of their speech on average; this many standard deviations more are planned for."""
LLM_WEIGHTS_BYTES, DECODE_WEIGHTS_BYTES = 1.3e9, 4e9
"""What a worker holds without any stream: weights, programs and buffers, rounded up."""
ALONE = 0.2
"""Streams of a load in which hardly two play at once."""
FEW = 10
"""Sessions of the load in which hardly two play at once."""
LENGTHS = 3
"""Length of a simulated load in lengths of a session, so that most of it runs with all streams."""
LLM_STREAMS = 600
"""Most streams of a simulated load of one llm worker; more are not tried, so that a plan takes minutes at most."""
STEP, WITHIN = 1.5, 1.12
"""Factor between the first loads of a search, and the one to which its answer is exact."""
SPARE = 1
"""Decode workers that may fail without a refusal."""
PLENTY = {"max_running": 1024, "total_tokens": 4 * 2**20, "steps_per_turn": 8}
"""Settings of an llm worker that is never full: 1,024 of the largest requests. A GPU runs eight steps at a time."""
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
    costs_note: str = ""
    """Where the costs come from, instead of what the files say."""
    voices: int = 1
    """Voices in use at once. Streams of one voice share its prompt."""
    memory: float = 0.0
    """Memory of a decode worker's device in bytes; 0: it does not limit the streams."""

    @property
    def target(self) -> Target:
        return Target(self.first_audio)

    def decode_bytes(self, streams: int) -> float:
        """Return the memory of a decode worker with which no state of its streams is evicted.

        The whole chunks of a prompt exist once per voice. A stream holds the rest of its prompt and its speech so far,
        which is half of its speech on average, if streams begin at any time.
        """
        prompt = self.prompt_seconds * TOKEN_RATE
        shared = max(0.0, (prompt - LOOKAHEAD_TOKENS) // CHUNK_TOKENS * CHUNK_TOKENS)
        speech = streams / 2 + DEVIATIONS * math.sqrt(streams / 12)  # in lengths of a session
        seconds = min(self.voices, streams) * shared / TOKEN_RATE + streams * (prompt - shared) / TOKEN_RATE
        seconds += min(speech, streams) * self.voice_seconds
        return DECODE_WEIGHTS_BYTES + seconds * STATE_BYTES_PER_SECOND / GPU_SHARE

    @property
    def fitting(self) -> float:
        """Most streams of a decode worker whose states fit into its memory; 0 if not even one does."""
        if not self.memory:
            return math.inf
        streams = 0
        while self.decode_bytes(streams + 1) <= self.memory:
            streams += 1
        return streams

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
        per_decode = min(per_decode, need.fitting)
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
        return self.need.decode_bytes(self.streams_per_decode)

    @property
    def kv_tokens(self) -> int:
        """Slots of an llm worker's K/V cache: prompt, text and whole speech of each stream, which share nothing."""
        seconds = self.need.prompt_seconds + self.need.voice_seconds
        return math.ceil(self.streams_per_llm * seconds * TOKEN_RATE * (1 + 1 / 6) / 1024) * 1024

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

    Raises ScenarioError for costs that cannot be used, and for a device whose memory holds no stream.
    """
    most = need.fitting
    if not most:
        raise ScenarioError(
            f"--memory {need.memory / 1e9:g} GB is less than the {need.decode_bytes(1) / 1e9:.1f} GB of the model and "
            f"one stream of {need.voice_seconds:g} s with a prompt of {need.prompt_seconds:g} s"
        )
    alone = {"decode_workers": 1, "llm_workers": 1, "seconds": FEW * need.voice_seconds / ALONE}
    if not _holds(need, ALONE, alone):
        return None
    bounds = Bounds.of(need)
    workers = {"decode_workers": 1, "llm_workers": 1 + math.ceil(bounds.decode / bounds.llm)}
    decode = largest(lambda streams: _holds(need, streams, workers), bounds.decode, most)
    if not decode:
        return None
    tried = min(need.streams, LLM_STREAMS)
    workers = {"decode_workers": max(2, math.ceil(2 * min(tried, bounds.llm) / decode)), "llm_workers": 1}
    llm = largest(lambda streams: _holds(need, streams, workers), bounds.llm, tried)
    return Plan.of(need, llm or 1.0, decode)


@dataclass(frozen=True)
class Bounds:
    """Streams with which one worker would be busy all the time, by its costs alone: where the search begins."""

    llm: float
    decode: float

    @classmethod
    def of(cls, need: Need) -> Bounds:
        given = make_scenario(need.scenario(1.0))
        rate, seconds = TOKEN_RATE, need.prompt_seconds + need.voice_seconds
        llm, decode = given.llm_costs, given.decode_costs
        prompt = seconds * rate * (1 + 1 / llm.tokens_per_text_id)
        share = rate * llm.step_s_per_sequence + prompt * llm.prefill_s_per_token / need.voice_seconds
        # Hops of a second of audio in full batches; half of the speech is behind a hop.
        frames = FRAMES_PER_TOKEN * rate
        pairs = frames * rate * (need.prompt_seconds + need.voice_seconds / 2)
        hops = decode.seconds(GPU_BATCH, round(GPU_BATCH * frames), round(GPU_BATCH * pairs))
        return cls(max(1.0, (1 - rate * llm.step_s) / max(share, 1e-9)), GPU_BATCH / max(hops, 1e-9))


def largest(holds: Callable[[float], bool], first: float, most: float) -> float:
    """Return the largest number of streams for which `holds`, to a factor of `WITHIN`; 0 if it is below `ALONE`.

    Tries `first`, moves up or down by `STEP` until one load is held and one is not, and then halves what lies between.
    """
    best, too_much, streams = 0.0, math.inf, min(first, most)
    while best < most and too_much > max(ALONE, WITHIN * best):
        if holds(streams):
            best = streams
        else:
            too_much = streams
        if not best:
            streams = too_much / STEP
        elif math.isinf(too_much):
            streams = min(most, STEP * best)
        else:
            streams = math.sqrt(best * too_much)
    return best


def measured_on(costs: str) -> str:
    """Return what a cost file says about where its times come from."""
    return str(json.loads(Path(costs).read_text(encoding="utf-8")).get("measured", "it does not say where measured"))


def _holds(need: Need, streams: float, workers: dict[str, Any]) -> bool:
    """Simulate a load; stop as soon as it is certain that it is not held."""
    scenario = make_scenario(need.scenario(streams / need.voice_seconds, **workers))
    result = simulate(scenario, need.target)
    return not result.given_up and need.target.held(result.report)
