"""The families of checkpoints that this version can serve; docs/extending.md describes how to add one."""

from __future__ import annotations

from pathlib import Path

from services.common.families.cosyvoice2 import COSYVOICE2
from services.common.families.cosyvoice3 import COSYVOICE3
from services.common.families.family import ModelFamily

__all__ = ["COSYVOICE2", "COSYVOICE3", "FAMILIES", "ModelFamily", "family_named", "family_of"]

FAMILIES: tuple[ModelFamily, ...] = (COSYVOICE2, COSYVOICE3)
"""In the order in which upstream looks for their YAML files."""


def family_of(directory: Path) -> ModelFamily | None:
    """Return the family whose YAML file the directory holds; None without one."""
    return next((family for family in FAMILIES if (directory / family.yaml).is_file()), None)


def family_named(name: str) -> ModelFamily:
    """Return the family of that name. Raises KeyError."""
    return {family.name: family for family in FAMILIES}[name]
