"""Compare the Triton kernels with their plain twins: `python -m tests.unit.llm.kernels_interpreted PART`.

A program of its own, because torch behaves differently where it finds Triton. With TRITON_INTERPRET=1 the kernels run
on a CPU; the interpreter is wrong in bfloat16, so everything here is float32.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.llm_peers import random_model
from services.common.checkpoint.model_dir import LlmConfig, ModelDir, open_model_dir
from services.llm.engine.scheduler import EngineLimits, Scheduler
from services.llm.engine.sequence import Sequence
from services.llm.model import columns
from services.llm.model.attention import rotary_frequencies, rotary_table
from services.llm.model.kernels import PLAIN, StepKernels, gathered
from services.llm.model.kv_cache import KVCache, SequenceInput, StepBatch, build_batch
from services.llm.model.layer_kernels import LAYERS
from services.llm.model.paged_kernel import ATTENTION, paged_split, paged_tiles, paged_whole
from services.llm.model.sampling import NOT_FINITE, SamplingBatch
from services.llm.model.sampling_kernels import SAMPLING
from services.llm.model.torch_backend import TorchBackend, TorchOptions
from services.llm.model.trials import drawn_ids, hidden_states
from tests.unit.llm.llm_support import ROOT, utterance

CPU = torch.device("cpu")
CONFIG = LlmConfig(
    hidden_size=40,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=72,
    text_vocab=400,
    speech_tokens=729,
)
"""Odd sizes: three query heads per K/V head, widths that are no powers of two."""
FUSED = replace(PLAIN, **ATTENTION, **LAYERS, **SAMPLING)


def small_model() -> tuple[ModelDir, TorchBackend]:
    directory, model = random_model(open_model_dir(ROOT / "models" / "tiny"), CONFIG, torch.float32)
    return directory, TorchBackend(model)


def filled_cache(blocks: int, *, quantized: bool, block_size: int = 16) -> KVCache:
    generator = torch.Generator().manual_seed(0)
    cache = KVCache(CONFIG, blocks, block_size, CPU, torch.float32, quantized=quantized)
    for stored in (cache.keys, cache.values):
        stored.copy_((50 * torch.randn(stored.shape, generator=generator)).clamp(-127, 127))
    for scales in (cache.key_scales, cache.value_scales):
        scales.uniform_(0, 0.05, generator=generator)
    return cache


def random_query(tokens: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(tokens)
    shape = (tokens, CONFIG.num_kv_heads, CONFIG.num_heads // CONFIG.num_kv_heads, CONFIG.head_dim)
    return scale * torch.randn(shape, generator=generator)


def attention() -> None:
    """Lengths around the edges of blocks and parts. A split result is the whole one, bit by bit."""
    for quantized in (False, True):
        cache = filled_cache(90, quantized=quantized)
        blocks = torch.randperm(90, generator=torch.Generator().manual_seed(1)).tolist()
        starts = (0, 3, 17, 62, 63, 64, 150, 200)
        batch = build_batch([SequenceInput([1], start, blocks[11 * i :]) for i, start in enumerate(starts)], 16, CPU)
        query = random_query(len(starts), 1 if quantized else 0.02)
        for layer in range(CONFIG.num_layers):
            whole = paged_whole(query, layer, batch, cache)
            assert_close(whole, gathered(query, layer, batch, cache), atol=1e-4, rtol=1e-4)
            assert torch.equal(paged_split(query, layer, batch, cache), whole)
        one = build_batch([SequenceInput([1], 150, blocks[66:])], 16, CPU)  # alone, in a table of another width
        assert torch.equal(paged_split(query[6:7], 1, one, cache), whole[6:7])


def tiles() -> None:
    """Tiles of two sequences, one of them with padding at its end, over a past of any length."""
    for quantized in (False, True):
        cache = filled_cache(24, quantized=quantized)
        table = torch.randperm(24, generator=torch.Generator().manual_seed(2)).view(3, 8)
        table[1] = table[0]
        positions = torch.cat((torch.arange(40, 72), torch.arange(5), torch.zeros(11, dtype=torch.long)))
        empty = positions[:0]
        batch = StepBatch(positions, positions, positions, positions, empty, empty, table[:0], empty, 16, (), table)
        query = random_query(len(positions), 1 if quantized else 0.02)
        expected = PLAIN.attend_tiles(query, 1, table, batch, cache)
        assert_close(paged_tiles(query, 1, table, batch, cache), expected, atol=1e-4, rtol=1e-4)


def layers() -> None:
    generator = torch.Generator().manual_seed(3)
    for width in (40, 128, 900):
        norm = nn.RMSNorm(width, 1e-6)
        nn.init.normal_(norm.weight, generator=generator)
        x, delta = (torch.randn(5, width, generator=generator) for _ in range(2))
        for added in (None, delta):
            expected = PLAIN.add_norm(x, added, norm, torch.float32)
            assert_close(FUSED.add_norm(x.clone(), added, norm, torch.float32), expected)
    for width in (72, 1025):
        gate_up = 4 * torch.randn(3, 2 * width, generator=generator)
        assert_close(FUSED.silu_up(gate_up), PLAIN.silu_up(gate_up))
    tables = [torch.randn(rows, 40, generator=generator) for rows in (50, 2, 30)]
    codes = torch.stack((torch.tensor([0, 49, 50, 51, 52, 60, 81]),) * 2, dim=1)[:, 0]  # a column, as in a program
    for special in (tables[1], None):
        arguments = (codes, tables[0], special, tables[2])
        assert torch.equal(FUSED.embed(*arguments), PLAIN.embed(*arguments))


def cache_writes() -> None:
    """Rotated queries, the stored keys and values, and which blocks are cleared."""
    generator = torch.Generator().manual_seed(4)
    tokens, spare = 7, 8
    qkv = torch.randn(tokens, (CONFIG.num_heads + 2 * CONFIG.num_kv_heads) * CONFIG.head_dim, generator=generator)
    qkv[3] = 0
    positions = torch.tensor([0, 5, 31, 32, 900, 16, 0])
    blocks = torch.tensor([4, 0, 7, 1, 2, 3, spare])
    opened = torch.tensor([4, spare, spare, 1, spare, 3, spare])
    rotary = rotary_table(positions, rotary_frequencies(CONFIG.head_dim, 1e6, CPU))
    batch = StepBatch(
        blocks, positions, blocks, positions % 16, opened, blocks, blocks[:0, None], blocks[:0], 16, (), None, spare
    )
    for quantized in (False, True):
        plain, fused = (filled_cache(9, quantized=quantized) for _ in range(2))
        for kernels, cache in ((PLAIN, plain), (FUSED, fused)):
            kernels.open(batch, cache)
        for mine, theirs in zip(fused.cleared, plain.cleared, strict=True):
            assert torch.equal(mine, theirs)
            assert not mine[:, [4, 1, 3]].any()
            assert mine[:, [0, 2, 5, 6, 7, spare]].any(dim=(2, 3, 4)).all()
        queries = [
            each.rotate_and_store(qkv, rotary, 1, batch, cache) for each, cache in ((PLAIN, plain), (FUSED, fused))
        ]
        assert_close(queries[1], queries[0])
        for name in ("keys", "values", "key_scales", "value_scales"):
            mine, theirs = getattr(fused, name), getattr(plain, name)
            if mine.dtype == torch.int8:  # rotation may differ by rounding, and so an integer by one
                assert (mine.int() - theirs.int()).abs().max() <= 1
                assert (mine == theirs).float().mean() > 0.999
            else:
                assert_close(mine, theirs)


def sampling() -> None:
    """Equal ids for rows with and without repetition, bans, short windows and logits that are not finite."""
    generator = torch.Generator().manual_seed(5)
    for size, max_top_k, width in ((729, 64, columns.WINDOW_SIZE), (50, 64, 3), (1300, 25, 10)):
        logits = 2 * torch.randn(48, size, generator=generator)
        logits[5, 7], logits[6, size - 1], logits[7, 0] = torch.nan, torch.inf, -torch.inf
        rows = torch.arange(48)
        batch = SamplingBatch(
            seed=torch.randint(2**32, (48, 2), generator=generator),
            position=rows * 3,
            temperature=0.3 + rows / 30,
            top_p=0.2 + 0.8 * rows / 47,
            top_k=1 + rows % max_top_k,
            repeats=torch.where(rows % 2 == 0, 1.0, torch.inf),
            window=logits.nan_to_num().topk(width).indices,
            max_top_k=max_top_k,
        )
        bans = torch.rand((3, size), generator=generator) < 0.4
        expected = PLAIN.sample(logits, batch, bans, rows % 3)
        assert torch.equal(FUSED.sample(logits, batch, bans, rows % 3), expected)
        assert (expected == NOT_FINITE).nonzero()[:, 0].tolist() == [5, 6, 7]
    numbers = torch.randint(64, (9, columns.TABLE + 5), generator=generator)
    numbers[:, columns.RING] = torch.tensor([1, 10, 32, 7, 10, 10, 10, 10, 10])
    drawn = torch.tensor([5, 0, 17, NOT_FINITE, 728, 1, 2, 3, 4])
    advanced = [numbers.clone(), numbers.clone()]
    for kernels, each in zip((PLAIN, FUSED), advanced, strict=True):
        for _ in range(20):
            kernels.advance(each, drawn, 16, 99, 402)
    assert torch.equal(*advanced)


def speak(directory: ModelDir, backend: TorchBackend) -> list[list[int]]:
    """Return the ids of two utterances after a prompt step and two runs of two steps."""
    limits = EngineLimits(max_running=4, total_tokens=512, max_request_tokens=128)
    scheduler = Scheduler(limits)
    backend.reserve(limits.num_blocks, limits.block_size)
    sequences = [Sequence(utterance(number), directory, limits.max_request_tokens, number) for number in (1, 2)]
    for sequence in sequences:
        scheduler.add(sequence)
    for _ in range(3):
        batch = scheduler.schedule(2)
        for item, tokens in zip(batch, backend.step(batch), strict=True):
            item.sequence.computed += item.count + len(tokens) - 1
            item.sequence.accept_all([token % CONFIG.speech_tokens for token in tokens])
    return [sequence.decoded for sequence in sequences]


def engine() -> None:
    """The trials of the loader, and utterances in programs, prompts included."""
    directory, plain = small_model()
    model = plain._models[""]
    for kernels, int8_kv, allowed in ((FUSED, False, 1e-4), (replace(FUSED, attend=paged_split), True, 2e-2)):
        states = [hidden_states(model, each, int8_kv=int8_kv) for each in (PLAIN, kernels)]
        assert_close(states[1], states[0], atol=allowed, rtol=1e-4)
    assert torch.equal(drawn_ids(FUSED, 732, CPU), drawn_ids(PLAIN, 732, CPU))

    def backend(kernels: StepKernels) -> TorchBackend:
        options = TorchOptions(kernels=kernels, program_sizes=(4,), program_tokens=128, prefill_sizes=(16, 32))
        return TorchBackend(model, options=options)

    spoken = speak(directory, backend(PLAIN))
    assert min(map(len, spoken)) >= 3
    assert speak(directory, backend(FUSED)) == spoken
    assert [ids[:3] for ids in speak(directory, plain)] == [ids[:3] for ids in spoken]  # one token per step


PARTS = {part.__name__: part for part in (attention, tiles, layers, cache_writes, sampling, engine)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        PARTS[sys.argv[1]]()
