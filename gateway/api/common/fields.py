"""Names of request fields: an error names a field as the client wrote it."""

from __future__ import annotations

import contextlib
import copy
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
        # A copy: requests that share the work which failed get the same error, and each renames it.
        renamed = copy.copy(error)
        renamed.field = to_api_field(error.field, names)
        if error.field is not None and renamed.field is not None:
            renamed.rename_field(error.field.rpartition(".")[2], renamed.field)
        raise renamed from error


def to_api_field(field: str | None, names: Mapping[str, str]) -> str | None:
    """Return the API's name for one of our fields, or None if it has none."""
    return None if field is None else names.get(field.rpartition(".")[2])
