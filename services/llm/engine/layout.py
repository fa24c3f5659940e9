"""The order of a request's text and speech ids in the model's input, and which tokens may follow.

There are two layouts. `WholeText` (spec section 4.4) puts all text first and then decodes. `InterleavedText` (spec
section 4.6, "bistream") decodes while text still arrives, 5 text ids to 15 speech ids in the released models.
Both depend only on the ids they receive, not on timing or on other sequences of the batch. So an engine can replay a
sequence on another machine or recompute it after preemption.

An input is one integer, an *input code*: first the text ids, then the two rows of `llm_embedding`, then the rows of
`speech_embedding`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Literal, Protocol

from services.common.checkpoint.model_dir import LlmConfig

FinishReason = Literal["stop", "length"]
"""`stop`: the model ended the utterance; `length`: a length limit did."""


class RequestError(ValueError):
    """The request cannot be served; the message says what to change."""


class TextMissing(RequestError):
    """The ids to resume go beyond the text received so far; the request may succeed with more text."""


def special_ids(config: LlmConfig) -> range:
    """The ids after the speech ids, used or not; the speech embedding and the output layer have rows for them."""
    return range(config.speech_tokens, config.speech_tokens + config.special.rows)


class InputCodes:
    """Input codes of one checkpoint: the integers that stand for rows of the embeddings."""

    def __init__(self, config: LlmConfig) -> None:
        self._first_special = config.text_vocab
        self.first_speech = config.text_vocab + 2
        """The code of speech id 0; the others follow."""
        # CosyVoice3 has no llm_embedding: sos and task are rows V and V+2 of speech_embedding (spec section 9).
        rows = config.special.prompt_rows
        first = self._first_special if rows is None else self.speech(config.speech_tokens)
        sos, task = rows or (0, 1)
        self.sos, self.task = first + sos, first + task

    def speech(self, speech_id: int) -> int:
        return self.first_speech + speech_id


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the next token may be: `forced` without sampling if set, else any speech id or an `allowed` special id."""

    allowed: frozenset[int]
    forced: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The effect of one token: whether it is speech, and whether it ends the utterance."""

    spoken: bool
    finish: FinishReason | None = None


_SPOKEN, _STOPPED = Outcome(spoken=True), Outcome(spoken=False, finish="stop")
"""Those of nearly all tokens, made once."""


class Layout(Protocol):
    """The inputs and decoding rules of one sequence."""

    inputs: list[int]
    """Input codes in the order in which they are fed; codes are appended and never changed."""
    text_slots: list[int]
    """The place in `inputs` of each id of the text to speak, so far; that of an id which is fed twice is the last."""

    @property
    def ready(self) -> bool:
        """Whether to sample a token once all inputs are fed; false while it waits for text."""

    def add_text(self, ids: Ids[int]) -> None:
        """Append text ids."""

    def end_text(self) -> None:
        """End the text. Raises RequestError if the text cannot be spoken."""

    def constraint(self) -> Constraint:
        """The rule for the token that is sampled after the last input."""

    @property
    def steps_until_change(self) -> int:
        """How many tokens may follow under the present rule, if each except the last is speech."""

    def accept(self, token: int) -> Outcome:
        """Append the sampled (or forced, or replayed) token and the inputs that follow it."""

    def accept_speech(self, tokens: Ids[int]) -> FinishReason | None:
        """Append 1 to `steps_until_change` speech ids as `accept` does one by one; return the finish of the last."""


@dataclass(frozen=True)
class LengthRule:
    """Bounds of the number of decoded tokens (spec section 4.4)."""

    min_per_text_id: float
    max_per_text_id: float
    ceiling: int
    """The request's maximum length, in tokens."""
    max_slots: int
    """K/V slots that one sequence may use, prompt included."""


@dataclass(frozen=True)
class Prompt:
    """What precedes the text to speak. `instruct_ids` directly follow sos in both layouts (spec section 9)."""

    text_ids: tuple[int, ...] = ()
    speech_ids: tuple[int, ...] = ()
    instruct_ids: tuple[int, ...] = ()


