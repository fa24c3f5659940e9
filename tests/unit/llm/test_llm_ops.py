"""The kernels and read-backs of a step on a GPU, counted on a CPU; docs/benchmarks.md has estimates from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.llm_ops import count_step, counted_kernels
from benchmarks.llm_peers import FULL_SIZE, random_model
from benchmarks.op_count import OpCounter
from services.common.checkpoint.model_dir import ModelDir
from services.llm.engine.scheduler import EngineLimits, Scheduler
from services.llm.engine.sequence import Request, Sequence
from services.llm.model.model import SpeechLM
from services.llm.model.torch_backend import TorchBackend, TorchOptions

MOST_KERNELS = 260
SMALL = replace(
    FULL_SIZE, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48, text_vocab=400
)
"""As many layers as the 0.5B layout, and narrow: the count depends on the structure alone."""


@pytest.fixture(scope="module")
def layered(mini_dir: ModelDir) -> SpeechLM:
    return random_model(mini_dir, SMALL, torch.float32)[1]


@pytest.mark.parametrize(("batch", "attention"), [(1, 48), (64, 48), (80, 24)])
def test_a_step_has_few_kernels_and_one_read_back(layered: SpeechLM, batch: int, attention: int) -> None:
    count = count_step(layered, batch, positions=40)
    assert count.kernels["attend"] == attention  # more rows need no second kernel that merges
    assert count.kernels["linear"] == 24 * 4 + 1
    assert count.kernels.total() <= MOST_KERNELS
    assert count.read_backs == 1


def test_every_operation_of_a_layer_is_counted(layered: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    before = count_step(layered, 1, positions=40)
    decode = layered.layers[7].forward
    monkeypatch.setattr(layered.layers[7], "forward", lambda x, *rest: decode(x.neg().neg(), *rest))
    after = count_step(layered, 1, positions=40)
    assert after.kernels.total() == before.kernels.total() + 2
    assert after.bytes.total() == before.bytes.total() + 4 * SMALL.hidden_size * 4


def test_bytes_are_those_of_weights_keys_and_values(layered: SpeechLM) -> None:
    weights = sum(each.numel() * each.element_size() for layer in layered.layers for each in layer.parameters())
    short, long = (count_step(layered, 2, positions=positions) for positions in (40, 48))
    assert short.bytes["linear"] > weights
    position = 24 * 2 * SMALL.num_kv_heads * SMALL.head_dim * 4
    assert long.bytes["attend"] - short.bytes["attend"] == 2 * 8 * position
    quantized = count_step(layered, 2, positions=48, int8_kv=True)
    assert quantized.bytes["attend"] < long.bytes["attend"]


def test_the_host_waits_once_for_a_run_of_several_steps(mini_dir: ModelDir, mini_model: SpeechLM) -> None:
    """Also if a step feeds a prompt as well: then once for each of the two programs."""
    limits = EngineLimits(max_running=2, total_tokens=192, max_request_tokens=96, block_size=4)
    counter = OpCounter()
    kernels = counted_kernels(counter)
    options = TorchOptions(kernels=kernels, program_sizes=(2,), program_tokens=96, prefill_sizes=(32,))
    backend, scheduler = TorchBackend(mini_model, options=options), Scheduler(limits)
    backend.reserve(limits.num_blocks, limits.block_size)

    def waits() -> int:
        counter.clear()
        with counter.read_backs_counted():
            for item, tokens in zip(batch := scheduler.schedule(4), backend.step(batch), strict=True):
                item.sequence.computed += item.count + len(tokens) - 1
                item.sequence.accept_all([token % mini_dir.llm.speech_tokens for token in tokens])
        return counter.read_backs

    scheduler.add(Sequence(Request((1, 2, 3)), mini_dir, 96, 0))
    assert waits() == 1
    assert waits() == 1
    scheduler.add(Sequence(Request((4, 5)), mini_dir, 96, 1))
    assert waits() == 2
