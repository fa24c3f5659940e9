"""What a registration must state about the consent of the recorded person, by the policy of the gateway."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Literal

from services.common.errors import InvalidInput, quoted

Policy = Literal["none", "attestation", "recording"]

MAX_NAME_CHARS = 200
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_EARLIEST_ZONE = datetime.timedelta(hours=14)
"""How far a client's clock may be ahead of UTC."""


@dataclass(frozen=True)
class Statement:
    """Says who agreed to the use of a recording and when; call `check` before use."""

    given: bool
    """The person recorded has agreed."""
    given_by: str = ""
    """Name of the person who has agreed, or who may agree for them."""
    given_on: str = ""
    """The date, as 2026-11-26."""
    recording: str = ""
    """Id of a recorded consent to keep with the voice."""

    def check(self, policy: Policy, now: float) -> None:
        """Raise InvalidInput, which names the field, unless the policy allows it. `now`: Unix time in seconds."""
        if not self.given:
            raise _missing("consent", "set it once the person recorded has agreed to this use of their voice")
        if self.given_by:
            _check_name(self.given_by)
        if self.given_on:
            _check_date(self.given_on, now)
        if policy == "none":
            return
        if not self.given_by.strip():
            raise _missing("consent_given_by", "this gateway needs the name of the person who agreed to this use")
        if not self.given_on:
            raise _missing("consent_given_on", "this gateway needs the date of the consent, such as 2026-11-26")
        if policy == "recording" and not self.recording:
            raise _missing(
                "consent_id",
                "this gateway needs a recorded consent: POST /v1/audio/voice_consents stores one; send its id here",
            )

    def facts(self) -> dict[str, str | bool]:
        """Return what the audit keeps of it; `consent` is the id of its recording, or true without one."""
        who = {"consent_given_by": self.given_by, "consent_given_on": self.given_on}
        return {"consent": self.recording or True} | {name: value for name, value in who.items() if value}


def _missing(field: str, what: str) -> InvalidInput:
    return InvalidInput(f"{field} is missing; {what}", field=f"header.{field}")


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInput(
            f"consent_given_by is a name on one line, with at most {MAX_NAME_CHARS} characters",
            field="header.consent_given_by",
        )


def _check_date(text: str, now: float) -> None:
    field = "header.consent_given_on"
    try:
        if not _DATE.fullmatch(text, endpos=len(text)):
            raise ValueError(text)
        given = datetime.date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"consent_given_on is {quoted(text)}; send the date of the consent as 2026-11-26", field=field
        ) from error
    if given > (datetime.datetime.fromtimestamp(now, datetime.UTC) + _EARLIEST_ZONE).date():
        raise InvalidInput(
            f"consent_given_on is {text}, which is in the future; send the date of the consent", field=field
        )
