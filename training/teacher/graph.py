"""Runs an ONNX graph with torch, on a GPU or a CPU.

Values that follow from shapes alone are numpy arrays of the CPU, all others are tensors of the device: the CPU computes
shapes ahead, while the device works. Which side a value is on is decided when the graph is loaded. A step copies a
value to the other side where a node needs it there; only the copy to the CPU waits for the device.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.teacher.node import Array, Function, Node
from training.teacher.operators import OPERATORS

_FINE = 2.0**-16
"""The scale of a graph that does not round: a power of two, and small enough for the biases that it is applied to."""


@dataclass
class _Step:
    """Calls `run` with the values of `needs`, and stores what it returns in `makes`; then `dead` are not needed."""

    name: str
    run: Function
    needs: tuple[int, ...]
    makes: tuple[int, ...]
    dead: list[int] = field(default_factory=list)

    def closure(self) -> Function:
        """Return a function of the list of all values."""
        run, needs = self.run, self.needs
        if len(self.makes) > 1:
            makes = self.makes

            def several(values: list[Any]) -> None:
                for place, made in zip(makes, run(*[values[need] for need in needs]), strict=False):
                    values[place] = made

            return several
        (make,) = self.makes
        first, second = (*needs, 0, 0)[:2]

        def one(values: list[Any]) -> None:
            values[make] = run(values[first])

        def two(values: list[Any]) -> None:
            values[make] = run(values[first], values[second])

        def more(values: list[Any]) -> None:
            values[make] = run(*[values[need] for need in needs])

        return {1: one, 2: two}.get(len(needs), more)


class Graph:
    """A loaded graph. `rounds` says whether the activations are rounded to 8 bits as ONNX Runtime does.

    Without rounding the result is nearer to the network before its quantisation, and a sixth of the steps are left out.
    """

    def __init__(
        self, model: Any, outputs: Sequence[str], device: torch.device | str = "cpu", *, rounds: bool = True
    ) -> None:
        loader = _Loader(model, outputs, torch.device(device), rounds)
        self._device = torch.device(device)
        self._values, self._inputs = loader.values, loader.inputs
        self._outputs = [loader.host(name) for name in outputs]
        self._steps = [(step.closure(), step.dead) for step in _timed(loader.steps, self._outputs, loader.constants)]
        self._names = [step.name for step in loader.steps]

    def __len__(self) -> int:
        return len(self._steps)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Run the graph and return its outputs."""
        values = self._values.copy()
        for name, place in self._inputs.items():
            values[place] = upload(inputs[name], self._device)
        number = 0
        try:
            for number, (step, dead) in enumerate(self._steps):  # noqa: B007
                step(values)
                for place in dead:
                    values[place] = None
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            error.add_note(f"in node {self._names[number]}")
            raise
        return [values[place] for place in self._outputs]


def upload(array: Array, device: torch.device) -> Tensor:
    """Copy an array to the device without a wait for the work that it does."""
    if array.size == 1 or not array.any():
        kind = torch.from_numpy(np.zeros(1, dtype=array.dtype)).dtype
        return torch.full(array.shape, array.flat[0].item() if array.size else 0, dtype=kind, device=device)
    return torch.from_numpy(array).to(device, non_blocking=True)


def download(tensor: Tensor) -> Array:
    """Copy a tensor to the CPU; waits until the device has made it."""
    array: Array = tensor.cpu().numpy()
    return array


def _timed(steps: list[_Step], kept: Sequence[int], constants: set[int]) -> list[_Step]:
    """Fill in which values each step is the last to need."""
    alive = {*kept, *constants}
    for step in reversed(steps):
        for place in {*step.needs, *step.makes} - alive:
            step.dead.append(place)
            alive.add(place)
    return steps


