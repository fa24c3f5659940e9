"""Interleaved text with scripted tokens: which rows each call feeds, when text is pulled (spec section 4.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.encode.text import special_tokens
from services.encode.text.tokenizer import TextTokenizer
from services.llm.engine.layout import InterleavedText, LengthRule, Prompt
from services.llm.engine.sequence import Request
from services.llm.engine.sequence import Sequence as LlmSequence
from tests.parity.checks.llm import MOST_ROWS, Feeder, new_sequence
from tests.parity.golden import Arrays, Golden, ids
from tests.parity.registry import check
from tests.parity.report import Row, Verdict, close, equal

_UNBOUNDED = LengthRule(0, 1e6, ceiling=MOST_ROWS, max_slots=MOST_ROWS)


@dataclass
class _Trace:
    """What was recorded along the way, in the goldens' terms."""

    lengths: list[int] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    pulls: list[list[int]] = field(default_factory=list)
    scripted: int = 0


@check("bistream_*.npz")
def traces(golden: Golden) -> Iterator[Row]:
    files = sorted(path.name for path in golden.path.glob("bistream_*.npz"))
    if not files:
        yield Row("bistream_*.npz", Verdict.ABSENT, note="no such file is in this folder")
    for name in files:
        yield from _compare(golden, name, golden.arrays(name))


class _TooEarly(InterleavedText):
    """Upstream's order of CosyVoice3 without prompt speech: it decodes a run before any text (section 9)."""

    def _start_run(self) -> None:
        if self._last is None and len(self._pending) > 1:
            self._feed()
            self._state = "decoding"
        else:
            super()._start_run()


@torch.inference_mode()
def _compare(golden: Golden, name: str, arrays: Arrays) -> Iterator[Row]:
    model, tolerance = golden.speech_lm, golden.tolerance["logits"]
    request = Request((), _prompt(golden, arrays), text_complete=False, text_order="interleaved", max_seconds=3600.0)
    sequence = new_sequence(golden.model, request)
    if not arrays["prompt_speech_token"].size:
        sequence.layout = _TooEarly(golden.model.llm, request.prompt, _UNBOUNDED)
    trace = _follow(sequence, Feeder(model, int(arrays["call_lengths"].sum()) + 8), arrays)
    spoken = [token for token in sequence.decoded if token < golden.model.llm.speech_tokens]
    yield equal(f"{name}: call_lengths", trace.lengths, arrays["call_lengths"])
    yield equal(f"{name}: yielded_tokens", spoken, arrays["yielded_tokens"].ravel())
    rows = torch.tensor(sequence.layout.inputs)
    yield close(f"{name}: call_inputs", model.embed(rows), arrays["call_inputs"], 0)
    hidden = torch.stack(trace.hidden)
    yield close(f"{name}: call_last_hidden", hidden, arrays["call_last_hidden"], tolerance)
    if "n_script_used" in arrays:
        yield equal(f"{name}: n_script_used", trace.scripted, arrays["n_script_used"])
    if "text_token_index_vs_calls_done" in arrays:
        expected = arrays["text_token_index_vs_calls_done"]
        yield equal(f"{name}: text_token_index_vs_calls_done", trace.pulls, expected)
    logits = model.logits(hidden)
    if "call_logits_top16_values" in arrays:
        values = arrays["call_logits_top16_values"]
        yield close(f"{name}: call_logits_top16_values", logits.topk(values.shape[1]).values, values, tolerance)
        at_ids = logits.gather(1, torch.from_numpy(arrays["call_logits_top16_ids"]).long())
        note = "our logits at those ids; neighbours closer than the tolerance may swap"
        yield close(f"{name}: call_logits_top16_ids", at_ids, values, tolerance, note)
    if "call_logits_logsumexp" in arrays:
        expected = arrays["call_logits_logsumexp"]
        yield close(f"{name}: call_logits_logsumexp", logits.logsumexp(-1), expected, tolerance)


def _prompt(golden: Golden, arrays: Arrays) -> Prompt:
    """CosyVoice3's prompt text goes directly after sos up to and including its end-of-prompt token (section 9)."""
    text, speech = ids(arrays["prompt_text"]), ids(arrays["prompt_speech_token"])
    border = 0
    if golden.model.family.text.prompts_end:
        end = TextTokenizer(golden.model).token_id(special_tokens.END_OF_PROMPT)
        border = text.index(end) + 1 if end in text else 0
    return Prompt(text[border:], speech, text[:border])


def _follow(sequence: LlmSequence, feed: Feeder, arrays: Arrays) -> _Trace:
    """Runs the sequence with the scripted tokens in place of sampling; text comes one id at a time, when asked for."""
    script, text = iter(ids(arrays["script"])), iter(ids(arrays["text"]))
    trace, fed = _Trace(), 0
    while sequence.finish_reason is None:
        while not sequence.layout.ready:
            token = next(text, None)
            if token is None:
                sequence.end_text()
            else:
                trace.pulls.append([len(trace.pulls), len(trace.lengths)])
                sequence.add_text([token])
        rows = sequence.layout.inputs[fed:]
        fed += len(rows)
        trace.lengths.append(len(rows))
        trace.hidden.append(feed(rows)[-1])
        forced = sequence.layout.constraint().forced
        trace.scripted += forced is None
        sequence.accept(next(script) if forced is None else forced)
    return trace
