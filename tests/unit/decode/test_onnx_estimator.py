"""The exported estimator in ONNX Runtime equals PyTorch: any batch, any length, with the chunk mask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.decode.estimators.export import export, graph_path, weights_hash
from services.decode.estimators.onnx import OnnxEstimator, onnx_estimator
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass, chunk_mask
from tests.unit.decode import decode_support as support

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=support.FAMILIES)
def network(request: pytest.FixtureRequest) -> EstimatorNetwork:
    family: str = request.param
    return support.mini_backend(family).flow.estimator


@pytest.fixture(scope="module")
def exported(network: EstimatorNetwork, tmp_path_factory: pytest.TempPathFactory) -> OnnxEstimator:
    return onnx_estimator(network, tmp_path_factory.mktemp("graphs"), CPU)


@pytest.mark.parametrize("lengths", [[50], [120], [1], [50, 150], [100, 30, 70]])
@torch.inference_mode()
def test_the_graph_computes_what_the_network_does(
    network: EstimatorNetwork, exported: OnnxEstimator, lengths: list[int]
) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    x = torch.randn(2 * len(lengths), max(lengths), network.inputs, generator=generator)
    ends = [torch.tensor([min(n, 50 * (i // 50 + 1)) for i in range(n)]) if n > 50 else None for n in lengths]
    terms = network.time_terms(torch.tensor([0.3]))
    over = Pass(lengths, chunk_mask(ends, [0] * len(lengths), lengths, rows=2), rows=2)
    expected, made = network(x, terms, over), exported(x, terms, over)
    for index, length in enumerate(lengths):
        rows = slice(index, None, len(lengths))
        assert (expected[rows, :length] - made[rows, :length]).abs().max() <= 1e-4


def test_the_mask_is_part_of_the_graph(network: EstimatorNetwork, exported: OnnxEstimator) -> None:
    x = torch.randn(2, 100, network.inputs, generator=torch.Generator().manual_seed(0))
    terms = network.time_terms(torch.tensor([0.3]))
    chunked = chunk_mask([torch.tensor([50] * 50 + [100] * 50)], [0], [100], rows=2)
    masked, free = (exported(x, terms, Pass([100], mask, rows=2)) for mask in (chunked, None))
    assert (masked[:, :50] - free[:, :50]).abs().max() > 1e-3


def test_a_cached_graph_belongs_to_its_weights(network: EstimatorNetwork, tmp_path: Path) -> None:
    path = graph_path(tmp_path, network)
    export(network, path)
    written = path.stat().st_mtime_ns
    onnx_estimator(network, tmp_path, CPU)
    assert path.stat().st_mtime_ns == written
    before = weights_hash(network)
    bias = next(network.parameters())
    with torch.no_grad():
        bias[..., 0] += 1
        assert weights_hash(network) != before
        bias[..., 0] -= 1
