"""Counts the operations of a recorded program on a CPU: how many kernels a GPU would launch, and the bytes they move.

Views, casts and allocations are not counted. A part that is a Triton kernel on a GPU counts as that kernel, whatever
operations compute it here. Calls that would make the host wait for the device are counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

P = ParamSpec("P")
R = TypeVar("R")

FREE = {"_to_copy", "detach", "empty", "empty_like", "empty_strided", "new_empty", "lift_fresh", "_unsafe_view"}
"""Casts, which are part of a neighbouring kernel; allocations."""
LOOKUPS = {"embedding", "index_select", "gather", "index"}
"""Operations that read as many rows of their first tensor as they return."""
READ_BACKS = {"tolist", "item", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__"}

UPLOADS = {"to", "tensor", "as_tensor"}
"""Operations that copy from the host to the device if they are given one."""


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run in `with counter:`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: Counter[str] = Counter()
        """Launches by the name of the operation or part."""
        self.bytes: Counter[str] = Counter()
        """Bytes read and written, by the same names."""
        self.read_backs = 0
        """Calls that would make the host wait for the device."""
        self.uploads = 0
        """Calls that would copy from the host to the device."""
        self.apart = False
        """Whether a part runs, whose operations are not counted."""

    def clear(self) -> None:
        self.kernels.clear()
        self.bytes.clear()
        self.read_backs = self.uploads = 0

    def read_backs_counted(self) -> TorchFunctionMode:
        """Return a context that counts the read-backs in it, and the uploads."""
        return _Transfers(self)

    def part(self, name: str, launches: int, moved: Callable[P, int], call: Callable[P, R]) -> Callable[P, R]:
        """Return `call`, counted as `launches` kernels of that name that move `moved(arguments)` bytes."""

        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            outer, self.apart = self.apart, True
            try:
                self.kernels[name] += launches
                self.bytes[name] += moved(*args, **kwargs)
                return call(*args, **kwargs)
            finally:
                self.apart = outer

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        view = any(result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns)
        if not self.apart and not view and name not in FREE:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            if name in LOOKUPS:
                read = [*written, *read[1:]]
            self.kernels[name] += 1
            self.bytes[name] += tensor_bytes(*read, *written)
        return out


class _Transfers(TorchFunctionMode):
    def __init__(self, counter: OpCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        name, given = getattr(func, "__name__", ""), [*args[1:], *(kwargs or {}).values()]
        if not self._counter.apart:
            self._counter.read_backs += name in READ_BACKS
            self._counter.uploads += name in UPLOADS and any(isinstance(one, torch.device | str) for one in given)
        return func(*args, **(kwargs or {}))


def tensor_bytes(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
