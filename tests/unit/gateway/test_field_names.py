"""Errors name a field as the client wrote it."""

from __future__ import annotations

import pytest

from gateway.api.common.fields import named_as
from services.common.errors import QuotaExceeded


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [("prompt.audio", "ref_audio", "ref_audio: the prompt is no WAV"), ("prompt.other", None, "the prompt is no WAV")],
)
def test_requests_that_share_an_error_each_get_it_in_their_own_terms(
    ours: str, theirs: str | None, message: str
) -> None:
    shared = QuotaExceeded("the prompt is no WAV", field=ours, retry_after=3.0, subject="app")
    for _ in range(3):
        with pytest.raises(QuotaExceeded) as raised, named_as({"audio": "ref_audio"}):
            raise shared
        error = raised.value
        assert (error.field, error.message, str(error)) == (theirs, message, message)
        assert (error.retry_after, error.subject) == (3.0, "app")
    assert (shared.field, shared.message) == (ours, "the prompt is no WAV")
