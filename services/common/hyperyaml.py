"""Reading hyperpyyaml files as plain data: nothing is imported or called, whatever the tags say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_hyper_yaml(path: Path) -> dict[str, Any]:
    """Reads a hyperpyyaml file as plain data: object tags become the mapping below them, `!ref` is resolved.

    Raises OSError when the file cannot be read, ValueError when it is not such YAML.
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
    return {key: _resolve(value, data, path) for key, value in data.items()}


class _Reference(str):
    """An unresolved `!ref` expression."""


def _resolve(value: Any, root: Mapping[str, Any], path: Path) -> Any:
    if isinstance(value, _Reference):
        product: Any = None
        for factor in re.split(r"\s*\*\s*", value):
            name = re.fullmatch(r"<([\w.]+)>", factor)
            try:
                term = _resolve(root[name.group(1)], root, path) if name else int(factor)
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path}: cannot resolve !ref {value}") from error
            product = term if product is None else product * term
        return product
    if isinstance(value, dict):
        return {key: _resolve(item, root, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, root, path) for item in value]
    return value
