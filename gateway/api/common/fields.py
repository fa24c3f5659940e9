"""Names of request fields: an error names a field as the client wrote it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from services.common.errors import LightTtsError


@contextlib.contextmanager
def named_as(names: Mapping[str, str]) -> Iterator[None]:
    """Rename the field of errors that leave the block, also in their messages.

    `names`: last part of our field's path to the API's field.
    """
    try:
        yield
    except LightTtsError as error:
        ours, error.field = error.field, to_api_field(error.field, names)
        if ours is not None and error.field is not None:
            error.rename_field(ours.rpartition(".")[2], error.field)
        raise


def to_api_field(field: str | None, names: Mapping[str, str]) -> str | None:
    """Return the API's name for one of our fields, or None if it has none."""
    return None if field is None else names.get(field.rpartition(".")[2])