class WholeText:
    """`sos | prompt text, text | task | prompt speech`, then decoding until a stop id or the maximum length."""

    def __init__(self, config: LlmConfig, prompt: Prompt, rule: LengthRule, *, upstream_stops: bool = False) -> None:
        self.inputs: list[int] = []
        self.text_slots: list[int] = []
        self.ready = False
        self._config, self._prompt, self._rule, self._codes = config, prompt, rule, InputCodes(config)
        self._text: list[int] = []
        self._decoded = self._min_length = self._max_length = 0
        specials = frozenset(special_ids(config))
        # Upstream bans id V alone while the utterance is too short and lets every special id end it (spec section 4.4);
        # we ban every special id except eos, so that only eos ends speech.
        self._early = Constraint(specials - {config.speech_tokens} if upstream_stops else frozenset())
        self._late = Constraint(specials if upstream_stops else frozenset({config.eos}))

    def add_text(self, ids: Ids[int]) -> None:
        self._text.extend(ids)
        if len(self._text) > self._rule.max_slots:
            raise _too_long(len(self._text), self._rule)

    def end_text(self) -> None:
        if not self._text:
            raise RequestError("the text is empty; send at least one text id")
        codes, prompt, rule = self._codes, self._prompt, self._rule
        speech = [codes.speech(i) for i in prompt.speech_ids]
        inputs = [codes.sos, *prompt.instruct_ids, *prompt.text_ids, *self._text, codes.task, *speech]
        room = rule.max_slots - len(inputs)
        self._min_length = int(rule.min_per_text_id * len(self._text))
        self._max_length = min(int(rule.max_per_text_id * len(self._text)), rule.ceiling, room)
        if room < max(1, min(self._min_length, rule.ceiling)):
            raise _too_long(len(inputs), rule)
        self.inputs, self.ready = inputs, True
        first = 1 + len(prompt.instruct_ids) + len(prompt.text_ids)
        self.text_slots = list(range(first, first + len(self._text)))

    def constraint(self) -> Constraint:
        return self._early if self._decoded < self._min_length else self._late

    @property
    def steps_until_change(self) -> int:
        changes = self._min_length if self._decoded < self._min_length else self._max_length
        return min(changes, self._max_length) - self._decoded

    def accept(self, token: int) -> Outcome:
        if token >= self._config.speech_tokens:
            return _STOPPED
        finish = self.accept_speech((token,))
        return _SPOKEN if finish is None else Outcome(spoken=True, finish=finish)

    def accept_speech(self, tokens: Ids[int]) -> FinishReason | None:
        self._decoded += len(tokens)
        first = self._codes.first_speech
        self.inputs.extend([first + token for token in tokens])
        return "length" if self._decoded >= self._max_length else None


