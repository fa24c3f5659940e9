"""A request, the events it produces, and its state in the engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from services.common.checkpoint.model_dir import LlmConfig, ModelDir, SamplingConfig
from services.common.engine.places import NEW_SESSION, Place
from services.common.engine.shell import FailedEvent
from services.llm.alignment.monotonic import Aligned
from services.llm.engine.layout import (
    FinishReason,
    InterleavedText,
    Layout,
    LengthRule,
    Prompt,
    RequestError,
    TextMissing,
    WholeText,
)

MIN_SPEED, MAX_SPEED = 0.1, 10.0


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling options of a request; None is the checkpoint's own value (spec section 4.5)."""

    seed: int = 0
    """0 to 2^64-1; equal requests with equal seeds give equal tokens."""
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    ras: bool = True
    """Repetition-aware sampling; plain nucleus sampling if false."""
    win_size: int | None = None
    tau_r: float | None = None


@dataclass(frozen=True)
class Request:
    """One utterance to generate.

    `resume_ids` are the raw ids that an earlier run of this request decoded (`TokensEvent.raw_ids`, in order). The
    engine continues as if it had decoded them itself; text, prompt and options must be the same.
    """

    text_ids: tuple[int, ...]
    prompt: Prompt = field(default_factory=Prompt)
    sampling: SamplingOptions = SamplingOptions()
    text_complete: bool = True
    """False: more text follows through `append_text`, until `end_text`."""
    text_order: Literal["whole", "interleaved"] = "whole"
    """`whole` starts once the text is complete; `interleaved` is for checkpoints trained on interleaved text."""
    resume_ids: tuple[int, ...] = ()
    text_position: int | None = 0
    """With `resume_ids`: the text id at which the earlier run was (`TokensEvent.text_position`). None: not known; the
    tokens are not aligned."""
    max_seconds: float = 60.0
    """Longest speech, in seconds; it stops a model that does not end."""
    max_tokens: int | None = None
    """Generation is held once this many ids are to be spoken (those of `resume_ids` included); None: never. Fill ids
    and dropped silent ids do not count: no audio of theirs would ever release the sequence."""
    play_at: float | None = None
    """When playback of the beginning starts (or should start), on the engine's monotonic clock; deadlines follow from
    it. None: no deadline."""
    speed: float = 1.0
    """Playback speed, 0.1 to 10, relative to the model's speech; deadlines follow from it too."""
    style: str = ""
    """Name of the backend's checkpoint; empty: its first."""
    place: Place = NEW_SESSION
    """The session that the utterance belongs to; the engine's limits refuse new sessions only."""
    upstream_stops: bool = False
    """Use upstream's stop and ban rules in `whole` order instead of ours; for parity checks."""


class TokensEvent(NamedTuple):
    """Newly decoded ids. A step of the engine makes one per sequence, and tuples are cheap.

    `ids` are to be spoken. `raw_ids` are all decoded ids (fill ids and dropped silent ids included), which a resumed
    request needs. `finish_reason` is set if and only if `last` is true.
    """

    ids: tuple[int, ...]
    raw_ids: tuple[int, ...] = ()
    last: bool = False
    finish_reason: FinishReason | None = None
    aligned: tuple[Aligned, ...] = ()
    """The text id that each of `ids` speaks; empty if the backend does not align."""
    text_position: int | None = None
    """The text id at which the speech is after `raw_ids`; a resumed request needs it."""


Event = TokensEvent | FailedEvent


