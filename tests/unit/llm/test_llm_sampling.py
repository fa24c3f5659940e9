"""Our own draws: distributed as RAS specifies, reproducible, independent of the rest of the batch."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from services.llm.model.cpu_graph.sampling import sample_rows
from services.llm.model.sampling import CounterDraw, SamplingBatch, SamplingRow, gumbel, mix32, ras_sample

CPU = torch.device("cpu")
ROW = SamplingRow(0, 0, temperature=1.0, top_p=0.8, top_k=25, repeats=math.inf, window=())
DRAWS = 20_000


def draw(logits: Tensor, rows: list[SamplingRow], banned: Tensor | None = None) -> list[int]:
    if banned is None:
        banned = torch.zeros_like(logits, dtype=torch.bool)
    ids: list[int] = ras_sample(logits, rows, banned, CounterDraw(SamplingBatch.of(rows, CPU))).tolist()
    return ids


def frequencies(logits: Tensor, row: SamplingRow, *, by: str = "seed") -> Tensor:
    rows = [replace(row, **{by: i}) for i in range(DRAWS)]  # type: ignore[arg-type]
    drawn = draw(logits.expand(DRAWS, -1), rows)
    return torch.bincount(torch.tensor(drawn), minlength=logits.shape[-1]) / DRAWS


@pytest.mark.parametrize("by", ["seed", "position"])
def test_nucleus_draws_follow_the_kept_probabilities(by: str) -> None:
    probabilities = torch.tensor([[0.05, 0.4, 0.3, 0.05, 0.2]])
    # 0.4 + 0.3 is below 0.8, so 0.2 is kept too, and the rest is not.
    expected = torch.tensor([0, 0.4, 0.3, 0, 0.2]) / 0.9
    torch.testing.assert_close(frequencies(probabilities.log(), ROW, by=by), expected, atol=0.015, rtol=0)


def test_top_k_and_temperature() -> None:
    probabilities = torch.tensor([[0.05, 0.4, 0.3, 0.05, 0.2]])
    row = replace(ROW, top_p=1.0, top_k=2, temperature=0.5)
    expected = torch.tensor([0, 0.16, 0.09, 0, 0]) / 0.25
    torch.testing.assert_close(frequencies(probabilities.log(), row), expected, atol=0.015, rtol=0)


def test_a_repeated_id_is_replaced_from_all_others() -> None:
    probabilities = torch.tensor([[0.9, 0.05, 0.03, 0.02]])
    row = replace(ROW, repeats=2.0, window=(0, 3, 0))
    expected = torch.tensor([0, 0.5, 0.3, 0.2])
    torch.testing.assert_close(frequencies(probabilities.log(), row), expected, atol=0.015, rtol=0)
    assert draw(probabilities.log(), [replace(row, window=(0, 3, 1))]) == [0]
    assert draw(probabilities.log(), [replace(row, repeats=math.inf)]) == [0]


def test_banned_ids_are_never_drawn() -> None:
    logits = torch.tensor([[9.0, 1.0, 0.0]]).repeat(500, 1)
    banned = torch.tensor([[True, False, False]]).repeat(500, 1)
    rows = [replace(ROW, seed=i, repeats=1.0, window=(1,)) for i in range(500)]
    assert set(draw(logits, rows, banned)) == {2}


def test_a_row_draws_the_same_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(32, 729, generator=generator)
    rows = [
        SamplingRow(
            seed=2**40 + i,
            position=i,
            temperature=0.5 + i / 20,
            top_p=0.5 + i / 70,
            top_k=1 + i,
            repeats=1.0,
            window=tuple(logits[i].topk(i % 5).indices.tolist()),
        )
        for i in range(32)
    ]
    together = draw(logits, rows)
    assert together == [draw(logits[i : i + 1], rows[i : i + 1])[0] for i in range(32)]
    assert together == draw(logits.flip(0), rows[::-1])[::-1]


@pytest.mark.parametrize("size", [30, 732, 6564])
def test_a_cpu_draws_the_same_ids_in_fewer_calls(size: int) -> None:
    """Equal logits, logits that are not finite, lists longer than the vocabulary, banned and repeated ids."""
    choose, generator = random.Random(size), torch.Generator().manual_seed(size)
    repeated = 0
    for batch in (1, 2, 5, 16) * 6:
        logits = choose.choice([0.5, 2.0, 6.0]) * torch.randn(batch, size, generator=generator)
        if choose.random() < 0.3:
            logits = logits.round()
        if choose.random() < 0.2:
            logits[choose.randrange(batch), choose.randrange(size)] = choose.choice([math.inf, math.nan, -math.inf])
        banned = torch.zeros(batch, size, dtype=torch.bool)
        banned[:, -3:] = choose.random() < 0.8
        rows = [
            SamplingRow(
                seed=choose.getrandbits(64),
                position=choose.randrange(5000),
                temperature=choose.choice([1.0, 1.0, 0.7, 1.3]),
                top_p=choose.choice([0.3, 0.8, 0.95, 1.0]),
                top_k=choose.choice([1, 25, 50, 10_000]),
                repeats=choose.choice([1.0, 2.0, math.inf]),
                window=tuple(choose.choices(likely, k=choose.randrange(11))),
            )
            for likely in logits.nan_to_num().topk(5).indices.tolist()
        ]
        expected = draw(logits, rows, banned)
        assert sample_rows(logits.clone(), rows, banned) == expected
        never = [replace(row, repeats=math.inf) for row in rows]
        repeated += sum(one != other for one, other in zip(expected, draw(logits, never, banned), strict=True))
    assert repeated > 5, "the rule against repetition was hardly used"


def test_noise_is_standard_gumbel_and_fixed_for_all_time() -> None:
    noise = gumbel(mix32(torch.arange(200)), 0, torch.arange(1000).expand(200, -1)).double()
    assert noise.isfinite().all()
    assert abs(noise.mean().item() - 0.5772) < 0.01
    assert abs(noise.std().item() - math.pi / math.sqrt(6)) < 0.01


def test_draws_are_fixed_for_all_time() -> None:
    """A moved stream continues on another machine and another version, so these may never change."""
    values = [0, 1, 2**32 - 1, 12345]
    assert mix32(torch.tensor(values)).tolist() == [mix_integer(value) for value in values]
    rows = [replace(ROW, seed=seed, position=p, top_p=1.0, top_k=729) for seed in (0, 7, 2**64 - 1) for p in range(4)]
    assert draw(torch.zeros(len(rows), 729), rows) == PINNED


def mix_integer(x: int) -> int:
    x ^= x >> 16
    x = x * 0x21F0AAAD % 2**32
    x ^= x >> 15
    x = x * 0x735A2D97 % 2**32
    return x ^ (x >> 15)


PINNED = [537, 543, 168, 348, 393, 710, 461, 466, 42, 559, 692, 710]


def plain_mix32(x: int) -> int:
    """`mix32` on Python's integers."""
    x &= 0xFFFFFFFF
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x ^= x >> shift
        x = x * factor & 0xFFFFFFFF
    return x ^ (x >> 15)