class InterleavedText:
    """Blocks of text ids between runs of speech ids; a fill id requests the next block (spec section 4.6).

    One intended difference from upstream: CosyVoice3 without prompt speech waits for its first block of text like
    CosyVoice2; upstream decodes 15 tokens before any text.
    """

    def __init__(self, config: LlmConfig, prompt: Prompt, rule: LengthRule) -> None:
        self.inputs: list[int] = []
        self.text_slots: list[int] = []
        self._config, self._rule, self._codes = config, rule, InputCodes(config)
        self._text_block, self._speech_block = config.mix_ratio
        self._arrived: deque[int] = deque()
        self._text = list(prompt.text_ids)
        self._prompt_speech = [self._codes.speech(i) for i in prompt.speech_ids]
        self._pending = [self._codes.sos, *prompt.instruct_ids]
        self._pending_text: list[int | None] = [None] * len(self._pending)
        """For each of `_pending`: its number in the text to speak, below 0 in the prompt's; None if it is no text."""
        self._taken = -len(prompt.text_ids)
        """Number of the first of `_text`."""
        length = len(prompt.speech_ids)
        self._next_fill = (length // self._speech_block + 1) * self._speech_block - length
        self._prompt_placed = False
        self._decoded = 0
        self._last: int | None = None
        self._state: Literal["collecting", "decoding", "final"] = "collecting"
        self._received = self._ended = False

    @property
    def ready(self) -> bool:
        return self._state != "collecting"

    def add_text(self, ids: Ids[int]) -> None:
        self._arrived.extend(ids)
        self._received = self._received or bool(ids)
        if self._reach() > self._rule.max_slots:
            raise _too_long(self._reach(), self._rule)
        self._advance()

    def end_text(self) -> None:
        if not self._received:
            raise RequestError("the text is empty; send at least one text id")
        self._ended = True
        self._advance()

    def constraint(self) -> Constraint:
        if self._state == "final":
            return Constraint(frozenset({self._config.eos}))
        forced = self._config.fill if self._decoded == self._next_fill else None
        return Constraint(frozenset({self._config.fill}), forced)

    @property
    def steps_until_change(self) -> int:
        ends = min(self._rule.ceiling - self._decoded, self._rule.max_slots - self._reach())
        return max(1, ends if self._state == "final" else min(ends, self._next_fill - self._decoded))

    def accept(self, token: int) -> Outcome:
        config = self._config
        if self._state == "final" and token >= config.speech_tokens:
            return _STOPPED
        if token != config.fill:
            return Outcome(spoken=True, finish=self.accept_speech((token,)))
        self._next_fill = self._decoded + self._speech_block + 1
        # The fill id is never fed; `_pending` keeps the last inputs, which upstream feeds again at the end.
        self._state = "collecting"
        return Outcome(spoken=False, finish=self._decode((token,)))

    def accept_speech(self, tokens: Ids[int]) -> FinishReason | None:
        *before, last = [self._codes.first_speech + token for token in tokens]
        self.inputs.extend(before)
        self._clear()
        self._hold([last])
        self._feed()
        return self._decode(tokens)

    def _decode(self, tokens: Ids[int]) -> FinishReason | None:
        """Count decoded tokens, then place the text that may follow the last of them."""
        self._decoded += len(tokens)
        self._last = tokens[-1]
        if self._decoded >= self._rule.ceiling or self._reach() >= self._rule.max_slots:
            return "length"
        self._advance()
        return None

    def _advance(self) -> None:
        while self._state == "collecting":
            if self._arrived:
                self._text.append(self._arrived.popleft())
                self._place_prompt_speech()
                if not self._prompt_speech:
                    self._start_run()
            elif self._ended:
                self._hold([*self._text, self._codes.task], len(self._text))
                self._feed()
                self._state = "final"
            else:
                return

    def _place_prompt_speech(self) -> None:
        while self._prompt_speech and len(self._text) >= self._text_block:
            self._take_text()
            self._hold(self._prompt_speech[: self._speech_block])
            del self._prompt_speech[: self._speech_block]
            self._prompt_placed = True

    def _start_run(self) -> None:
        after_fill = self._last == self._config.fill
        if after_fill or (self._last is None and not self._prompt_placed):
            if len(self._text) < self._text_block:
                return
            if after_fill:
                self._clear()
            self._take_text()
        self._feed()
        self._state = "decoding"

    def _reach(self) -> int:
        """An upper bound of the K/V slots that the sequence needs to speak the text received so far."""
        if self._state == "final":
            return len(self.inputs)
        ahead = len(self._arrived) + len(self._text) + len(self._prompt_speech) + 1
        return len(self.inputs) + len(self._pending) + ahead + 2 * self._text_block

    def _take_text(self) -> None:
        block = self._text[: self._text_block]
        del self._text[: self._text_block]
        self._hold(block, len(block))

    def _clear(self) -> None:
        self._pending, self._pending_text = [], []

    def _hold(self, codes: list[int], texts: int = 0) -> None:
        """Append to the pending inputs; the first `texts` of the codes are the next text ids."""
        self._pending = self._pending + codes
        numbers = range(self._taken, self._taken + texts)
        self._pending_text = [*self._pending_text, *numbers, *[None] * (len(codes) - texts)]
        self._taken += texts

    def _feed(self) -> None:
        """Feed the pending inputs, which stay pending."""
        for slot, number in enumerate(self._pending_text, len(self.inputs)):
            if number is not None and number >= 0:
                self.text_slots[number : number + 1] = [slot]
        self.inputs.extend(self._pending)


def _too_long(slots: int, rule: LengthRule) -> RequestError:
    return RequestError(
        f"prompt and text need {slots} of at most {rule.max_slots} tokens, which leaves too few to speak the text; "
        "shorten the prompt or split the text"
    )
