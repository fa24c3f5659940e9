"""The front of a batch as a program over tensors of fixed shape, like the Euler step: a CUDA graph on a GPU.

A front has a few hundred small kernels, which take longer to launch than to run. Its program reads one table, which
the host fills for a batch: tokens, positions, slots, blocks, and how far each token sees. Everything else is computed
from it on the device, for all streams together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from services.decode.flow.block_attention import PlainAttention
from services.decode.flow.encoder import KEPT_DISTANCE
from services.decode.flow.forward_pass import columns
from services.decode.flow.front import Front, Rate
from services.decode.flow.kv_cache import KvCache
from services.decode.flow.program import FixedContext, Record, Row, Shape, at_rate, table_of, table_width

LARGEST_SCORES = 2**25
"""Values of one layer's attention scores in the largest program: 128 MiB, of which a recording holds a few.

A larger batch is worth no program: computing takes it longer than launching.
"""


class FrontProgram:
    """Runs a front over batches up to one shape. Used by one thread at a time."""

    def __init__(
        self,
        front: Front,
        caches: Mapping[str, KvCache],
        frames_per_token: int,
        lookahead: int,
        shape: Shape,
        room: Tensor,
    ) -> None:
        """`caches` are those of the front's passes; `room` is a result of `front_room`, shared like `scratch`."""
        self.shape = shape
        self._tokens = Shape(shape.streams, shape.frames // frames_per_token, shape.blocks)
        self._front, self._caches, self._ratio, self._lookahead = front, caches, frames_per_token, lookahead
        width = table_width(self._tokens) + self._tokens.frames + lookahead
        self._table = torch.zeros(shape.streams, width, dtype=torch.int64, device=room.device)
        self._step = torch.zeros(1, dtype=torch.int64, device=room.device)
        mel = room.shape[-1]
        self._mu = room.flatten()[: shape.streams * shape.frames * mel].view(shape.streams, shape.frames, mel)
        self._repeat: Callable[[], None] = self._run
        self._held: Sequence[Tensor] = ()

    def record(self, record: Record) -> None:
        """Replace the computation by its recording. Raises RuntimeError if it cannot be recorded."""
        self._table.copy_(self.numbers([], torch.zeros(0, 0, dtype=torch.int64)))
        self._repeat = record(self._run)
        self._held = self._front.constants()  # the recording has their addresses

    def numbers(self, batch: Sequence[Row], ids: Tensor) -> Tensor:
        """The table for a batch, on the host; `ids` [S, n] are new tokens and lookahead, -1 where there is none."""
        cache = next(iter(self._caches.values()))
        tokens = torch.full((self.shape.streams, self._tokens.frames + self._lookahead), -1, dtype=torch.int64)
        tokens[: ids.shape[0], : ids.shape[1]] = ids
        return torch.cat((table_of(batch, self._tokens, 1, cache), tokens), dim=1)

    def run(self, numbers: Tensor) -> Tensor:
        """Return the mean mel [S, N, mel] of a batch, padding included; the next run of any program overwrites it."""
        self._table.copy_(numbers)
        self._repeat()
        return self._mu

    def _run(self) -> None:
        ids = self._table[:, table_width(self._tokens) :]
        self._mu.copy_(self._front(self._front.embed_known(ids), self._over))

    def _over(self, rate: Rate) -> FixedFrontContext:
        tokens = self._tokens
        table = self._table[:, : table_width(tokens)]
        if rate == "frames":
            table = at_rate(table, tokens, self._ratio)
        shape = tokens if rate == "tokens" else self.shape
        return FixedFrontContext(self._caches[rate], table, self._step, shape, torch.float32, PlainAttention)


class FixedFrontContext(FixedContext):
    """The context of a front in a program."""

    @property
    def keys(self) -> int:
        """See `FrontContext.keys`."""
        return self._shape.blocks * self._cache.layout.positions

    @cached_property
    def _columns(self) -> Tensor:
        return columns(self._batch.starts, self._shape.frames, self.keys)

    @cached_property
    def _plain(self) -> PlainAttention:
        return PlainAttention(self._cache, self._batch, self._dtype)

    def relative(self, scores: Tensor) -> Tensor:
        """See `FrontContext.relative`."""
        return scores.gather(3, self._columns.expand(-1, scores.shape[1], -1, -1))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `FrontContext.attend`."""
        return self._plain(layer, q, k, v, bias)


def front_room(shapes: Iterable[Shape], mel: int, device: torch.device) -> Tensor:
    """Memory [n, mel] for the result of the largest of these programs, shared by all."""
    return torch.zeros(max(shape.streams * shape.frames for shape in shapes), mel, device=device)


def front_fits(shape: Shape, caches: Mapping[str, KvCache], frames_per_token: int) -> bool:
    """Whether a batch of this shape is worth a program of its front."""
    for rate, cache in caches.items():
        new = shape.frames if rate == "frames" else shape.frames // frames_per_token
        keys, layout = shape.blocks * cache.layout.positions, cache.layout
        scores = shape.streams * layout.heads * new * (keys + new)
        if layout.layers and (scores > LARGEST_SCORES or max(keys, new) > KEPT_DISTANCE):
            return False
    return True
