"""The vocoder's convolutions on a GPU: with TF32 the measured context would grow to the layers' bound."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
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
from services.decode.vocoder.conv import ordered_parts
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


@pytest.mark.parametrize(("channels", "taps"), [(256, 11), (64, 3)])
def test_three_products_in_tf32_have_the_error_of_float32(channels: int, taps: int) -> None:
    """As `convolution_kernel` adds them up. Tensor cores that added all of them would have several times that error."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, channels, taps, generator=generator) / (channels * taps) ** 0.5
    x = torch.randn(channels, 8 + taps - 1, generator=generator)
    exact, float32 = (torch.conv1d(x[None].to(of), weight.to(of))[0] for of in (torch.float64, torch.float32))
    weights, values = in_chunks(weight), in_chunks(x.unfold(1, 8, 1).permute(2, 0, 1))
    zeros = torch.zeros(8, 8)

    def error(made: Tensor) -> float:
        return float((made.double() - exact).square().mean().sqrt())

    sums = three_products(weights, values, zeros.expand(len(weights[0]), 8, 8))
    made = error(reduce(torch.add, sums, zeros))
    assert made <= 1.5 * error(float32)
    long = zeros
    for step in range(len(sums)):
        long = three_products(weights[:, step], values[:, step], long)
    assert error(long) > 5 * made
    assert error(reduce(torch.add, on_tensor_cores(weights[0], values[0], zeros), zeros)) > 100 * made


def in_chunks(values: Tensor) -> Tensor:
    """[8, channels, taps] -> both parts of what is multiplied for one tap and 32 channels, [2, sums, 8, 32]."""
    parts = ordered_parts(values)[:, :, :8, : values.shape[1]]
    return parts.reshape(2, values.shape[2], 8, -1, 32).permute(0, 3, 1, 2, 4).flatten(1, 2)


def three_products(weights: Tensor, values: Tensor, total: Tensor) -> Tensor:
    """`total` and the products of parts, the smallest first and without that of the rests."""
    total = on_tensor_cores(weights[0], values[1], total)
    return on_tensor_cores(weights[0], values[0], on_tensor_cores(weights[1], values[0], total))


def on_tensor_cores(weights: Tensor, values: Tensor, total: Tensor) -> Tensor:
    """`total` and the products in TF32, eight at a time: exact sums, of which float32 keeps the first 24 bits."""
    first, second = ((one.contiguous().view(torch.int32) & -0x2000).view(torch.float32) for one in (weights, values))
    for k in range(0, first.shape[-1], 8):
        exact = total.double() + first[..., k : k + 8].double() @ second[..., k : k + 8].double().mT
        nearest = exact.float()
        larger = nearest.double().abs() > exact.abs()
        total = torch.where(larger, nearest.nextafter(torch.zeros(())), nearest)
    return total


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
