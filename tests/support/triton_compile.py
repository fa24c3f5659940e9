"""Compiles launches of Triton kernels for GPUs on a machine without one; imported only where Triton is installed."""

from __future__ import annotations

from typing import Any

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
from triton.backends.compiler import GPUTarget  # type: ignore[import-not-found, import-untyped, unused-ignore]
from triton.compiler import ASTSource  # type: ignore[import-not-found, import-untyped, unused-ignore]
from triton.runtime.jit import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    JITFunction,
    mangle_type,
)

SHARED = {80: 163, 89: 99, 90: 227, 100: 227}
"""Shared memory in KiB that one program may use, by compute capability."""
OPTIONS = ("num_warps", "num_stages", "maxnreg", "launch_pdl")

Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Launches:
    """Keeps the launches of kernels on CPU tensors instead of running them."""

    def __init__(self) -> None:
        self.order: list[str] = []
        """The names of all launches."""
        self.by_name: dict[str, Launch] = {}
        """The last launch of each kernel."""
        self.variants: dict[tuple[Any, ...], Launch] = {}
        """A launch for every set of constants: all that a GPU would compile."""
        JITFunction.run = lambda kernel, *arguments, **keywords: self._keep(kernel, *arguments, **keywords)

    def _keep(self, kernel: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        self.order.append(kernel.__name__)
        launch = (kernel, arguments, constants)
        self.by_name[kernel.__name__] = launch
        self.variants[kernel.__name__, *sorted(constants.items())] = launch


def compile_for(capability: int, launch: Launch) -> str:
    """Compile a launch; return its PTX. Raises AssertionError if it needs more shared memory than such a GPU has."""
    kernel, arguments, keywords = launch
    constants = {name: value for name, value in keywords.items() if name not in OPTIONS}
    if "LIBDEVICE" in constants:
        constants["LIBDEVICE"] = True  # as on a GPU
    values = dict(zip(kernel.arg_names, arguments, strict=False), **constants)
    assert list(values) == kernel.arg_names
    # As a launch does it: tensors become pointers of known alignment, and an integer 1 a constant.
    signature = {name: "constexpr" if name in constants else mangle_type(value, True) for name, value in values.items()}
    fixed = {name: values[name] for name, kind in signature.items() if kind == "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    made = triton.compile(
        ASTSource(kernel, signature, fixed, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={name: keywords[name] for name in OPTIONS if name in keywords},
    )
    assert made.asm["cubin"], (kernel.__name__, capability)
    assert made.metadata.shared <= 1024 * SHARED[capability], (kernel.__name__, capability, made.metadata.shared)
    ptx: str = made.asm["ptx"]
    return ptx
