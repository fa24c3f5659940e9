"""One Euler step of a batch as a program over tensors of fixed shape: a CUDA graph on a GPU.

Launching the estimator's thousands of small kernels one by one takes longer than running them. A recorded graph
launches them at once, but with fixed addresses and shapes. So all inputs of a step (its number, the new frames, the
cache indices of every stream, the positions each frame may attend to) are in tensors that the program owns. Streams,
frames and blocks that a batch lacks are padding, which writes to the spare block and slot of the cache, which no stream
reads. Without CUDA the same program runs as ordinary operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from services.decode.flow.block_attention import Attention, Batch, MakeAttention, PlainAttention
from services.decode.flow.kv_cache import KvCache, KvState
from services.decode.flow.solver import Solver, Start

_START, _LENGTH, _BEFORE, _AFTER, _BLOCKS = range(5)
Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Turns a program's step into a function that repeats it faster."""


@dataclass(frozen=True)
class Shape:
    """The largest batch of a program: streams, and the new frames and blocks (new ones included) of each stream."""

    streams: int
    frames: int
    blocks: int


StepNetwork = Callable[[Tensor, list[Tensor], "FixedContext"], Tensor]
"""What a program runs: an `EstimatorNetwork`, or another form of one. Arguments and result as of its `forward`."""


@dataclass(frozen=True)
class Row:
    """One stream of a batch: its cached state without and with the new frames.

    Each new token attends to the absolute tokens before `ends` [tokens]; None means no limit.
    """

    before: KvState
    after: KvState
    ends: Tensor | None


def scratch(solver: Solver, shapes: Iterable[Shape]) -> Tensor:
    """Scratch memory [n] for the largest of these programs; all share it, since only one runs at a time."""
    like = solver.noise(0, 1)
    values = like.shape[1] + solver.rows * solver.inputs  # x, and the estimator's input in every guidance row
    return like.new_zeros(max(shape.streams * shape.frames for shape in shapes) * values)


class EulerProgram:
    """Solves batches up to one shape. Used by one thread at a time."""

    def __init__(
        self,
        solver: Solver,
        network: StepNetwork,
        cache: KvCache,
        frames_per_token: int,
        shape: Shape,
        room: Tensor,
        attention: MakeAttention = PlainAttention,
    ) -> None:
        """`network` is the solver's estimator, or an equal one, and `cache` its cache.

        `room` is a result of `scratch`; programs that share it never run at the same time.
        """
        self.shape = shape
        self._solver, self._network, self._cache, self._ratio = solver, network, cache, frames_per_token
        self._attention = attention
        like = solver.noise(0, 1)
        mel, frames = like.shape[1], shape.streams * shape.frames
        inputs = room[frames * mel : frames * (mel + solver.rows * solver.inputs)]
        self._x = room[: frames * mel].view(shape.streams, shape.frames, mel)
        self._inputs = inputs.view(solver.rows, shape.streams, shape.frames, solver.inputs)
        self._table = torch.zeros(shape.streams, _BLOCKS + shape.blocks + shape.frames, dtype=torch.int64)
        self._table = self._table.to(like.device)
        self._step = torch.zeros(1, dtype=torch.int64, device=like.device)
        self._dts = torch.tensor(solver.dts, device=like.device)
        self._terms = torch.stack([torch.cat(terms, dim=1) for terms in solver.terms])  # [steps, 1, stages, channels]
        self._repeat: Callable[[], None] = self._run

    def record(self, record: Record) -> None:
        """Replace the step by its recording. Raises RuntimeError if it cannot be recorded."""
        self._table.copy_(self.numbers([]))  # padding alone, so that recording changes no stream
        self._x.zero_()
        self._inputs.zero_()
        self._repeat = record(self._run)

    def solve(self, start: Start, numbers: Tensor, on_step: Callable[[], None]) -> Tensor:
        """Like `Solver.solve`, for batches that fit this program's shape: [S, N, mel]."""
        streams, frames = start.mu.shape[:2]
        self.fill(start, numbers)
        for _ in range(self._solver.steps):
            self.step()
            on_step()
        return self._x[:streams, :frames].clone()

    @property
    def x(self) -> Tensor:
        """What the steps change, [S, N, mel], padding included: noise before the first, the mel after the last."""
        return self._x

    def step(self) -> None:
        """Compute the next Euler step of the batch; the one after the last is the first."""
        self._repeat()

    def fill(self, start: Start, numbers: Tensor) -> None:
        """Fill the inputs with a batch before its first step; `numbers` come from `numbers`, best on the device."""
        streams, frames = start.mu.shape[:2]
        self._table.copy_(numbers)
        inputs = start.inputs(self._solver.conditions, self._solver.rows)
        for own, given in ((self._x, start.noise), (self._inputs.transpose(0, 1), inputs.transpose(0, 1))):
            own.zero_()
            own[:streams, ..., :frames, :] = given
        self._step.zero_()

    def _run(self) -> None:
        dtype = self._solver.estimator.dtype
        around = FixedContext(self._cache, self._table, self._step, self.shape, dtype, self._attention)
        terms = self._terms.index_select(0, self._step)[0]
        x = self._solver.put(self._x, self._inputs)
        velocity = self._network(x, [term[:, None] for term in terms.unbind(1)], around)
        self._x.copy_(self._solver.euler(self._x, self._dts.index_select(0, self._step), velocity))
        self._step.add_(1).remainder_(self._solver.steps)

    def numbers(self, batch: Sequence[Row]) -> Tensor:
        """The program's table for a batch, on the host."""
        return table_of(batch, self.shape, self._ratio, self._cache)


