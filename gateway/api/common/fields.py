"""One request, many spellings: errors name the field as the caller wrote it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from services.common.errors import LightTtsError


@contextlib.contextmanager
def named_as(names: Mapping[str, str]) -> Iterator[None]:
    """Errors leave the block under a door's own names. `names`: last part of our field's path to that door's field."""
    try:
        yield
    except LightTtsError as error:
        error.field = theirs(error.field, names)
        raise


def theirs(field: str | None, names: Mapping[str, str]) -> str | None:
    """A door's name for one of our fields; what it has no name for is left out."""
    return None if field is None else names.get(field.rpartition(".")[2])
