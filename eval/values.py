"""One row's values of one metric, seed by seed and item by item, and where their spread comes from.

    values = Values((accuracies,))       # one array (seeds, items): 1.0 right, 0.0 wrong; or ratings; or (seeds, 1)
    values.mean, values.seed_variance, values.excess_variance
    joined([values, others])             # the mean of several rows, seed by seed

Every seed answers the same items, so the design is crossed, and the mean over both varies for two reasons: other items
would have come out otherwise, and so would other seeds. The spread of the seeds' means holds some of the first reason
too, since a seed answers each item a little otherwise: that part is the interaction of seeds and items in a two-way
analysis of variance, and `excess_variance` is what the seeds vary beyond it (the components of variance of readers and
cases in Obuchowski and Rockette 1995).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROUNDING = 1e-9  # of a variance: less is what sums leave


@dataclass(frozen=True)
class Values:
    """What a row scored.

    Args:
        strata: each (seeds, items); the row's mean is the plain mean of theirs. One for a benchmark, one a member for a
            suite. All have the same seeds; a metric without items, such as a loss, has one item.
        names: the seeds themselves, where rows are to be joined seed by seed.
    """

    strata: tuple[Array, ...]
    names: tuple[int, ...] = ()

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.strata[0])

    @functools.cached_property
    def item_means(self) -> tuple[Array, ...]:
        """Means over the seeds, each (items,)."""
        return tuple(stratum.mean(axis=0) for stratum in self.strata)

    @functools.cached_property
    def seed_means(self) -> Array:
        """Each seed's own mean, (seeds,)."""
        return np.mean([stratum.mean(axis=1) for stratum in self.strata], axis=0)

    @functools.cached_property
    def mean(self) -> float:
        """Over seeds and items."""
        return float(self.seed_means.mean())

    @functools.cached_property
    def seed_variance(self) -> float:
        """Variance of the mean over seeds, as the spread of the seeds tells it; 0 where one seed tells nothing."""
        return _variance(self.seed_means) / self.seeds if self.seeds > 1 else 0.0

    @functools.cached_property
    def excess_variance(self) -> float:
        """What of `seed_variance` is the seeds' own, and not their answering single items a little otherwise."""
        excess = self.seed_variance - sum(map(_interaction, self.strata)) / len(self.strata) ** 2
        return excess if excess > ROUNDING * self.seed_variance else 0.0


def joined(rows: Sequence[Values]) -> Values | None:
    """The mean of rows on the same items, seed by seed, over the seeds that all of them have; None if there is none."""
    shared = [name for name in rows[0].names if all(name in row.names for row in rows)]
    if not shared:
        return None
    places = [[row.names.index(name) for name in shared] for row in rows]
    by_stratum = zip(*(row.strata for row in rows), strict=True)
    return Values(tuple(_mean_of(strata, places) for strata in by_stratum), tuple(shared))


def _mean_of(strata: Sequence[Array], places: Sequence[Sequence[int]]) -> Array:
    """One stratum of several rows, of each row the seeds at its places."""
    mean: Array = np.mean([stratum[own] for stratum, own in zip(strata, places, strict=True)], axis=0)
    return mean


def _variance(values: Array) -> float:
    """0 of equal values, without what the rounding of their mean leaves."""
    return float(values.var(ddof=1)) if np.ptp(values) else 0.0


def _interaction(stratum: Array) -> float:
    """Share of the interaction of seeds and items in the variance of the stratum's mean."""
    seeds, items = stratum.shape
    if seeds < 2 or items < 2:
        return 0.0
    rest = stratum - stratum.mean(axis=0) - stratum.mean(axis=1, keepdims=True) + stratum.mean()
    return float((rest**2).sum()) / ((seeds - 1) * (items - 1)) / (seeds * items)


def item_variances(item_means: Sequence[Array]) -> list[tuple[float, int]]:
    """For each stratum its part in the variance of the mean over items, and its degrees of freedom; means: (items,)."""
    strata = len(item_means)
    return [(_variance(means) / len(means) / strata**2, len(means) - 1) for means in item_means if len(means) > 1]