@dataclass(eq=False, slots=True)
class Sequence:
    """A request in the engine: its layout, its blocks in the K/V cache, its decoded ids.

    Only the engine thread changes it. Raises RequestError for ids or options out of range (see `check_request`).
    """

    request: Request
    model: ModelDir = field(repr=False)
    max_slots: int
    arrival: int
    layout: Layout = field(init=False, repr=False)
    sampling: SamplingConfig = field(init=False, repr=False)
    decoded: list[int] = field(default_factory=list, repr=False)
    """Raw ids without the stop id; its length is the position of the next token."""
    blocks: list[int] = field(default_factory=list, repr=False)
    computed: int = 0
    """Number of inputs whose K/V are in `blocks`."""
    max_tokens: int | None = None
    play_at: float | None = None
    spoken: int = 0
    """Number of ids to be spoken so far."""
    rate: float = field(init=False, repr=False)
    """Speech tokens played per second."""
    resumed: tuple[int, ...] = ()
    """The ids of `resume_ids` that are to be spoken."""
    finish_reason: FinishReason | None = None
    closed: bool = False
    """Finished, failed or cancelled: it never runs again."""
    text_position: int | None = 0
    """The text id that the last token speaks, as far as the backend aligns; None: not known."""
    silent_run: int = 0
    text_length: int = 0
    """Text ids received so far, without the prompt's."""
    text_ended: bool = False

    def __post_init__(self) -> None:
        request, config = self.request, self.model.llm
        check_request(request, config)
        self.max_tokens, self.play_at = request.max_tokens, request.play_at
        self.text_position = request.text_position
        self.rate = self.model.token_rate * request.speed
        own, options = self.model.sampling, request.sampling
        self.sampling = SamplingConfig(
            top_p=own.top_p if options.top_p is None else options.top_p,
            top_k=own.top_k if options.top_k is None else options.top_k,
            win_size=own.win_size if options.win_size is None else options.win_size,
            tau_r=own.tau_r if options.tau_r is None else options.tau_r,
            min_token_text_ratio=own.min_token_text_ratio,
            max_token_text_ratio=own.max_token_text_ratio,
        )
        rule = LengthRule(
            min_per_text_id=own.min_token_text_ratio,
            max_per_text_id=own.max_token_text_ratio,
            ceiling=max(1, int(request.max_seconds * self.model.token_rate)),
            max_slots=self.max_slots,
        )
        if request.text_order == "whole":
            self.layout = WholeText(config, request.prompt, rule, upstream_stops=request.upstream_stops)
        else:
            self.layout = InterleavedText(config, request.prompt, rule)
        self.add_text(request.text_ids)
        if request.text_complete:
            self.end_text()
        self.resumed = tuple(spoken for token in request.resume_ids for spoken in self._replay(token))

    @property
    def pending(self) -> int:
        """Inputs to feed before a token can be sampled."""
        return len(self.layout.inputs) - self.computed

    @property
    def runnable(self) -> bool:
        """Whether the next step can advance it: it does not wait for text and is not held by its token budget."""
        if self.closed or not self.layout.ready:
            return False
        return self.max_tokens is None or self.spoken < self.max_tokens

    @property
    def max_steps(self) -> int:
        """How many tokens may be sampled one after the other under the same rule and within the token budget."""
        steps = self.layout.steps_until_change
        return steps if self.max_tokens is None else min(steps, self.max_tokens - self.spoken)

    @property
    def due(self) -> float:
        """When playback runs out of audio (or should start) without further tokens; infinite without a deadline."""
        return math.inf if self.play_at is None else self.play_at + self.spoken / self.rate

    def add_text(self, ids: Ids[int]) -> None:
        if self.text_ended:
            raise RequestError("text was sent after its end; send it as a new request")
        self.layout.add_text(ids)
        self.text_length += len(ids)

    def end_text(self) -> None:
        if not self.text_ended:
            self.text_ended = True
            self.layout.end_text()

    def accept_all(self, tokens: Ids[int], aligned: Ids[Aligned] = ()) -> TokensEvent:
        """Append the next tokens, `max_steps` at most, and return their event. Only the last may be other than speech.

        `aligned`: the text id of each token, or none at all.
        """
        before = len(self.decoded)
        if tokens and max(tokens) < self.model.llm.speech_tokens:  # nearly always, and in fewer calls
            spoken = self._append_speech(tokens)
        else:
            spoken = [self._append(token) for token in tokens]
        raw_ids = tuple(self.decoded[before:])
        ids = tuple(itertools.compress(tokens, spoken))
        places = tuple(itertools.compress(aligned, spoken)) if aligned else ()
        if aligned and raw_ids:
            self.text_position = aligned[min(len(raw_ids), len(aligned)) - 1].position
        last = self.finish_reason is not None
        return TokensEvent(ids, raw_ids, last, self.finish_reason, places, self.text_position)

    def accept(self, token: int) -> TokensEvent:
        """Append the next token and return its event."""
        return self.accept_all((token,))

    def _append(self, token: int) -> bool:
        """Append the next token, or end at a stop id; return whether it is to be spoken."""
        outcome = self.layout.accept(token)
        self.finish_reason = outcome.finish
        if outcome.finish == "stop":
            return False
        self.decoded.append(token)
        spoken = outcome.spoken and not self._too_silent(token)
        self.spoken += spoken
        return spoken

    def _append_speech(self, tokens: Ids[int]) -> Ids[bool]:
        """Append speech ids; return which are to be spoken."""
        self.finish_reason = self.layout.accept_speech(tokens)
        self.decoded.extend(tokens)
        if self.model.llm.special.silent.isdisjoint(tokens):
            self.silent_run, spoken = 0, [True] * len(tokens)
        else:
            spoken = [not self._too_silent(token) for token in tokens]
        self.spoken += sum(spoken)
        return spoken

    def _too_silent(self, token: int) -> bool:
        special = self.model.llm.special
        if token not in special.silent:
            self.silent_run = 0
            return False
        self.silent_run += 1
        return self.silent_run > special.longest_silence

    def _replay(self, token: int) -> tuple[int, ...]:
        if not self.layout.ready:
            raise TextMissing("resume_ids go beyond what the text allows; send the same text as the first run")
        if self.finish_reason is not None:
            raise RequestError("resume_ids continue after the utterance's end; send the first run's ids unchanged")
        forced = self.layout.constraint().forced
        if forced is not None and token != forced:
            raise RequestError(f"resume_ids[{len(self.decoded)}] must be {forced}; send the first run's ids unchanged")
        return (token,) if self._append(token) else ()


