"""Takes the queries of declared heads out of a forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from services.common.checkpoint.model_dir import AlignmentHead, LlmConfig


class HeadGroup(NamedTuple):
    """Declared heads of one layer that share a K/V head."""

    layer: int
    kv_head: int
    members: tuple[int, ...]
    """Indices within the K/V head's group of heads."""


def grouped(heads: Sequence[AlignmentHead], config: LlmConfig) -> tuple[HeadGroup, ...]:
    """Return the heads by layer and K/V head, in this order."""
    size = config.num_heads // config.num_kv_heads
    members: dict[tuple[int, int], list[int]] = {}
    for head in sorted(heads, key=lambda head: (head.layer, head.head)):
        members.setdefault((head.layer, head.head // size), []).append(head.head % size)
    return tuple(HeadGroup(layer, kv_head, tuple(which)) for (layer, kv_head), which in members.items())


class QueryTap:
    """Keeps the queries of declared heads at each sequence's last token, during one forward pass.

    The scores of heads are added up, and heads that share their keys need one product for all: their queries are added
    up first.
    """

    def __init__(self, by_layer: Mapping[int, Sequence[HeadGroup]]) -> None:
        self._by_layer = by_layer
        self._taken: list[Tensor] = []

    def take(self, layer: int, query: Tensor, last: Tensor) -> None:
        """Keep what is needed of query [N, kv_heads, group, head_dim]; `last` [sequences] indexes its rows."""
        for group in self._by_layer.get(layer, ()):
            shared = query[:, group.kv_head] if len(last) == len(query) == 1 else query[last, group.kv_head]
            # Heads are taken one by one: a list of indices would be copied to the device, which a CUDA graph cannot do.
            members = [shared[:, member].float() for member in group.members]
            self._taken.append(reduce(torch.add, members))

    def summed(self) -> Tensor:
        """Return float32 [sequences, groups * head_dim] of the pass, the groups in order of their layers."""
        return self._taken[0] if len(self._taken) == 1 else torch.cat(self._taken, dim=1)
