"""Repetition-aware sampling on given logits and given decoded ids (spec section 4.5)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from services.llm.model.sampling import MultinomialDraw, SamplingRow, nucleus, ras_sample
from tests.parity.golden import Golden, ids
from tests.parity.registry import check
from tests.parity.report import Row, close, equal

_PROBABILITY = 1e-6
"""Softmax in float32 rounds to this."""


@check("ras.npz")
def cases(golden: Golden) -> Iterator[Row]:
    arrays = golden.arrays("ras.npz")
    for name in arrays.matching(r"(case\d+)_logits"):
        case = name.group(1)
        logits, banned, row = _prepare(golden, case)
        scores = torch.log_softmax(logits, -1).masked_fill(banned, -torch.inf)
        probabilities, kept_ids, kept = nucleus(scores, torch.tensor([row.top_p]), [row.top_k])
        yield equal(f"ras.npz: {case}_nucleus_ids", kept_ids[kept], arrays[f"{case}_nucleus_ids"])
        expected = arrays[f"{case}_nucleus_probs"]
        yield close(f"ras.npz: {case}_nucleus_probs", probabilities[kept], expected, _PROBABILITY)
        for drawn in arrays.matching(rf"{case}_ids_seed(\d+)to(\d+)"):
            seeds = range(int(drawn.group(1)), int(drawn.group(2)) + 1)
            draws = [MultinomialDraw(torch.Generator().manual_seed(seed)) for seed in seeds]
            tokens = [int(ras_sample(logits.clone(), [row], banned, draw)) for draw in draws]
            yield equal(f"ras.npz: {drawn.group()}", tokens, arrays[drawn.group()])


def _prepare(golden: Golden, case: str) -> tuple[Tensor, Tensor, SamplingRow]:
    arrays, sampling = golden.arrays("ras.npz"), golden.model.sampling
    logits = torch.from_numpy(arrays[f"{case}_logits"])[None]
    banned = torch.zeros_like(logits, dtype=torch.bool)
    banned[0, golden.model.llm.speech_tokens] = bool(arrays[f"{case}_ignore_eos"])
    decoded = ids(arrays[f"{case}_decoded"])
    row = SamplingRow(
        seed=0,
        position=len(decoded),
        temperature=1.0,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repeats=sampling.win_size * sampling.tau_r,
        window=decoded[-sampling.win_size :],
    )
    return logits, banned, row
