"""The duration of a batch, and the work that speech needs beyond full hops, estimated from previous batches."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DECAY = 0.98
"""Factor of a batch's weight per later batch: about fifty batches count."""
_PRIOR = (1e-2, 1e-3, 0.0)
EXTRA_DECAY = 0.995
"""Factor of a hop's weight per later hop in `ExtraWork`: utterances differ more than batches, so 200 hops count."""
_PRIOR_HOPS = 10.0


class ServiceTime:
    """Seconds of a batch as `batch_s + hop_s * hops + token_s * tokens computed`, by least squares over the latest.

    The engine's thread writes it; `seconds` may be called from any thread.
    """

    def __init__(self) -> None:
        self._moments = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._terms = np.zeros(3)

    @property
    def known(self) -> bool:
        """Whether a batch was observed; until then `seconds` returns 0."""
        return bool(self._moments[0, 0])

    def observe(self, hops: int, tokens: int, seconds: float) -> None:
        """Add a batch of `hops` hops that computed `tokens` tokens in all."""
        row = np.array([1.0, float(hops), float(tokens)])
        self._moments = DECAY * self._moments + np.outer(row, row)
        self._products = DECAY * self._products + seconds * row
        self._terms = self._fitted()

    def _fitted(self) -> NDArray[np.float64]:
        """Return the terms, none of them negative."""
        # Batches of one size do not tell the terms apart. Then cost belongs to tokens and hops, which no batch shares.
        damped = self._moments + np.diag(_PRIOR)
        free = [0, 1, 2]
        while True:
            terms = np.zeros(3)
            terms[free] = np.linalg.lstsq(damped[np.ix_(free, free)], self._products[free], rcond=None)[0]
            worst = int(terms.argmin())
            if terms[worst] >= 0:
                return terms
            free.remove(worst)

    def seconds(self, tokens: Iterable[int]) -> float:
        """Expected seconds of one batch whose hops compute these numbers of tokens."""
        hops = list(tokens)
        return float(self._terms @ (1.0, len(hops), sum(hops)))


class ExtraWork:
    """How much more work speech needs than full hops of its tokens, by the latest hops.

    The rest goes to prompts, to the short first and last hop of an utterance and to evicted states; a faster speaking
    rate needs more, too. Short sentences have most of it. The engine's thread writes it; any thread may read it.
    """

    def __init__(self) -> None:
        """Assume full hops until hops are known."""
        self._sums = np.full(4, _PRIOR_HOPS)

    def observe(self, seconds: float, computed: int, hop_tokens: int, token_rate: float) -> None:
        """Add a hop that computed `computed` tokens for `seconds` of speech, whose full hops have `hop_tokens`."""
        full = seconds * token_rate / hop_tokens
        self._sums = EXTRA_DECAY * self._sums + np.array([1.0, full, computed / hop_tokens, full])

    @property
    def hops(self) -> float:
        """Hops per full hop; at least 1, because hops that grow while there is time are full ones again under load."""
        return max(1.0, float(self._sums[0] / self._sums[1]))

    @property
    def tokens(self) -> float:
        """Tokens computed per token of speech at the normal speaking rate."""
        return float(self._sums[2] / self._sums[3])
