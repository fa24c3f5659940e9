"""Which Triton kernels a worker uses for its programs: those that exist here and give the plain mel."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.decode import loading
from services.decode.estimators.kernels import PLAIN
from services.decode.flow.block_attention import PlainAttention
from services.decode.flow.model import Flow
from services.decode.loading import program_parts
from services.decode.settings import DecodeSettings
from tests.support.logs import capture_logs
from tests.unit.decode import decode_support as support


class DoubledAttention(PlainAttention):
    """An attention with a fault."""

    def __call__(self, *arguments: Any) -> torch.Tensor:
        return 2 * super().__call__(*arguments)


class OwnAttention(PlainAttention):
    """Another attention that gives the same result."""


def kernel_modules(attention: object, head_sizes: bool = True) -> dict[str, object]:
    """Stand-ins for the modules that need Triton."""
    return {
        "attention_kernel": SimpleNamespace(BlockAttention=attention, fits=lambda head_dim: head_sizes),
        "layer_kernels": SimpleNamespace(FUSED=PLAIN, WIDEST_NORM=512),
    }


@pytest.mark.parametrize(
    ("modules", "attention", "fused", "reasons"),
    [
        (kernel_modules(OwnAttention), OwnAttention, True, {}),
        (kernel_modules(DoubledAttention), PlainAttention, True, {"decode_paged_kernel": "differs from the plain one"}),
        (kernel_modules(OwnAttention, False), PlainAttention, True, {"decode_paged_kernel": "it needs heads of 16"}),
        (
            dict.fromkeys(kernel_modules(None)),
            PlainAttention,
            False,
            {"decode_paged_kernel": "triton package is missing", "decode_fused_kernels": "triton package is missing"},
        ),
    ],
    ids=["both work", "wrong attention", "heads of another size", "no Triton"],
)
def test_kernels_that_fail_are_left_out_with_a_reason(
    modules: dict[str, object],
    attention: object,
    fused: bool,
    reasons: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"services.decode.estimators.{name}", module)
    flow = support.mini_backend().flow
    with capture_logs() as lines:
        parts = program_parts(flow)
    assert parts.attention is attention, lines
    assert (parts.network is not None) == fused
    assert flow.programs is None
    logged = {line["setting"]: line["reason"] for line in lines if "setting" in line}
    assert logged.keys() == reasons.keys()
    assert all(reason in logged[setting] for setting, reason in reasons.items())


def test_graphs_of_plain_operations_replace_those_of_kernels_that_cannot_be_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = []

    def record(flow: Flow, most_streams: int, record: object, *parts: object) -> None:
        if record and parts:
            raise RuntimeError("operation not permitted when stream is capturing")
        recorded.extend([parts] if record else [])

    for name, module in kernel_modules(OwnAttention).items():
        monkeypatch.setitem(sys.modules, f"services.decode.estimators.{name}", module)
    monkeypatch.setattr(loading, "use_programs", record)
    monkeypatch.setattr(loading, "use_vocoder_programs", lambda *parts: None)
    monkeypatch.setattr(loading, "vocoder_forms", dict)
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: "graphs")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(loading, "TorchBackend", lambda *arguments: support.mini_backend())
    with capture_logs() as lines:
        loading._warm(DecodeSettings(), support.mini(), torch.device("cuda"), None)
    assert recorded == [()]
    assert [line["instead"] for line in lines] == ["graphs of plain operations"]


def test_a_gpu_that_a_kernel_has_broken_is_not_taken_for_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA reports an illegal access at every later call: all that replaces the kernel fails too, and is left out."""

    def broken(*arguments: object) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    gpu, backend = torch.device("cuda"), support.mini_backend()
    for name in ("use_programs", "use_vocoder_programs"):
        monkeypatch.setattr(loading, name, broken)
    monkeypatch.setattr(loading, "vocoder_forms", dict)
    monkeypatch.setattr(loading, "fastest_forms", lambda *parts: {})
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: "graphs")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    monkeypatch.setattr(backend, "device", gpu)
    monkeypatch.setattr(loading, "TorchBackend", lambda *arguments: backend)
    with capture_logs() as lines, pytest.raises(RuntimeError, match="illegal memory access"):
        loading._warm(DecodeSettings(), support.mini(), gpu, None)
    assert [line["setting"] for line in lines][-2:] == ["decode_cuda_graphs"] * 2
