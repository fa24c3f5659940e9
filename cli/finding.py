"""One line of `light-tts doctor`'s report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`remedy` is what to do if the level is not `ok`."""

    level: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""
