"""What a simulation runs: workers, their costs and settings, the load, and what happens to workers."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cli.bench.load import Load, TraceError, read_trace
from cli.simulator.virtual_time import NEVER
from services.decode.engine.backends import CostModel as DecodeCosts
from services.decode.engine.hops import HopPolicy
from services.decode.settings import DecodeSettings
from services.llm.engine.backends import CostModel as LlmCosts
from services.llm.settings import LlmSettings

HOPS = HopPolicy()
COSTS = Path(__file__).resolve().parents[2] / "services"


class ScenarioError(ValueError):
    """A scenario cannot be used; the message names the file and the field."""


class Change(BaseModel):
    """Something that happens to workers at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    at: float = Field(ge=0)
    """Seconds after the start of the load."""
    action: Literal["kill", "drain", "add", "freeze"]
    """kill ends processes at once; drain lets them hand their utterances over; add starts new ones; freeze stops them
    for `seconds`: they keep their connections, send and answer nothing, and go on later."""
    seconds: float = Field(default=2.0, gt=0)
    """Length of a freeze."""
    service: Literal["llm", "decode"] = "decode"
    count: int = Field(default=1, ge=1)
    """How many workers. Those to kill, drain or freeze are chosen at random."""


class Scenario(BaseModel):
    """Fields of a scenario file. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    llm_workers: int = Field(default=1, ge=1)
    decode_workers: int = Field(default=2, ge=1)
    gateways: int = Field(default=1, ge=1)
    llm_cost_file: Path | None = None
    """Default: services/llm/costs/tiny-cpu.json."""
    decode_cost_file: Path | None = None
    """Default: services/decode/costs/tiny-cpu.json."""
    speed: float = Field(default=1.0, gt=0)
    """The costs are divided by it."""
    llm: dict[str, Any] = {}
    """Settings of the llm workers, such as {"max_running": 64}."""
    decode: dict[str, Any] = {}
    """Settings of the decode workers, such as {"decode_max_streams": 64}."""
    first_frames: int = Field(default=HOPS.first_frames, ge=1)
    """Mel frames of audio of a stream's first hop, at least. The services have no setting for it: to compare."""
    hop_tokens: tuple[int, ...] = HOPS.sizes
    """Sizes of later hops in speech tokens, ascending: the more a listener has in reserve, the larger. To compare."""
    refusal_seconds: float = Field(default=0.5, ge=0)
    """The gateway's setting of this name."""
    patience_seconds: float = Field(default=30.0, ge=0)
    """The gateway's session_patience_seconds."""
    on_loss: Literal["resume", "skip", "repeat", "end"] = "resume"
    """What happens to an utterance whose worker is lost; all but the first are other servers' ways, to compare. resume:
    another worker continues it. skip: it starts again on another worker, and the gateway drops the audio that it has
    sent before. repeat: the same without dropping. end: its session ends with an error. In these three, no heartbeat
    finds a frozen worker, and a draining decode worker speaks its utterances to their ends."""

    rate: float = Field(default=1.0, gt=0)
    """Sessions per second, at random times."""
    trace: Path | None = None
    """A file with the time of a session on each line, instead of `rate`."""
    seconds: float = Field(default=30.0, gt=0)
    """No session begins later."""
    sentences: int = Field(default=1, ge=1)
    """Sentences per session."""
    sentence_seconds: float = Field(default=4.0, gt=0)
    """Audio of a sentence."""
    prompt_seconds: float = Field(default=3.0, ge=0.2)
    """Length of the voice's prompt."""
    changes: tuple[Change, ...] = ()
    seed: int = Field(default=0, ge=0)

    network_seconds: float = Field(default=0.0005, ge=0)
    """Delay of each message between two processes."""
    encode_seconds: float = Field(default=0.003, ge=0)
    """Time from a sentence to its text ids."""
    start_seconds: float = Field(default=30.0, ge=0)
    """Time from the start of an added worker until it serves."""
    tones: bool = False
    """Compute the samples, to compare them; otherwise they are zero."""

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        """Read the files and the settings that the scenario names."""
        _ = HopPolicy(self.first_frames, self.hop_tokens)
        _ = self.llm_costs, self.decode_costs, self.llm_settings, self.decode_settings, self.load
        return self

    @cached_property
    def llm_costs(self) -> LlmCosts:
        costs = LlmCosts.read(self.llm_cost_file or COSTS / "llm" / "costs" / "tiny-cpu.json")
        return replace(
            costs,
            step_s=costs.step_s / self.speed,
            step_s_per_sequence=costs.step_s_per_sequence / self.speed,
            prefill_s_per_token=costs.prefill_s_per_token / self.speed,
        )

    @cached_property
    def decode_costs(self) -> DecodeCosts:
        costs = DecodeCosts.read(self.decode_cost_file or COSTS / "decode" / "costs" / "tiny-cpu.json")
        scaled = {name: value / self.speed for name, value in asdict(costs).items() if name != "holdback_frames"}
        return replace(costs, **scaled)

    @cached_property
    def llm_settings(self) -> LlmSettings:
        fixed: dict[str, Any] = {**_QUIET, "decode_silence_seconds": NEVER, "decode_frozen_seconds": 0}
        moves: dict[str, Any] = {} if self.on_loss == "resume" else {"decode_max_moves": 0}
        return LlmSettings(**{**self.llm, **moves, **({} if self.finds_freezes else fixed)})

    @cached_property
    def decode_settings(self) -> DecodeSettings:
        return DecodeSettings(**{**self.decode, **({} if self.finds_freezes else _QUIET)})

    @property
    def freezes(self) -> bool:
        """Whether a worker freezes, so that heartbeats and silence matter."""
        return any(change.action == "freeze" for change in self.changes)

    @property
    def finds_freezes(self) -> bool:
        """Whether heartbeats and silence are watched: they cost time, so only if they can matter."""
        return self.freezes and self.on_loss == "resume"

    @cached_property
    def load(self) -> Load:
        """When sessions begin."""
        if self.trace is not None:
            return Load(seconds=self.seconds, times=read_trace(self.trace), seed=self.seed)
        return Load(seconds=self.seconds, rate=self.rate, seed=self.seed)


_QUIET: dict[str, Any] = {"heartbeat_seconds": NEVER}
"""While no frozen process is looked for, heartbeats and the limits of silence would only cost time."""


def read_scenario(path: Path, **changed: Any) -> Scenario:
    """Read a scenario from a YAML or JSON file; `changed` fields replace those of the file. Raises ScenarioError."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ScenarioError(f"cannot read the scenario {path}: {error}") from error
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise ScenarioError(f"the scenario {path} must be a mapping of fields, such as `decode_workers: 4`")
    return make_scenario({**fields, **changed}, f"the scenario {path}")


def make_scenario(fields: dict[str, Any], name: str = "the scenario") -> Scenario:
    """Return the scenario with these fields. Raises ScenarioError that names the field."""
    try:
        return Scenario(**fields)
    except TraceError as error:
        raise ScenarioError(str(error)) from error
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "its fields"
        raise ScenarioError(f"{name}: {where}: {wrong['msg']}") from error
