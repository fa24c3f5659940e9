"""Writes a 0.5B directory of either family with random weights: official file names, key names, shapes and sizes.

Its audio is noise, and its costs are those of the official checkpoint. Two files list the tensors of the official state
dicts (spec sections 4.2, 5, 7.4 and 9), one pattern per line: file, key with `{first-last}` or `{a,b}` for numbers,
shape.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MINIS = ROOT / "tests" / "data"
_LISTS = {"cosyvoice2": HERE / "shapes.txt", "cosyvoice3": ROOT / "docs" / "spec" / "cosyvoice3-shapes.txt"}
FAMILIES = tuple(_LISTS)
Shapes = dict[str, dict[str, tuple[int, ...]]]
# One tensor with two names in the official file: Qwen2's tied embeddings.
_TIED = {"llm.model.lm_head.weight": "llm.model.model.embed_tokens.weight"}


def official_shapes(family: str = "cosyvoice2") -> Shapes:
    """Return the shape of each key of `llm`, `flow` and `hift`."""
    shapes: Shapes = {}
    for line in _LISTS[family].read_text(encoding="utf-8").splitlines():
        part, pattern, shape = line.split()
        for key in _expand(pattern):
            shapes.setdefault(part, {})[key] = tuple(int(size) for size in shape.split("x"))
    return shapes


def _expand(pattern: str) -> Iterator[str]:
    pieces = re.split(r"\{([^}]*)\}", pattern)
    for numbers in product(*(_numbers(span) for span in pieces[1::2])):
        texts = [str(number) for number in numbers] + [""]
        yield "".join(text + number for text, number in zip(pieces[::2], texts, strict=True))


def _numbers(span: str) -> list[int]:
    if "-" in span:
        first, last = span.split("-")
        return list(range(int(first), int(last) + 1))
    return [int(number) for number in span.split(",")]


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Return float32 tensors that keep activations bounded: norms of 1, matrices scaled by their inputs."""
    generator = torch.Generator().manual_seed(seed)
    state = {key: _random(key, shape, generator) for key, shape in shapes.items() if key not in _TIED}
    for key, original in _TIED.items():
        if key in shapes:
            state[key] = state[original]
    return state


def _random(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if key.endswith("inv_freq"):  # a constant of the model, not a weight
        return 10000.0 ** -(torch.arange(shape[0]) / shape[0])
    if len(shape) == 1:
        scale = key.endswith((".weight", ".alpha"))
        return torch.ones(shape) if scale else 0.02 * torch.randn(shape, generator=generator)
    if key.endswith("original0"):
        return torch.full(shape, 0.5)
    if "embed" in key:
        return 0.02 * torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))


def write_checkpoint(
    directory: Path,
    seed: int = 0,
    parts: Collection[str] = ("llm", "flow", "hift"),
    family: str = "cosyvoice2",
) -> None:
    """Write the directory (3 or 4 GB) without the two ONNX graphs; `directory` must not exist.

    Files of weights not in `parts` are empty, for users of one service. Raises FileExistsError, or OSError if the disk
    is full.
    """
    tokenizer = directory / "CosyVoice-BlankEN"
    tokenizer.mkdir(parents=True)
    shutil.copy(HERE / f"{family}.yaml", directory)
    shutil.copy(HERE / "config.json", tokenizer)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):  # few tokens, in the official file format
        shutil.copy(MINIS / f"{family}-mini" / "CosyVoice-BlankEN" / name, tokenizer)
    for part, shapes in official_shapes(family).items():
        if part in parts:
            torch.save(random_state(shapes, seed), directory / f"{part}.pt")
        else:
            (directory / f"{part}.pt").touch()


def parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of parameters; shared ones count once."""
    return sum(math.prod(shape) for key, shape in shapes.items() if key not in _TIED)