def table_of(batch: Sequence[Row], shape: Shape, ratio: int, cache: KvCache) -> Tensor:
    """The table of a `FixedContext` at `ratio` positions per token: one row per stream; the others are padding."""
    spare = cache.blocks - 1
    padding = [0, 0, 0, cache.slots - 1, *[spare] * shape.blocks, *[1] * shape.frames]
    numbers = torch.tensor([padding] * shape.streams, dtype=torch.int64)
    ends = numbers[:, _BLOCKS + shape.blocks :]
    for row, one in enumerate(batch):
        before, after = (kv_state.slot.index if kv_state.slot else 0 for kv_state in (one.before, one.after))
        start, end = ratio * one.before.tokens, ratio * one.after.tokens
        # Missing blocks repeat the stream's first one, so that masked positions hold finite values of its own.
        blocks = [block.index for block in one.after.blocks]
        blocks += [blocks[0]] * (shape.blocks - len(blocks))
        numbers[row, : _BLOCKS + shape.blocks] = torch.tensor([start, end - start, before, after, *blocks])
        ends[row, : end - start] = end if one.ends is None else (ratio * one.ends).repeat_interleave(ratio)
    return numbers


def table_width(shape: Shape) -> int:
    """Columns of a table of `table_of`."""
    return _BLOCKS + shape.blocks + shape.frames


def at_rate(table: Tensor, shape: Shape, ratio: int) -> Tensor:
    """A table at one position per token, computed for `ratio` of them."""
    places, slots, ends = table.split([_BEFORE, _BLOCKS - _BEFORE + shape.blocks, shape.frames], dim=1)  # type: ignore[no-untyped-call]
    return torch.cat((ratio * places, slots, (ratio * ends).repeat_interleave(ratio, dim=1)), dim=1)


@dataclass(frozen=True)
class Tails:
    """The cached positions to the left of one convolution's input, of R rows = guidance rows * S streams."""

    stored: Tensor
    """[n, width, C], of every slot, guidance row and step."""
    before: Tensor
    """int64 [R], where each row's tail is read: n is never one that the step writes."""
    after: Tensor
    """int64 [R], where its new tail is stored."""
    lengths: Tensor
    """int64 [S, 1], the valid new positions; the last `width` of tail and valid positions are the new tail."""

    def extend(self, x: Tensor) -> Tensor:
        """Return `x` [R, N, C] after its rows' tails, [R, width + N, C]; store the new tails."""
        width = self.stored.shape[1]
        extended = torch.cat((self.stored.index_select(0, self.before), x), dim=1)
        last = (self.lengths + torch.arange(width, device=x.device)).repeat(x.shape[0] // self.lengths.shape[0], 1)
        kept = extended.gather(1, last[:, :, None].expand(-1, -1, x.shape[-1]))
        self.stored.index_copy_(0, self.after, kept)
        return extended


class FixedContext:
    """The forward context of a program: every index is computed from its table, on the device."""

    def __init__(
        self,
        cache: KvCache,
        table: Tensor,
        step: Tensor,
        shape: Shape,
        dtype: torch.dtype,
        make_attention: MakeAttention,
    ) -> None:
        self._cache, self._shape, self._dtype, layout = cache, shape, dtype, cache.layout
        start, length, before, after = table[:, :_BLOCKS, None].unbind(1)
        blocks, ends = table[:, _BLOCKS : _BLOCKS + shape.blocks], table[:, _BLOCKS + shape.blocks :]
        self._batch, self._make_attention = Batch(step, start, length, ends, blocks), make_attention
        slot = (step * layout.rows + torch.arange(layout.rows, device=table.device))[:, None] * cache.slots
        self._before, self._after = ((slot + one.flatten()).flatten() for one in (before, after))

    @cached_property
    def _attention(self) -> Attention:
        return self._make_attention(self._cache, self._batch, self._dtype)

    @cached_property
    def _positions(self) -> Tensor:
        new = torch.arange(self._shape.frames, device=self._batch.starts.device)
        return (self._batch.starts + new).repeat(self._cache.layout.rows, 1)

    def positions(self, x: Tensor) -> Tensor:
        """Like `Pass.positions`."""
        return self._positions

    def tails(self, layer: int, width: int, x: Tensor) -> Tails:
        """Return the tails of convolution `layer`, whose input is `x` [R, N, C], each of `width` positions."""
        stored = self._cache.all_tails(layer, width, x.shape[-1], x.dtype).flatten(0, 2)
        return Tails(stored, self._before, self._after, self._batch.lengths)

    def left(self, layer: int, x: Tensor, width: int) -> Tensor:
        """Like `Pass.left`."""
        return self.tails(layer, width, x).extend(x)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Like `Pass.attend`."""
        return self._attention(layer, q, k, v)
