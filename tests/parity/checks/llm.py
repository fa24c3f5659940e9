"""The speech language model: rows, hidden states, logits, greedy and sampled tokens (spec sections 4.1 to 4.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from services.common.checkpoint.model_dir import ModelDir
from services.llm.engine.layout import InputCodes, Prompt
from services.llm.engine.scheduler import ScheduledSequence
from services.llm.engine.sequence import Request
from services.llm.engine.sequence import Sequence as LlmSequence
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.model import SpeechLM
from services.llm.model.sampling import MultinomialDraw
from services.llm.model.torch_backend import TorchBackend
from tests.parity.golden import Golden, ids
from tests.parity.registry import check
from tests.parity.report import Row, close, equal

BLOCK = 4
MOST_ROWS = 8192
"""Rows one golden request may take."""


class Feeder:
    """One sequence over a paged cache whose blocks are scattered, fed piece by piece."""

    def __init__(self, model: SpeechLM, rows: int) -> None:
        blocks = -(-rows // BLOCK) + 1
        self.model = model
        self.cache = KVCache(model.config, blocks, BLOCK, torch.device("cpu"), torch.float32)
        self.blocks = torch.randperm(blocks, generator=torch.Generator().manual_seed(1)).tolist()
        self.fed = 0

    @torch.inference_mode()
    def __call__(self, codes: Sequence[int]) -> Tensor:
        """Hidden states [n, hidden] of the next rows."""
        batch = build_batch([SequenceInput(codes, self.fed, self.blocks)], BLOCK, torch.device("cpu"))
        self.fed += len(codes)
        return self.model(batch, self.cache)


def new_sequence(model: ModelDir, request: Request) -> LlmSequence:
    return LlmSequence(request, model, MOST_ROWS, arrival=0)


def golden_request(golden: Golden) -> Request:
    arrays = golden.arrays("llm.npz")
    prompt = Prompt(ids(arrays["prompt_text"]), ids(arrays["prompt_speech_token"]))
    return Request(ids(arrays["text"]), prompt, upstream_stops=True, max_seconds=3600.0)


@check("llm.npz: prompt")
@torch.inference_mode()
def prompt_rows(golden: Golden) -> Iterator[Row]:
    arrays, model, tolerance = golden.arrays("llm.npz"), golden.speech_lm, golden.tolerance["logits"]
    rows = new_sequence(golden.model, golden_request(golden)).layout.inputs
    yield close("llm.npz: lm_input", model.embed(torch.tensor(rows)), arrays["lm_input"][0], 0)
    hidden = Feeder(model, len(rows))(rows)
    yield close("llm.npz: hidden", hidden, arrays["hidden"][0], tolerance)
    feed = Feeder(model, len(rows))
    pieces = torch.cat([feed(rows[start : start + 7]) for start in range(0, len(rows), 7)])
    yield close("llm.npz: hidden", pieces, arrays["hidden"][0], tolerance, "prefill in pieces of 7 rows")
    if "logits" in arrays:
        yield close("llm.npz: logits", model.logits(hidden), arrays["logits"][0], tolerance)
    else:
        last = model.logits(hidden[-1:])
        yield close("llm.npz: last_logits", last.reshape(-1), arrays["last_logits"].reshape(-1), tolerance)


@check("llm.npz: greedy")
@torch.inference_mode()
def greedy(golden: Golden) -> Iterator[Row]:
    arrays, model, tolerance = golden.arrays("llm.npz"), golden.speech_lm, golden.tolerance["logits"]
    config, codes = golden.model.llm, InputCodes(golden.model.llm)
    rows: Sequence[int] = new_sequence(golden.model, golden_request(golden)).layout.inputs
    expected = ids(arrays["greedy_tokens"])
    feed = Feeder(model, len(rows) + len(expected))
    tokens, logits, hidden = [], [], []
    for golden_token in expected:
        hidden.append(feed(rows)[-1])
        logits.append(model.logits(hidden[-1]))
        tokens.append(int(logits[-1][: config.speech_tokens].argmax()))
        rows = [codes.speech(golden_token)]  # the golden's own token, so that one difference does not spread
    yield equal("llm.npz: greedy_tokens", tokens, expected)
    yield close("llm.npz: step_logits", torch.stack(logits), arrays["step_logits"], tolerance)
    if "step_hidden" in arrays:
        yield close("llm.npz: step_hidden", torch.stack(hidden), arrays["step_hidden"], tolerance)


@check("llm.npz: ras_tokens_seed*")
def sampled(golden: Golden) -> Iterator[Row]:
    arrays = golden.arrays("llm.npz")
    for name in arrays.matching(r"ras_tokens_seed(\d+)"):
        tokens = _decode_with_multinomial(golden, seed=int(name.group(1)))
        yield equal(f"llm.npz: {name.group()}", tokens, arrays[name.group()].ravel())


def _decode_with_multinomial(golden: Golden, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    backend = TorchBackend(golden.speech_lm, draw=lambda rows, device: MultinomialDraw(generator))
    blocks = MOST_ROWS // BLOCK
    backend.reserve(blocks, BLOCK)
    sequence = new_sequence(golden.model, golden_request(golden))
    sequence.blocks.extend(range(blocks))
    while sequence.finish_reason is None:
        ((token,),) = backend.step([ScheduledSequence(sequence, sequence.computed, sequence.pending, samples=True)])
        sequence.computed = len(sequence.layout.inputs)
        sequence.accept(token)
    return sequence.decoded