class _Loader:
    """Makes the steps. A value has a place in `values`; a value of one side gets a second place when it is copied."""

    def __init__(self, model: Any, outputs: Sequence[str], device: torch.device, rounds: bool) -> None:
        onnx: Any = importlib.import_module("onnx")
        self._onnx, self._device, self._rounds = onnx, device, rounds
        self.values: list[Any] = []
        self.constants: set[int] = set()
        self.inputs: dict[str, int] = {}
        self.steps: list[_Step] = []
        self._known: dict[str, Array] = {
            tensor.name: np.array(onnx.numpy_helper.to_array(tensor)) for tensor in model.graph.initializer
        }
        self._on_host: dict[str, int] = {}
        self._on_device: dict[str, int] = {}
        for given in model.graph.input:
            if given.name not in self._known:
                self.inputs[given.name] = self._on_device[given.name] = self._place()
        for node in _needed(model.graph.node, outputs):
            try:
                self._add(node)
            except (KeyError, ValueError) as error:
                error.add_note(f"in node {node.op_type} {node.output[0]}")
                raise

    def host(self, name: str) -> int:
        """Return the place of a value as an array."""
        if name not in self._on_host:
            if name in self._known:
                self._on_host[name] = self._constant(self._known[name])
            else:
                self._on_host[name] = self._place()
                self._step(f"download {name}", download, [self._on_device[name]], [self._on_host[name]])
        return self._on_host[name]

    def _tensor(self, name: str) -> int:
        """Return the place of a value as a tensor."""
        if name not in self._on_device:
            if name in self._known:
                self._on_device[name] = self._constant(torch.from_numpy(_held(self._known[name])).to(self._device))
            else:
                self._on_device[name] = self._place()
                device = self._device
                needs, makes = [self._on_host[name]], [self._on_device[name]]
                self._step(f"upload {name}", lambda array: upload(array, device), needs, makes)
        return self._on_device[name]

    def _place(self) -> int:
        self.values.append(None)
        return len(self.values) - 1

    def _constant(self, value: Any) -> int:
        place = self._place()
        self.values[place] = value
        self.constants.add(place)
        return place

    def _step(self, name: str, run: Function, needs: Sequence[int], makes: Sequence[int]) -> None:
        self.steps.append(_Step(name, run, tuple(needs), tuple(makes)))

    def _add(self, node: Any) -> None:
        """Add a node's step, or compute its value at once where its inputs are constant."""
        kind, names = node.op_type, list(node.input)
        attributes = {one.name: self._onnx.helper.get_attribute_value(one) for one in node.attribute}
        if kind == "Shape":
            self._add_shape(node, attributes)
            return
        if kind == "DynamicQuantizeLinear" and not self._rounds:
            self._add_fine(node)
            return
        if "value" in attributes:
            attributes["value"] = self._onnx.numpy_helper.to_array(attributes["value"])
        known = [self._known.get(name) for name in names]
        operator = OPERATORS[kind]
        takes = [place for place in operator.takes or range(len(names)) if place < len(names) and names[place]]
        fixed = all(known[place] is not None for place, name in enumerate(names) if name)
        hosted = all(name in self._known or name in self._on_host for name in names if name)
        built = operator.build(Node(attributes, known, torch.device("cpu") if hosted else self._device))
        if hosted:
            run = _as_arrays(built, [place in operator.host for place in takes])
            if fixed:
                self._known[node.output[0]] = run(*[known[place] for place in takes])
                return
            needs, side = [self.host(names[place]) for place in takes], self._on_host
        else:
            run, side = built, self._on_device
            needs = [self.host(names[at]) if at in operator.host else self._tensor(names[at]) for at in takes]
        makes = [self._place() for _ in node.output]
        self._step(f"{kind} {node.output[0]}", run, needs, makes)
        side.update({name: place for name, place in zip(node.output, makes, strict=True) if name})

    def _add_shape(self, node: Any, attributes: Mapping[str, Any]) -> None:
        chosen = slice(attributes.get("start", 0), attributes.get("end"))
        name = node.input[0]
        need = self._on_host[name] if name in self._on_host else self._tensor(name)
        make = self._on_host[node.output[0]] = self._place()
        self._step(f"Shape {name}", lambda x: np.array(x.shape[chosen], dtype=np.int64), [need], [make])

    def _add_fine(self, node: Any) -> None:
        """Scale by a constant instead of rounding."""
        quantised, scale, zero = node.output
        self._known[scale], self._known[zero] = np.array(_FINE, dtype=np.float32), np.zeros((), dtype=np.uint8)
        make = self._on_device[quantised] = self._place()
        need = self._tensor(node.input[0])
        self._step(f"scale {quantised}", lambda x: torch.mul(x, 1 / _FINE), [need], [make])


def _held(array: Array) -> Array:
    """The integers of the quantisation are held in float32."""
    return array.astype(np.float32) if array.dtype in (np.uint8, np.int32) else array


def _as_arrays(function: Function, hosted: Sequence[bool]) -> Function:
    """Return a function of arrays; `hosted` arguments are arrays already."""

    def run(*arrays: Array) -> Array:
        given = [array if host else torch.from_numpy(array) for array, host in zip(arrays, hosted, strict=True)]
        made: Array = function(*given).numpy()
        return made

    return run


def _needed(nodes: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """The nodes of which the outputs need a value, in their order."""
    wanted, chosen = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            chosen.append(node)
            wanted.update(node.input)
    return chosen[::-1]
