"""TF32 on a CPU: rounds float32 tensors as tensor cores would under torch's current settings."""

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
    """Round the inputs of convolutions and matrix products as a GPU would where the settings allow it.

    Sums stay in float32, as they do on a GPU. A GPU's kernel for another shape adds in another order, which changes the
    last bits of what the next layer reads; a CPU's may not, so they are changed here.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        backends = torch.backends
        if (function in CONVOLUTIONS and backends.cudnn.conv.fp32_precision == "tf32") or (  # type: ignore[attr-defined]
            function in PRODUCTS and backends.cuda.matmul.fp32_precision == "tf32"
        ):
            args = (_rounded(_last_bits_by_shape(args[0])), _rounded(args[1]), *args[2:])
        return function(*args, **(kwargs or {}))


def _last_bits_by_shape(values: Tensor) -> Tensor:
    """Return float32 values times 1 + k 2^-23, k from -3 to 3; return other types unchanged."""
    return values * (1 + (sum(values.shape) % 7 - 3) * 2.0**-23) if values.dtype == torch.float32 else values


def _rounded(values: Tensor) -> Tensor:
    """Round float32 values to 10 of 23 bits of mantissa; return other types unchanged."""
    if values.dtype != torch.float32:
        return values
    return ((values.contiguous().view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32)


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Use the settings of a process that has just imported torch, and restore the previous ones at the end."""
    _reset()
    try:
        yield
    finally:
        _reset()


def _reset() -> None:
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
