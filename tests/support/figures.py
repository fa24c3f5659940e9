"""Figures that tests measure; pytest prints them at its end (see tests/e2e/conftest.py)."""

from __future__ import annotations

from collections.abc import Callable

Figure = Callable[[str, str], None]
"""Record a figure under a name; both are printed unchanged."""
