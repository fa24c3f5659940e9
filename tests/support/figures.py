"""Figures that tests measure and pytest prints at its end (see tests/e2e/conftest.py)."""

from __future__ import annotations

from collections.abc import Callable

Figure = Callable[[str, str], None]
"""Records a figure under a name; both are shown as they are."""
