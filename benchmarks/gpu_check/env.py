"""Reports the machine and the limits of its hardware, to judge later figures."""

from __future__ import annotations

import importlib
import shutil
import sysconfig
from pathlib import Path

import torch

from benchmarks.gpu_check.check import Check, allow_tf32, name_of

PACKAGES = (
    *("torch", "triton", "numpy", "transformers", "onnx", "onnxruntime"),
    *("grpc", "google.protobuf", "pydantic", "structlog"),
)


def env(check: Check) -> None:
    """Report versions, then rates of copies, matrix products, convolutions and gathers."""
    for package in PACKAGES:
        check.report(f"version of {package}", _version(package))
    check.report("C compiler, which Triton needs", shutil.which("gcc") or shutil.which("clang") or "missing")
    check.report("Python.h, which Triton needs", Path(sysconfig.get_paths()["include"], "Python.h").exists())
    check.report("NVIDIA MPS control daemon", shutil.which("nvidia-cuda-mps-control") or "missing")
    _copies(check)
    _products(check)
    _convolutions(check)
    _gathers(check)


def _version(package: str) -> str:
    try:
        return str(importlib.import_module(package).__version__)
    except Exception as error:  # noqa: BLE001 - a package that is broken here is a result too
        return f"missing ({type(error).__name__})"


def _copies(check: Check) -> None:
    count = 2**30 if check.on_gpu else 2**26
    source = torch.ones(count, dtype=torch.uint8, device=check.device)
    target = torch.empty_like(source)
    milliseconds = check.milliseconds(lambda: target.copy_(source))
    check.report("copy, GB/s read and written", round(2 * count / milliseconds / 1e6))


def _products(check: Check) -> None:
    size = 8192 if check.on_gpu else 256
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size, size, device=check.device).to(dtype) for _ in range(2))
        milliseconds = check.milliseconds(lambda left=left, right=right: left @ right, 8)  # type: ignore[misc]
        check.report(f"matrix product in {name_of(dtype)}, TFLOP/s", round(2 * size**3 / milliseconds / 1e9, 1))


def _convolutions(check: Check) -> None:
    """Measure a convolution of the vocoder's kind. PyTorch's default is float32 with 10 bits of mantissa (TF32)."""
    batch, channels, width, length = 16 if check.on_gpu else 1, 256, 7, 4000
    convolution = torch.nn.Conv1d(channels, channels, width, padding=width // 2).to(check.device)
    signal = torch.randn(batch, channels, length, device=check.device)
    operations = 2 * batch * channels * channels * width * length
    check.report("cuDNN may use TF32 by default", torch.backends.cudnn.allow_tf32)
    for allowed in (True, False):
        allow_tf32(allowed)
        with torch.inference_mode():
            milliseconds = check.milliseconds(lambda: convolution(signal), 8)
        name = "TF32" if allowed else "full float32"
        check.report(f"convolution in {name}, TFLOP/s", round(operations / milliseconds / 1e9, 1))


def _gathers(check: Check) -> None:
    """Measure a read of scattered blocks of decode's K/V cache against a copy of the same bytes."""
    blocks, picked, values = 2000, 1024 if check.on_gpu else 64, 50 * 512
    cache = torch.zeros(blocks, values, dtype=torch.bfloat16, device=check.device)
    places = torch.randint(0, blocks, (picked,), device=check.device)
    moved = 2 * picked * values * cache.element_size()
    ways = {
        "index_select of bfloat16": lambda: cache.index_select(0, places),
        "index_select of the same as int64": lambda: cache.view(torch.int64).index_select(0, places),
        "indexing": lambda: cache[places],
    }
    for name, gather in ways.items():
        check.report(f"gather by {name}, GB/s", round(moved / check.milliseconds(gather) / 1e6))
