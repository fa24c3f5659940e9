"""The duration of a batch, estimated from previous batches."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

DECAY = 0.98
"""Factor of a batch's weight per later batch: about fifty batches count."""
_PRIOR = 1e-3


class ServiceTime:
    """Seconds of a batch as `batch_s + token_s * tokens computed`, by least squares over the latest batches.

    The engine's thread writes it; `seconds` may be called from any thread.
    """

    def __init__(self) -> None:
        self._moments = np.zeros((2, 2))
        self._products = np.zeros(2)
        self._terms = (0.0, 0.0)

    @property
    def known(self) -> bool:
        """Whether a batch was observed; until then `seconds` returns 0."""
        return bool(self._moments[0, 0])

    def observe(self, tokens: int, seconds: float) -> None:
        row = np.array([1.0, float(tokens)])
        self._moments = DECAY * self._moments + np.outer(row, row)
        self._products = DECAY * self._products + seconds * row
        damped = self._moments + _PRIOR * np.diag([1.0, 0.0])  # batches of a single size do not determine the base
        base, per_token = np.linalg.lstsq(damped, self._products, rcond=None)[0]
        if base < 0 or per_token < 0:
            base, per_token = 0.0, self._products[1] / self._moments[1, 1]
        self._terms = (float(base), float(per_token))

    def seconds(self, tokens: Iterable[int]) -> float:
        """Expected seconds of one batch whose hops compute these numbers of tokens."""
        base, per_token = self._terms
        return base + per_token * sum(tokens)