def test_the_draws_are_fixed_values() -> None:
    """Workers of two versions must draw the same ids: these numbers may change only with `RAW_IDS_VERSION`."""
    rows = [replace(ROW, seed=0x1_0000_0002, position=3), replace(ROW, seed=7)]
    batch = SamplingBatch.of(rows, CPU)
    counter, every, flat = CounterDraw(batch), torch.arange(6561).expand(2, -1), torch.zeros(2, 6561)
    assert counter.nucleus(torch.ones(2, 6561), every, torch.ones(2, 6561, dtype=torch.bool)).tolist() == [5743, 1103]
    assert counter.full(torch.tensor([0, 1]), flat).tolist() == [4300, 4412]
    assert counter.full(torch.tensor([1]), flat[:1]).tolist() == [4412]
    for row, seed, position in ((0, 0x1_0000_0002, 3), (1, 7, 0)):
        key = plain_mix32(plain_mix32(plain_mix32((seed & 0xFFFFFFFF) + 1) ^ (seed >> 32)) + position)
        for first_or_second in (0, 1):
            for id_ in (0, 1, 6560):
                bits = plain_mix32(plain_mix32(key + first_or_second) ^ plain_mix32(id_ + 1))
                expected = -math.log(-math.log1p(-(bits + 0.5) / 2**32))
                drawn = gumbel(torch.tensor([key]), first_or_second, torch.tensor([[id_]]))
                assert float(drawn) == pytest.approx(expected, abs=1e-5), row
