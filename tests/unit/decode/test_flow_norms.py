"""The epsilon of every layer norm of the flow: the golden arrays, whose activations are large, do not show it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from services.common.checkpoint.model_dir import open_model_dir
from services.common.checkpoint.weights import read_weights
from services.decode.flow.model import Flow
from tests.unit.decode import decode_support as support


@pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
def test_norms_of_small_activations(family: str) -> None:
    """1e-12 in the blocks of the conformer, 1e-6 in the DiT, 1e-5 elsewhere (spec sections 5.2, 5.4 and 9)."""
    model = open_model_dir(support.ROOT / "tests" / "data" / f"{family}-mini")
    flow = Flow(model.flow, read_weights(model.weights_file("flow")))
    parts = {"front": flow.front, "estimator": flow.solver.estimator}
    norms = {
        f"{part} {name}": module
        for part, network in parts.items()
        if isinstance(network, nn.Module)
        for name, module in network.named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    assert len(norms) > 3
    for name, norm in norms.items():
        block = name.startswith("front") and ("norm_ff" in name or "norm_mha" in name)
        eps = 1e-12 if block else 1e-6 if family == "cosyvoice3" else 1e-5
        (width,) = norm.normalized_shape
        x = 1e-4 * torch.randn(3, width, generator=torch.Generator().manual_seed(1))
        centred = x.double() - x.double().mean(dim=-1, keepdim=True)
        expected = centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
        if norm.elementwise_affine:
            expected = expected * norm.weight.double() + norm.bias.double()
        assert torch.allclose(norm(x).double(), expected, atol=1e-4 * float(expected.abs().max())), name
