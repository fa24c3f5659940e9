"""The estimator as an ONNX graph: whole streams from their beginning, any batch, any length, the chunk mask included.

A graph has no cache, so it serves recompute only: every hop computes its stream's history. One graph serves ONNX
Runtime and, built into an engine, TensorRT. Other projects export without the mask and for a batch of two, which
changes the audio of streams.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
import warnings
from pathlib import Path
from typing import cast
from uuid import uuid4

import torch
from torch import Tensor, nn

from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass

log = logging.getLogger(__name__)

OPSET = 17
GRAPH_VERSION = 1
"""Part of every cache key: raise it when the graph changes."""
INPUTS, OUTPUT = ("x", "terms", "mask"), "velocity"


class WholeStreams(nn.Module):
    """The estimator without a cache: x [B, N, inputs], terms [stages, channels], mask [B, 1, N, N] -> [B, N, mel].

    `terms` are the time terms of one Euler step; `mask` is 0 where a frame may attend and minus infinity elsewhere.
    """

    def __init__(self, estimator: EstimatorNetwork) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, x: Tensor, terms: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.estimator(x, [term[None, None] for term in terms.unbind(0)], Pass([x.shape[1]], mask))
        return out


def export(estimator: EstimatorNetwork, path: Path) -> None:
    """Write the graph to `path` atomically, so that no reader finds a part of it. Raises OSError."""
    began = time.monotonic()
    log.info("exporting the estimator as a graph", extra={"path": str(path)})
    frames, terms = 100, estimator.time_terms(torch.zeros(1))
    inputs = (
        torch.zeros(2, frames, estimator.inputs, dtype=estimator.dtype),
        torch.zeros(len(terms), terms[0].shape[-1], dtype=estimator.dtype),
        torch.zeros(2, 1, frames, frames, dtype=estimator.dtype),
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter needs no further package, and warns that there is a newer one
        torch.onnx.export(
            WholeStreams(estimator).eval(),
            inputs,
            cast(str, buffer),  # a file object is accepted too
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes={
                "x": {0: "batch", 1: "frames"},
                "mask": {0: "batch", 2: "frames", 3: "frames"},
                OUTPUT: {0: "batch", 1: "frames"},
            },
        )
    write_whole(path, buffer.getvalue())
    details = {"mib": len(buffer.getvalue()) >> 20, "seconds": round(time.monotonic() - began, 1)}
    log.info("exported", extra=details)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically; several processes may write it at the same time. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.partial")  # process ids repeat in every container
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def weights_hash(estimator: nn.Module) -> str:
    """Return sixteen hexadecimal digits of a hash of the weights: a file built from other weights must not be used."""
    digest = hashlib.sha256(f"graph {GRAPH_VERSION}".encode())
    for name, value in sorted(estimator.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def graph_path(cache: Path, estimator: nn.Module) -> Path:
    """Path of the graph of these weights in a cache folder."""
    return cache / f"estimator-{weights_hash(estimator)}.onnx"