def check_request(request: Request, config: LlmConfig) -> None:
    """Raise RequestError with the name of the first field that is out of range."""
    prompt, options = request.prompt, request.sampling
    check_text_ids(request.text_ids, config)
    check_text_ids(prompt.text_ids, config, "prompt text id")
    check_text_ids(prompt.instruct_ids, config, "instruct id")
    _in_range(prompt.speech_ids, config.speech_tokens, "prompt speech id")
    speech_only = [i for i in request.resume_ids if not (i == config.fill and request.text_order == "interleaved")]
    _in_range(speech_only, config.speech_tokens, "resume id")
    if not 0 <= options.seed < 2**64:
        raise RequestError(f"seed {options.seed} is out of range; choose one from 0 to 2^64-1")
    _positive(options.temperature, "temperature", 10.0)
    _positive(options.top_p, "top_p", 1.0)
    _positive(options.top_k, "top_k", math.inf)
    _positive(options.tau_r, "tau_r", math.inf)
    _positive(options.win_size, "win_size", 1000)
    _positive(request.max_seconds, "max_seconds", 3600.0)
    if not MIN_SPEED <= request.speed <= MAX_SPEED:  # NaN fails every comparison too
        raise RequestError(f"speed {request.speed} is out of range; it must be {MIN_SPEED:g} to {MAX_SPEED:g}")
    if request.text_position is not None and request.text_position < 0:
        raise RequestError(f"text_position {request.text_position} is negative; send the first run's unchanged")
    if request.max_tokens is not None and request.max_tokens < 0:
        raise RequestError(f"max_tokens {request.max_tokens} is negative; use 0 to hold generation")
    if request.play_at is not None and not math.isfinite(request.play_at):
        raise RequestError("play_at is not a finite number of seconds")


def check_text_ids(ids: Ids[int], config: LlmConfig, name: str = "text id") -> None:
    """Raise RequestError if an id is outside the text vocabulary."""
    _in_range(ids, config.text_vocab, name)


def _in_range(ids: Ids[int], bound: int, name: str) -> None:
    wrong = next((i for i in ids if not 0 <= i < bound), None)
    if wrong is not None:
        raise RequestError(f"{name} {wrong} is out of range; this model has ids from 0 to {bound - 1}")


def _positive(value: float | None, name: str, most: float) -> None:
    # Written so that NaN fails too.
    if value is not None and not 0 < value <= most:
        raise RequestError(f"{name} {value} is out of range; it must be above 0" + (f" and at most {most:g}"))
