"""Is one row better than another? Tests on the same items, which allow for both few items and few seeds.

    p_items([(a, b)], accuracy=True)     # of these trained models: McNemar's exact test, for several seeds
    p_seeds_and_items(a, b)              # of other seeds and other items too

`p_items` asks whether the items' differences could as well have the other sign: for each item the two rows' values
(means over seeds) are exchanged or not, all ways alike. For right and wrong and one seed this is McNemar's exact test
(1947), since only items that one of the two has right count; with several seeds an item counts by how many of them
differ. It takes the trained models as they are. `p_seeds_and_items` lets both items and seeds be samples: Welch's t
statistic (1947) with the degrees of freedom of Satterthwaite (1946) over the components of variance of
`eval/values.py`. Without seeds' own variance it is the paired t-test on items, without items Welch's test on seeds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special, stats

from eval.values import Array, Values, item_variances

RESAMPLES, SEED = 99_999, 0  # of the signs of ratings, where there are more ways than this
BATCH = 10_000


def spread(a: Values, b: Values | None = None) -> tuple[float, float]:
    """Standard error of a row's mean, or of the difference of two rows on the same items, and its degrees of freedom.

    The error is 0 where nothing varies; the degrees are infinite where nothing but that limits them.
    """
    rows = [a] if b is None else [a, b]
    means = a.item_means if b is None else _differences(a, b)
    items = item_variances(means)
    variance = sum(part for part, _ in items) + sum(row.excess_variance for row in rows)
    if not variance:
        return 0.0, math.inf
    # what is known of the components: the seeds' own is known as badly as the whole spread of the seeds
    parts = [*items, *((row.seed_variance, row.seeds - 1) for row in rows if row.seeds > 1)]
    doubt = sum(part**2 / degrees for part, degrees in parts)
    fewest = min(degrees for _, degrees in parts)  # Satterthwaite's own bound, which no sum of variances goes below
    return math.sqrt(variance), max(variance**2 / doubt, fewest) if doubt else math.inf


def p_seeds_and_items(a: Values, b: Values) -> float | None:
    """Two-sided p of no difference between the methods; None where one seed, or equal ones, tell nothing of others."""
    if min(a.seeds, b.seeds) < 2:
        return None
    error, degrees = spread(a, b)
    return _two_sided(a.mean - b.mean, error, degrees)


def p_items(pairs: Sequence[tuple[Values, Values]], accuracy: bool) -> list[float | None]:
    """Two-sided p of no difference between the trained models of each pair; None where there are no items.

    Args:
        pairs: rows on the same items, all pairs of the same strata.
        accuracy: items are right or wrong, which is tested exactly however many there are; else signs are drawn where
            there are too many ways. Items of several strata weigh unequally, so that theirs is a t-test.
    """
    found = [_differences(a, b) for a, b in pairs]
    if any(len(stratum) < 2 for differences in found for stratum in differences):
        return [None] * len(pairs)
    if any(len(differences) > 1 for differences in found):
        return list(map(_p_of_strata, found))
    if accuracy:
        return [sign_test(own, 1 / math.lcm(a.seeds, b.seeds)) for (own,), (a, b) in zip(found, pairs, strict=True)]
    return rating_sign_tests(np.stack([own for (own,) in found])) if found else []


def _p_of_strata(differences: Sequence[Array]) -> float | None:
    items = item_variances(differences)
    variance = sum(part for part, _ in items)
    doubt = sum(part**2 / degrees for part, degrees in items)
    mean = float(np.mean([stratum.mean() for stratum in differences]))
    return _two_sided(mean, math.sqrt(variance), variance**2 / doubt if doubt else math.inf)


def _differences(a: Values, b: Values) -> list[Array]:
    return [one - other for one, other in zip(a.item_means, b.item_means, strict=True)]


def _two_sided(difference: float, error: float, degrees: float) -> float | None:
    """None where nothing varies, so that nothing says how large a difference chance makes."""
    if error == 0:
        return 1.0 if difference == 0 else None
    return float(2 * special.stdtr(degrees, -abs(difference) / error))  # Student's t


def sign_test(differences: Array, step: float) -> float:
    """Exact two-sided p of a sum of differences, (items,), if each may have either sign; all are multiples of `step`.

    The sum over the items whose difference has one size is binomial; the sizes are convolved.
    """
    sizes, counts = np.unique(np.rint(np.abs(differences) / step).astype(int), return_counts=True)
    chances, total = np.ones(1), 0
    for size, count in zip(sizes, counts, strict=True):
        if size:
            positive = np.zeros(size * count + 1)
            positive[::size] = _coins(int(count))
            chances, total = signal.convolve(chances, positive), total + size * count
    observed = abs(round(float(differences.sum()) / step))
    sums = np.abs(2 * np.arange(total + 1) - total)  # place x: the positive ones add up to x
    return float(min(1.0, max(0.0, chances[sums >= observed].sum())))


@functools.cache
def _coins(count: int) -> Array:
    """Chance of each number of heads, (count + 1,)."""
    chances: Array = stats.binom.pmf(np.arange(count + 1), count, 0.5)
    return chances


def rating_sign_tests(differences: Array) -> list[float | None]:
    """As `sign_test` for pairs with differences of any size, (pairs, items): exact where all ways to give signs are at
    most RESAMPLES, else from as many drawn ones, the same for all pairs, when no p is below 1 / (RESAMPLES + 1).
    """
    items = differences.shape[1]
    exact = 2**items <= RESAMPLES
    halves = differences.T.astype(np.float32)  # half the bytes, twice as fast
    rounding = 1e-5 * np.abs(differences).sum(axis=1)  # sums that are equal but for it are equal
    observed = (np.abs(differences.sum(axis=1)) - rounding).astype(np.float32)
    reached, ways = np.zeros(len(differences), dtype=int), 0
    for signs in _every_sign(items) if exact else _drawn_signs(items):
        sums = signs @ halves
        reached += (np.abs(sums, out=sums) >= observed).sum(axis=0)
        ways += len(signs)
    itself = 0 if exact else 1  # what was observed is one of the ways
    return [float(p) for p in (reached + itself) / (ways + itself)]


def _every_sign(items: int) -> Iterator[NDArray[np.float32]]:
    """All ways to give signs, each (ways, items)."""
    for start in range(0, 2**items, BATCH):
        numbers = np.arange(start, min(start + BATCH, 2**items))
        yield ((numbers[:, None] >> np.arange(items)) & 1).astype(np.float32) * 2 - 1


def _drawn_signs(items: int) -> Iterator[NDArray[np.float32]]:
    """RESAMPLES of them."""
    draw = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, BATCH):
        shape = (min(BATCH, RESAMPLES - start), items)
        yield draw.integers(0, 2, shape, dtype=np.int8).astype(np.float32) * 2 - 1


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm 1979); statsmodels' own collects all garbage at each call."""
    order = np.argsort(ps)
    steps = np.asarray(ps, dtype=float)[order] * np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
