"""Read hyperpyyaml files as plain data: whatever the tags are, nothing is imported or called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_hyper_yaml(path: Path) -> dict[str, Any]:
    """Read a hyperpyyaml file as plain data: an object tag becomes the mapping below it, `!ref` is resolved.

    Raises OSError when the file cannot be read, ValueError when it is not valid hyperpyyaml.
    """
    import yaml  # here: only services that open a model directory need it

    class Loader(yaml.SafeLoader):
        pass

    def construct(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        value = loader.construct_scalar(node)  # type: ignore[arg-type]
        return _Reference(str(value)) if tag == "ref" else value

    Loader.add_multi_constructor("!", construct)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader subclass
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid YAML ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a YAML mapping")
    try:
        return {key: _resolve(value, data, ()) for key, value in data.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _Reference(str):
    """An unresolved `!ref` expression."""


def _resolve(value: Any, root: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """Resolve `!ref`s. `within` lists the references being resolved, to detect a circle."""
    if isinstance(value, _Reference):
        if value in within:
            raise ValueError(f"!ref {value} refers to itself")
        product: Any = None
        for factor in re.split(r"\s*\*\s*", value):
            name = re.fullmatch(r"<([\w.]+)>", factor)
            if name is not None and name.group(1) not in root:
                raise ValueError(f"!ref {value} names a key that does not exist")
            try:
                term = _resolve(root[name.group(1)], root, (*within, value)) if name else int(factor)
                product = term if product is None else product * term
            except TypeError as error:
                raise ValueError(f"!ref {value} multiplies values that are not numbers") from error
        return product
    if isinstance(value, dict):
        return {key: _resolve(item, root, within) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, root, within) for item in value]
    return value
