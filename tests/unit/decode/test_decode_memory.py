"""The division of a device's memory at the start: what is computed from shapes is what the tensors take."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from services.common.start_error import StartError
from services.decode.engine.memory import GPU_SHARE, LEAST_GPU_SHARE, WORKSPACE_BYTES, StateMemory
from services.decode.engine.program_memory import (
    FLOAT,
    SCORES_HELD,
    estimator_bytes,
    input_bytes,
    program_bytes,
    weight_bytes,
    window_bytes,
)
from services.decode.engine.torch_backend import Precision, TorchBackend
from services.decode.estimators.compiled import probe_mel, use_programs
from services.decode.flow.front_program import LARGEST_SCORES, front_fits
from services.decode.flow.kv_cache import pool_bytes
from services.decode.flow.program import Shape
from services.decode.loading import load_backend
from services.decode.settings import DecodeSettings
from services.decode.vocoder.conv import Conv, ordered_parts
from services.decode.vocoder.hift import Generator
from services.decode.vocoder.programs import WindowProgram, WindowShape
from tests.support.logs import capture_logs
from tests.unit.decode import decode_support as support

GIB, MIB = 2**30, 2**20
CARD = torch.device("cuda", 0)
BLOCK, SLOT = 115 * 10**6, 700_000
"""About those of the 0.5B layout in bfloat16."""
MOST = 10**6


class Card:
    """A GPU's memory as torch reports it, in bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, free: int, reserved: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: reserved)


def plan(fraction: float = 1.0, **options: Any) -> StateMemory:
    given = {"budget": None, "most": MOST, **options}
    return StateMemory.plan(CARD, fraction, (BLOCK, SLOT), **given)


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make, while they exist; `most` is the largest sum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {one.untyped_storage().data_ptr() for one in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in (one.untyped_storage() for one in _tensors(made)):
            if storage.data_ptr() not in given and storage not in self._known:
                self._known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes()).atexit = False
        return made

    def _add(self, size: int) -> None:
        self._now += size
        self.most = max(self.most, self._now)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]


def held(run: Callable[[], object]) -> int:
    """Return the most bytes that the operations of `run` hold at once."""
    with Held() as counter:
        run()
    return counter.most


@pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
@pytest.mark.parametrize("precision", [Precision(), Precision(torch.bfloat16, torch.float8_e4m3fn)])
def test_a_pool_takes_the_computed_bytes(family: str, precision: Precision) -> None:
    made = TorchBackend(support.mini(family), precision=precision, state_bytes=64 * MIB)
    planned = made.memory
    assert planned.blocks >= 4
    assert planned.slot > 0
    probe_mel(made.flow)
    assert made.flow.pool.nbytes == planned.states == pool_bytes(planned.blocks, planned.block, planned.slot)


def test_a_large_card_has_the_states_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the free memory, of which the spare block and the tails now are a part."""
    Card(monkeypatch, 80 * GIB, 78 * GIB, reserved=GIB)
    made = plan(programs=3 * GIB)
    assert made.free == 78 * GIB
    before = int(GPU_SHARE * 78 * GIB) // BLOCK
    assert 0.98 * before <= made.blocks < before
    assert made.states <= GPU_SHARE * 78 * GIB < made.states + BLOCK + SLOT


def test_programs_and_workspaces_leave_less_of_a_small_card(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, 8 * GIB, 7 * GIB)
    made = plan(programs=2 * GIB)
    assert made.states + made.programs + WORKSPACE_BYTES <= made.free
    assert made.blocks < plan().blocks
    much = plan(programs=20 * GIB)  # programs without memory are left out; states are worth more
    assert LEAST_GPU_SHARE * 7 * GIB - BLOCK - SLOT < much.states <= LEAST_GPU_SHARE * 7 * GIB


def test_a_share_of_a_card_counts_what_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, 80 * GIB, 70 * GIB, reserved=2 * GIB)
    assert plan(0.5).free == 38 * GIB


def test_a_budget_has_room_for_the_spare_block_and_the_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, 80 * GIB, 100 * BLOCK)
    assert plan(budget=90 * BLOCK).blocks == 90
    with pytest.raises(StartError, match=r"100 blocks of streams' states .* set LIGHTTTS_DECODE_STATE_BYTES lower"):
        plan(budget=100 * BLOCK)


def test_a_card_without_room_for_a_block_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, 80 * GIB, BLOCK)
    assert plan().blocks == 0


@torch.inference_mode()
@pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
def test_programs_hold_no_more_than_computed(family: str) -> None:
    model, most = support.mini(family), 2
    made = TorchBackend(model, state_bytes=64 * MIB)
    flow = made.flow
    use_programs(flow, most, None)
    programs = flow.programs
    assert programs is not None
    frames = flow.config.chunk_tokens * flow.config.mel_frames_per_token
    for shape in (Shape(2, 4 * frames, 8), Shape(1, 16 * frames, 16), Shape(1, frames, 64)):
        program = programs.find(shape.streams, shape.frames, shape.blocks)
        assert program is not None
        program.record(lambda run: run)  # clears the inputs
        assert program.numbers([]).nbytes == input_bytes(shape)
        taken, counted = held(program.step), estimator_bytes(flow.config, shape, torch.float32)
        assert counted / 6 <= taken <= counted, (shape, taken / counted)
        if front_fits(shape, {name: flow.pool.caches[name] for name in flow.front.layouts(1)}, frames // 25):
            front = programs.find_front(shape.streams, shape.frames, shape.blocks)
            assert front is not None
            numbers = front.numbers([], torch.zeros(0, 0, dtype=torch.int64))
            assert held(partial(front.run, numbers)) <= SCORES_HELD * LARGEST_SCORES * FLOAT
    for window in (WindowShape(1, 200), WindowShape(4, 100)):
        run = WindowProgram(made.vocoder, window)
        taken, counted = held(run.step), window_bytes(model.vocoder, window.streams * window.frames)
        assert counted / 6 <= taken <= counted, (window, taken / counted)


def test_the_vocoders_weights_for_its_kernel_are_counted() -> None:
    model = support.mini()
    generator = Generator(model.vocoder)
    blocks = [*generator.source_resblocks, *generator.resblocks]
    convs = [module for block in blocks for module in block.modules() if isinstance(module, Conv)]
    assert weight_bytes(model.vocoder) == sum(ordered_parts(conv.weight).nbytes for conv in convs)


def test_more_streams_need_more_memory() -> None:
    model = support.mini()
    few, many = (program_bytes(model, torch.bfloat16, streams) for streams in (1, 16))
    assert few < many < program_bytes(model, torch.float32, 16)


def test_the_parts_are_logged() -> None:
    with capture_logs() as lines:
        made = load_backend(DecodeSettings(decode_state_bytes=64 * MIB), support.mini())
    (line,) = [one for one in lines if one["event"] == "memory for decoding"]
    assert isinstance(made, TorchBackend)
    parts = made.memory.fields()
    assert set(parts) == {"free_gib", "blocks_gib", "tails_gib", "programs_gib", "workspace_gib", "rest_gib"}
    assert {name: line[name] for name in parts} == parts
    assert line["device"] == "cpu"
