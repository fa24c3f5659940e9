"""How long a batch takes, learnt from the batches that ran."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

FORGET = 0.98
"""Weight a batch loses with each one after it: some fifty batches count."""
_PRIOR = 1e-3


class ServiceTime:
    """Seconds of a batch as `batch_s + token_s * tokens computed`, by least squares over the latest batches.

    Written by the engine's thread; `seconds` may be asked from any.
    """

    def __init__(self) -> None:
        self._moments = np.zeros((2, 2))
        self._products = np.zeros(2)
        self._terms = (0.0, 0.0)

    @property
    def known(self) -> bool:
        """Whether a batch was seen; until then everything is taken to take no time."""
        return bool(self._moments[0, 0])

    def observe(self, tokens: int, seconds: float) -> None:
        row = np.array([1.0, float(tokens)])
        self._moments = FORGET * self._moments + np.outer(row, row)
        self._products = FORGET * self._products + seconds * row
        damped = self._moments + _PRIOR * np.diag([1.0, 0.0])  # batches of one size alone tell nothing of their base
        base, per_token = np.linalg.lstsq(damped, self._products, rcond=None)[0]
        if base < 0 or per_token < 0:
            base, per_token = 0.0, self._products[1] / self._moments[1, 1]
        self._terms = (float(base), float(per_token))

    def seconds(self, tokens: Iterable[int]) -> float:
        """Of one batch whose hops compute these many tokens."""
        base, per_token = self._terms
        return base + per_token * sum(tokens)
