"""The form of each estimator network that has few kernels."""

from __future__ import annotations

import copy
from typing import cast

from services.decode.estimators.fused_dit import FusedDiT
from services.decode.estimators.fused_unet import FusedUNet
from services.decode.estimators.kernels import PLAIN, LayerKernels
from services.decode.flow.dit import DiT
from services.decode.flow.program import StepNetwork
from services.decode.flow.unet import UNet


def fused_network(network: object, kernels: LayerKernels = PLAIN) -> StepNetwork:
    """Return an estimator as a step of few kernels. Raises ValueError for a network that has no such form."""
    if isinstance(network, UNet):
        return FusedUNet(network, kernels)
    if isinstance(network, DiT):
        return FusedDiT(network, kernels)
    raise ValueError(f"no kernels fuse the layers of {type(network).__name__}")


def with_kernels(network: StepNetwork, kernels: LayerKernels) -> StepNetwork:
    """Return the same step with other kernels; it shares the weights. `network` is a result of `fused_network`."""
    other = copy.copy(cast(FusedUNet | FusedDiT, network))
    other.kernels = kernels
    return other
