"""What an operator of a graph is, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Node:
    """A node when the graph is loaded: `known` has the inputs that are constant, None for the others."""

    attributes: Mapping[str, Any]
    known: Sequence[Array | None]
    device: torch.device

    def constant(self, place: int) -> Array:
        """Return a constant input. Raises ValueError if it is not constant."""
        found = self.known[place] if place < len(self.known) else None
        if found is None:
            raise ValueError(f"input {place} must be a constant")
        return found

    def integers(self, place: int) -> list[int]:
        """Return a constant input of integers."""
        return [int(number) for number in np.ravel(self.constant(place))]

    def tensor(self, place: int) -> Tensor:
        """Return a constant input on the device, in float32."""
        return torch.from_numpy(self.constant(place).astype(np.float32)).to(self.device)


@dataclass(frozen=True)
class Operator:
    """`build` makes the function. It gets all inputs, or those of `takes`: as arrays those of `host`, else tensors."""

    build: Callable[[Node], Function]
    takes: tuple[int, ...] | None = None
    host: tuple[int, ...] = ()
