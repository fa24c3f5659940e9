"""The Euler step on a CPU, over passes with or without kept states: fewer operations than the plain network."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from services.decode.estimators.cpu_kernels import CPU
from services.decode.estimators.fused import fused_network
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass
from services.decode.flow.model import Flow
from services.decode.flow.program import FixedContext


class JoinedEstimator:
    """Replaces a network in float32 by its form of few operations (see `flow.solver.Estimator`)."""

    dtype = torch.float32

    def __init__(self, network: EstimatorNetwork) -> None:
        """Raises ValueError for a network that has no such form."""
        self._step = fused_network(network, CPU)

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: Pass) -> Tensor:
        # A pass gives all that these parts need of a program's context: positions, tails and attention.
        return self._step(x, time_terms, cast(FixedContext, frames))


def use_cpu_step(flow: Flow) -> None:
    """Run the Euler steps of a flow in float32 on a CPU as few operations. Raises ValueError if it has no such form."""
    flow.solver = flow.make_solver(JoinedEstimator(flow.estimator))
