"""Read one node of a checkpoint's YAML and name every key that is missing, of the wrong type or not implemented.

A value that changes what a model computes must not be ignored, nor replaced by another checkpoint's value. So each key
of a node is read, accepted for named values only, or listed as one that inference does not use; `close` refuses the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REQUIRED: Any = object()


class NodeError(ValueError):
    """A YAML value cannot be used; the message starts with its path, for example `flow.decoder.estimator.depth`."""


class Node:
    """A YAML mapping and its path in the file."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values, self._path = values, path
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def child(self, name: str) -> Node:
        """Return the mapping under `name`."""
        value = self._value(name, _REQUIRED)
        if not isinstance(value, Mapping):
            raise self.error(name, f"is {value!r}, expected a mapping")
        return Node(value, self._at(name))

    def integer(self, name: str, default: Any = _REQUIRED, least: int = 1) -> int:
        """Return a whole number of at least `least`."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(name, f"is {value!r}, expected a whole number of at least {least}")
        return value

    def number(self, name: str, default: Any = _REQUIRED, least: float = 0.0) -> float:
        """Return a number of at least `least`. YAML reads numbers such as 1e-06 as text, which is accepted."""
        value = self._value(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if isinstance(value, bool) or not least <= number < float("inf"):
            raise self.error(name, f"is {value!r}, expected a number of at least {least:g}")
        return number

    def integers(self, name: str) -> list[int]:
        """Return a list of whole numbers of at least 1."""
        values = self._value(name, _REQUIRED)
        if not isinstance(values, list):
            raise self.error(name, f"is {values!r}, expected a list of whole numbers")
        return [Node({name: value}, self._path).integer(name) for value in values]

    def rows(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Return a list of lists of whole numbers of at least 1."""
        rows = self._value(name, _REQUIRED)
        if not isinstance(rows, list):
            raise self.error(name, f"is {rows!r}, expected a list of lists")
        return tuple(tuple(Node({name: row}, self._path).integers(name)) for row in rows)

    def only(self, name: str, *supported: Any, default: Any = _REQUIRED) -> Any:
        """Return the value, which must be one of `supported`; a missing one is `default`."""
        value = self._value(name, default)
        for one in supported:
            if isinstance(one, float) and not isinstance(value, bool):
                if self.number(name, default) == one:
                    return one
            elif type(value) is type(one) and value == one:
                return one
        names = " or ".join(repr(one) for one in supported)
        raise self.error(name, f"is {value!r}, which is not implemented; only {names} is")

    def unused(self, *names: str) -> None:
        """Accept any value of these keys: inference does not use them."""
        self._read.update(names)

    def close(self) -> None:
        """Refuse keys that were neither read nor listed as unused."""
        unknown = [self._at(str(name)) for name in self._values if name not in self._read]
        if unknown:
            raise NodeError(f"{', '.join(unknown)}: not implemented in this version of light-tts")

    def error(self, name: str, words: str) -> NodeError:
        """Return an error about the key `name`."""
        return NodeError(f"{self._at(name)} {words}")

    def _value(self, name: str, default: Any) -> Any:
        self._read.add(name)
        value = self._values.get(name, default)
        if value is _REQUIRED:
            raise self.error(name, "is missing; fetch the checkpoint again")
        return value

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name
