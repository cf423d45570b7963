"""Verdicts are rarely wrong, and find a difference that an unpaired test misses: counted on simulated tables."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.verdict_calibration import World, false_verdicts, found
from eval.hierarchical import Draws
from eval.values import Values

TABLES, METHODS = 500, 4  # in each of four worlds: 2,000 tables
SPREADS = (0.0, 0.5, 1.0, 2.0)  # of the seeds, in points
BOUND = 0.05


def test_equal_methods_are_called_different_in_at_most_one_table_of_twenty() -> None:
    rates = [false_verdicts(World(items=500, seed_points=spread), METHODS, TABLES)[0] for spread in SPREADS]
    assert np.mean(rates) <= BOUND, dict(zip(SPREADS, rates, strict=True))
    noise = 2 * np.sqrt(BOUND * (1 - BOUND) / TABLES)  # of a rate that is counted in one world
    assert max(rates) <= BOUND + noise, dict(zip(SPREADS, rates, strict=True))


def test_the_items_alone_would_call_methods_different_that_differ_by_their_seeds_only() -> None:
    """Why the seeds are tested too: the simulation can tell a test that leaves them out."""
    called, by_items = false_verdicts(World(items=500, seed_points=2.0), METHODS, tables=100)
    assert by_items > 4 * BOUND > called


def test_methods_of_unequal_spread_are_called_different_no_more_often() -> None:
    unequal = World(items=500, seed_points=(0.0, 0.5, 1.0, 2.0))
    assert false_verdicts(unequal, METHODS, TABLES)[0] <= BOUND + 0.02


def test_two_points_are_found_in_four_of_five_pairs_and_seldom_by_an_unpaired_test() -> None:
    """1,319 items, 3 seeds; two methods answer every tenth item differently."""
    paired, unpaired, differing = found(World(), points=2.0, pairs=300)
    assert differing == pytest.approx(0.1, abs=0.005)
    assert paired >= 0.8 and unpaired < 0.5, (paired, unpaired)


@pytest.mark.parametrize("spread", SPREADS)
def test_intervals_miss_the_true_difference_and_the_true_mean_about_as_often_as_they_say(spread: float) -> None:
    world, draw, missed, tables = World(items=300, seed_points=spread), np.random.default_rng(1), np.zeros(2), 150
    for _ in range(tables):
        rows = [Values((row,)) for row in world.table(draw, [0.0, 0.0])]
        draws = Draws(rows)
        for place, (low, high) in enumerate((draws.interval(0, 1), draws.interval(0))):
            missed[place] += not low <= (0.0, world.accuracy)[place] <= high
    assert (missed / tables <= 0.095).all() and missed.sum() > 0, missed / tables
