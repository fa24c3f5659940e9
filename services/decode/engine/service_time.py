"""The duration of a batch, and the work that speech needs beyond full hops, estimated from previous batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

DECAY = 0.98
"""Factor of a batch's weight per later batch: about fifty batches count."""
_PRIOR = (1e-2, 1e-3, 0.0)
EXTRA_DECAY = 0.995
"""Factor of a hop's weight per later hop in `ExtraWork`: utterances differ more than batches, so 200 hops count."""
_PRIOR_HOPS, _PRIOR_TOKENS = 10.0, 25.0


class ServiceTime:
    """Seconds of a batch as `batch_s + hop_s * hops + token_s * tokens computed`, by least squares over the latest.

    The engine's thread writes it; `seconds` may be called from any thread.
    """

    def __init__(self) -> None:
        # Plain numbers: for three terms, numpy takes longer than a batch's scheduling.
        self._moments = [[0.0] * 3 for _ in range(3)]
        self._products = [0.0] * 3
        self._terms = (0.0, 0.0, 0.0)

    @property
    def known(self) -> bool:
        """Whether a batch was observed; until then `seconds` returns 0."""
        return bool(self._moments[0][0])

    def observe(self, hops: int, tokens: int, seconds: float) -> None:
        """Add a batch of `hops` hops that computed `tokens` tokens in all."""
        row = (1.0, float(hops), float(tokens))
        for one, moments in zip(row, self._moments, strict=True):
            moments[:] = (DECAY * moment + one * other for moment, other in zip(moments, row, strict=True))
        self._products = [DECAY * product + seconds * one for product, one in zip(self._products, row, strict=True)]
        self._terms = self._fitted()

    def _fitted(self) -> tuple[float, float, float]:
        """Return the terms, none of them negative."""
        free = [0, 1, 2]
        while True:
            found = self._solved(free)
            terms = found.get(0, 0.0), found.get(1, 0.0), found.get(2, 0.0)
            if min(terms) >= 0:
                return terms
            free.remove(terms.index(min(terms)))

    def _solved(self, free: Sequence[int]) -> dict[int, float]:
        """Solve the normal equations of these terms, by elimination; terms that no batch determines are left out."""
        # Batches of one size do not tell the terms apart. Then cost belongs to tokens and hops, which no batch shares.
        rows = {i: {j: self._moments[i][j] + (_PRIOR[i] if i == j else 0.0) for j in free} for i in free}
        sides = {i: self._products[i] for i in free}
        found: dict[int, float] = {}
        for i in free:
            if rows[i][i] <= 0:
                del rows[i]
                continue
            for k in [k for k in rows if k > i]:
                factor = rows[k][i] / rows[i][i]
                for j in free:
                    rows[k][j] -= factor * rows[i][j]
                sides[k] -= factor * sides[i]
        for i in sorted(rows, reverse=True):
            found[i] = (sides[i] - sum(rows[i][j] * found[j] for j in found)) / rows[i][i]
        return found

    def seconds(self, tokens: Iterable[int]) -> float:
        """Expected seconds of one batch whose hops compute these numbers of tokens."""
        hops = list(tokens)
        batch_s, hop_s, token_s = self._terms
        return batch_s + hop_s * len(hops) + token_s * sum(hops)


class ExtraWork:
    """How much more work speech needs than full hops of its tokens, by the latest hops.

    The rest goes to prompts, to the short first and last hop of an utterance and to evicted states; a faster speaking
    rate needs more, too. Short sentences have most of it. The engine's thread writes it; any thread may read it.
    """

    def __init__(self) -> None:
        """Assume full hops of one second until hops are known."""
        self._sums = [_PRIOR_HOPS * one for one in (1.0, 1.0, _PRIOR_TOKENS, _PRIOR_TOKENS)]

    def observe(self, seconds: float, computed: int, hop_tokens: int, token_rate: float) -> None:
        """Add a hop that computed `computed` tokens for `seconds` of speech, whose full hops have `hop_tokens`."""
        tokens = seconds * token_rate
        new = 1.0, tokens / hop_tokens, float(computed), tokens
        self._sums = [EXTRA_DECAY * old + one for old, one in zip(self._sums, new, strict=True)]

    def hops(self, hop_tokens: int) -> float:
        """Hops per full hop of `hop_tokens`, if hops have their present sizes.

        At least 1, because hops that grow while there is time are full ones again under load.
        """
        sums = self._sums
        return max(1.0, sums[0] * hop_tokens / sums[3])

    def hops_if(self, hop_tokens: int) -> float:
        """Hops per full hop of `hop_tokens`, if full hops had this size: those beyond full ones stay as many."""
        count, full, _, tokens = self._sums
        return max(1.0, 1.0 + (count - full) * hop_tokens / tokens)

    @property
    def tokens(self) -> float:
        """Tokens computed per token of speech at the normal speaking rate."""
        sums = self._sums
        return sums[2] / sums[3]
