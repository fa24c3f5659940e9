"""Load official checkpoints into our modules: safely, with weight norm folded, and naming every mismatch.

Imports only torch and the standard library. Key spellings and the weight-norm formula: spec section 1.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from services.common.checkpoint.model_dir import ModelDirError

_NORM_PAIRS = (
    (re.compile(r"(.*)\.parametrizations\.weight\.original0$"), ".parametrizations.weight.original1"),
    (re.compile(r"(.*)\.weight_g$"), ".weight_v"),
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Load a state dict in float32 under current key names, weight norm folded into plain `.weight` tensors.

    `generator.` prefixes are dropped and the older `block1.block.1` LayerNorm spelling becomes `block1.block.2`.
    Raises ModelDirError when the file is not a plain state dict of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelDirError(f"{path} does not exist; fetch the checkpoint again") from error
    except pickle.UnpicklingError as error:  # torch's own message advises to switch this safety off
        raise ModelDirError(f"{path} holds objects other than plain tensors, or is damaged; fetch it again") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelDirError(f"{path} is damaged or not a plain state dict ({first_line}); fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelDirError(f"{path} is not a plain state dict of tensors; fetch it again")
    named = {_current_name(str(key)): value.float() for key, value in state.items() if value.is_floating_point()}
    return fold_weight_norm(named)


def _current_name(key: str) -> str:
    key = key.replace("generator.", "")
    return re.sub(r"\.(block[12])\.block\.1\.", r".\1.block.2.", key)


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each weight-norm pair (g, v) by w = g * v / ||v||, the norm over every dimension but the first."""
    folded = dict(state)
    for key in state:
        for pattern, partner in _NORM_PAIRS:
            match = pattern.match(key)
            if match and match.group(1) + partner in state:
                g, v = folded.pop(key), folded.pop(match.group(1) + partner)
                norm = torch.linalg.vector_norm(v.double(), dim=tuple(range(1, v.dim())), keepdim=True)
                folded[match.group(1) + ".weight"] = (g.double() * v.double() / norm).float()
    return folded


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], source: str, ignore: tuple[str, ...] = ()) -> None:
    """Copy `weights` into `module`; every parameter and persistent buffer must be present with its exact shape.

    `source` (a file name) starts the error message; keys that begin with one of `ignore` may remain unused.
    Raises ModelDirError with the missing, misshapen and unexpected keys (the first few of each).
    """
    wanted = module.state_dict()
    missing = [f"{key} {list(value.shape)}" for key, value in wanted.items() if key not in weights]
    misshapen = [
        f"{key} is {list(weights[key].shape)}, expected {list(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    unexpected = [key for key in weights if key not in wanted and not key.startswith(ignore)]
    problems = []
    for label, keys in (("missing", missing), ("misshapen", misshapen), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            problems.append(f"{label}: {', '.join(keys[:3])}{more}")
    if problems:
        raise ModelDirError(f"{source} does not fit its configuration ({'; '.join(problems)})")
    # A module without its own storage (on meta) uses these tensors, so that the weights are in memory once.
    on_meta = any(value.is_meta for value in wanted.values())
    module.load_state_dict({key: weights[key] for key in wanted}, assign=on_meta)


class _NoInitialValues(TorchFunctionMode):
    """Leaves parameters as they are made. On meta, PyTorch would import its compiler for a normal distribution: 4 s."""

    _DRAWS = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in self._DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


@contextmanager
def without_weights() -> Iterator[None]:
    """Make modules without storage and random values, for `load_strict`: no work before, one copy in memory after."""
    with torch.device("meta"), _NoInitialValues():
        yield
