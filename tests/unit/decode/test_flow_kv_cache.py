"""The K/V pool reserves memory in advance, but the machine allocates it only on use."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from services.decode.flow.kv_cache import EMPTY_STATE, KvBlockPool, KvLayout

LAYOUT = KvLayout(layers=6, positions=50, heads=8, head_dim=64, steps=10, rows=2)
STATM = Path("/proc/self/statm")


def resident() -> int:
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not STATM.exists(), reason="reads Linux' figures of a process's memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_an_unused_pool_takes_no_memory(dtype: torch.dtype) -> None:
    before = resident()
    pool = KvBlockPool({"estimator": LAYOUT}, 25, 20, dtype)
    assert pool.blocks * pool.block_bytes > 100 * 2**20
    assert resident() - before < 50 * 2**20


@pytest.mark.skipif(not STATM.exists(), reason="reads Linux' figures of a process's memory")
def test_a_used_block_takes_its_own_size() -> None:
    """Not a huge page for each of its pieces, of which there is one per step, layer and row."""
    pool = KvBlockPool({"estimator": KvLayout(6, 10, 2, 8, steps=10, rows=2)}, 5, 4000)
    kv_state = pool.extend(EMPTY_STATE, 5)
    assert kv_state is not None
    before = resident()
    for step in range(10):
        for layer in range(6):
            pool.caches["estimator"].write(step, layer, slice(0, 10), torch.ones(2, 2, 10, 16))
    assert pool.block_bytes < 2**20
    assert resident() - before < 20 * 2**20


def test_a_pool_may_be_empty() -> None:
    assert KvBlockPool({"estimator": LAYOUT}, 25, 0).free_blocks == 0
