"""TF32 on a CPU: what tensor cores would make of float32 tensors under torch's present settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = {torch.conv1d, torch.conv_transpose1d, torch.conv2d}
PRODUCTS = {torch.nn.functional.linear, torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.__matmul__}


class EmulatedTF32(TorchFunctionMode):
    """Rounds the inputs of convolutions and matrix products as a GPU would where the settings allow it.

    Sums stay in float32, as they do on a GPU.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        backends = torch.backends
        if (function in CONVOLUTIONS and backends.cudnn.conv.fp32_precision == "tf32") or (  # type: ignore[attr-defined]
            function in PRODUCTS and backends.cuda.matmul.fp32_precision == "tf32"
        ):
            args = (_rounded(args[0]), _rounded(args[1]), *args[2:])
        return function(*args, **(kwargs or {}))


def _rounded(values: Tensor) -> Tensor:
    """Float32 values to the nearest with 10 of 23 bits of mantissa; others as they are."""
    if values.dtype != torch.float32:
        return values
    return ((values.contiguous().view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32)


@contextmanager
def torch_defaults() -> Iterator[None]:
    """The settings of a process that has just imported torch; they are restored at the end, whatever was set."""
    _reset()
    try:
        yield
    finally:
        _reset()


def _reset() -> None:
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
