"""The vocoder's convolutions on a GPU: with TF32 the measured context would grow to the layers' bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from services.common.checkpoint.model_dir import open_model_dir
from services.common.checkpoint.weights import read_weights
from services.common.engine.precision import forbid_tf32
from services.decode.engine.torch_backend import TorchBackend
from services.decode.estimators.onnx import OnnxEstimator
from services.decode.flow.model import make_network
from services.decode.loading import load_backend
from services.decode.settings import DecodeSettings
from services.decode.vocoder.context import layer_bound, measure_context
from services.decode.vocoder.stream import Context, Vocoder
from tests.support.tf32 import EmulatedTF32, torch_defaults
from tests.unit.decode import decode_support as support

MINI = open_model_dir(support.ROOT / "tests" / "data" / "cosyvoice2-mini")
EMBEDDED = open_model_dir(support.ROOT / "models" / "tiny")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with torch_defaults():
        yield


def mel() -> Tensor:
    """A short mel that allows a measurement; it varies like speech."""
    frames, generator = 5 * layer_bound(EMBEDDED.vocoder).left, torch.Generator().manual_seed(5)
    slow = torch.randn(frames // 10 + 1, 80, generator=generator).repeat_interleave(10, dim=0)[:frames]
    return 2.0 * slow + 0.7 * torch.randn(frames, 80, generator=generator) - 5.0


def context(vocoder: Vocoder) -> Context:
    return measure_context(vocoder, mel(), cuts=1)


def test_tf32_would_cost_the_whole_bound_and_float32_costs_what_it_costs_on_a_cpu() -> None:
    bound = layer_bound(EMBEDDED.vocoder)
    vocoder = Vocoder(EMBEDDED.vocoder, read_weights(EMBEDDED.weights_file("hift")), bound)
    on_a_cpu = context(vocoder)
    assert on_a_cpu.left < bound.left
    assert on_a_cpu.right < bound.right
    with EmulatedTF32():
        assert context(vocoder) == bound  # what torch does by default
        forbid_tf32()
        assert context(vocoder) == on_a_cpu


def test_a_loaded_backend_has_forbidden_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchBackend, "warm_up", lambda self: None)
    assert torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    load_backend(DecodeSettings(decode_keep_state=False), MINI)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_onnx_runtime_computes_without_tf32_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU, so the session is simulated."""
    asked: list[Any] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: asked.extend(providers))
    with torch.device("meta"):
        network = make_network(MINI.flow)
    OnnxEstimator(network, support.ROOT / "estimator.onnx", torch.device("cuda:1"))
    assert asked == [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})]
