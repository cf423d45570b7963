"""95 % intervals of rows and of their differences by one hierarchical bootstrap over seeds and items.

    draws = Draws(rows)                 # rows: Values on the same items
    draws.interval(0), draws.interval(0, 1)

Items are drawn with replacement, the same for all rows, so that a difference is paired. Of a row's S seeds S - 1 are
drawn: so few with replacement have the variance of the mean of S (Rao and Wu 1988), where S of them would have too
little, a third too little with three seeds. The seeds' deviations are shrunk to what is the seeds' own
(`Values.excess_variance`), since the drawn items hold the rest already (Davison and Hinkley 1997, section 3.8). So few
seeds tell little of their own spread: the percentiles are moved out as Student's t is wider than the normal
distribution, with the degrees of freedom of `eval/paired.py`. tests/eval/test_calibration.py counts how often the
intervals miss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from eval.paired import spread
from eval.values import Array, Values

RESAMPLES, SEED, LEVEL = 2000, 0, 0.95
BATCH = 200  # of resamples at once: a benchmark of 14,000 items is 14,000 counts each
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Draws:
    """Resampled deviations of rows from their means.

    Args:
        rows: all with strata of the same items; seeds may differ.
        bounds: least and largest possible value, which no interval leaves. With them there is an interval where all
            items come out alike, too: at least a share of them is known to (Clopper and Pearson 1934).
    """

    def __init__(self, rows: Sequence[Values], bounds: tuple[float, float] | None = None) -> None:
        self.rows, self.bounds = rows, bounds
        draw = np.random.default_rng(SEED)
        strata = range(len(rows[0].strata))
        self.deviations = sum(self._items(draw, stratum) for stratum in strata) / len(strata)  # (resamples, rows)
        self.deviations += np.stack([self._seeds(draw, row) for row in rows], axis=1)

    def _items(self, draw: np.random.Generator, stratum: int) -> Array:
        means = np.stack([row.item_means[stratum] for row in self.rows])  # (rows, items)
        items = means.shape[1]
        offsets = items * np.arange(BATCH)[:, None]  # so that one count serves all resamples of a batch
        drawn = []
        for _ in range(0, RESAMPLES, BATCH):
            places = (draw.integers(0, items, (BATCH, items)) + offsets).ravel()
            counts = np.bincount(places, minlength=BATCH * items).reshape(BATCH, items)
            drawn.append(counts @ means.T / items)
        return np.concatenate(drawn) - means.mean(axis=1)

    @staticmethod
    def _seeds(draw: np.random.Generator, row: Values) -> Array:
        if not row.excess_variance:
            return np.zeros(RESAMPLES)
        own = (row.seed_means - row.mean) * np.sqrt(row.excess_variance / row.seed_variance)
        return own[draw.integers(0, row.seeds, (RESAMPLES, row.seeds - 1))].mean(axis=1)

    def interval(self, a: int, b: int | None = None) -> tuple[float, float] | None:
        """Of row `a`, or of the difference a - b of two rows; None where nothing tells a spread."""
        first, second = self.rows[a], None if b is None else self.rows[b]
        alone = all(len(means) < 2 for means in first.item_means)  # without items
        if alone and min(row.seeds for row in (first, second) if row) < 2:
            return None
        value = first.mean - (second.mean if second else 0.0)
        error, degrees = spread(first, second)
        if not error:
            return None if alone or self.bounds is None else self._of_equal_items(first, second)
        t = float(special.stdtrit(degrees, TAILS[1]))  # Student's quantile, as many standard errors out
        if alone:  # a handful of seeds: Student's t, no percentiles
            return self._within(value - t * error, value + t * error, second is None)
        drawn = self.deviations[:, a] - (0.0 if b is None else self.deviations[:, b])
        low, high = np.quantile(drawn, TAILS) * t / special.ndtri(TAILS[1])
        return self._within(value + float(low), value + float(high), second is None)

    def _possible(self, alone: bool) -> tuple[float, float]:
        """Ends of a row's values, or of a difference's."""
        if self.bounds is None:
            return -np.inf, np.inf
        least, largest = self.bounds
        return (least, largest) if alone else (least - largest, largest - least)

    def _within(self, low: float, high: float, alone: bool) -> tuple[float, float]:
        least, largest = self._possible(alone)
        return max(low, least), min(high, largest)

    def _of_equal_items(self, first: Values, second: Values | None) -> tuple[float, float]:
        """Where n items all have one value, at least 2.5 %^(1/n) of all items have it, at 95 %; the rest may have any.
        Of right and wrong it is the exact interval of a proportion, and tells two rows apart where the sign test does.
        """
        possible = np.array(self._possible(second is None))
        ends = []
        for stratum, means in enumerate(first.item_means):
            share = TAILS[0] ** (1 / len(means))
            own = means[0] - (second.item_means[stratum][0] if second else 0.0)
            ends.append(share * own + (1 - share) * possible)
        low, high = np.mean(ends, axis=0)
        return float(low), float(high)
