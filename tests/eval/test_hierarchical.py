"""The hierarchical bootstrap: scipy's where there is one seed, the variance of the analysis of variance where there are
several, and pairs on the same items.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from eval.hierarchical import Draws
from eval.paired import spread
from eval.values import Values


def rows(seeds: int, items: int, seed: int = 0, spread_of_seeds: float = 0.0) -> list[Values]:
    draw = np.random.default_rng(seed)
    hard = draw.normal(0, 1, items)
    level = draw.normal(0, spread_of_seeds, (2, seeds, 1))
    return [Values((hard + own + draw.normal(0, 0.3, (seeds, items)),)) for own in level]


def test_with_one_seed_it_is_scipys_bootstrap_of_the_items() -> None:
    a, b = rows(seeds=1, items=200)
    difference = (a.strata[0] - b.strata[0])[0]
    settings = {"n_resamples": 20_000, "method": "percentile", "rng": np.random.default_rng(1)}
    expected = stats.bootstrap((difference,), np.mean, **settings).confidence_interval
    assert Draws([a, b]).interval(0, 1) == pytest.approx((expected.low, expected.high), abs=0.005)
    alone = stats.bootstrap((a.strata[0][0],), np.mean, **settings).confidence_interval
    assert Draws([a, b]).interval(0) == pytest.approx((alone.low, alone.high), abs=0.015)


@pytest.mark.parametrize("spread_of_seeds", [0.0, 0.1, 0.5])
def test_its_variance_is_that_of_the_components(spread_of_seeds: float) -> None:
    found = rows(seeds=4, items=300, seed=3, spread_of_seeds=spread_of_seeds)
    deviations = Draws(found).deviations
    assert deviations.mean(axis=0) == pytest.approx([0, 0], abs=0.02)
    for place, row in enumerate(found):
        assert deviations[:, place].std() == pytest.approx(spread(row)[0], rel=0.06)
    assert (deviations[:, 0] - deviations[:, 1]).std() == pytest.approx(spread(*found)[0], rel=0.06)


def test_rows_are_drawn_on_the_same_items_so_that_a_difference_is_sharper_than_either() -> None:
    found = rows(seeds=3, items=300)
    draws = Draws(found)
    low, high = draws.interval(0, 1)
    own_low, own_high = draws.interval(0)
    assert high - low < 0.5 * (own_high - own_low)


def test_few_seeds_widen_the_interval_as_students_t_does() -> None:
    levels = np.array([0.2, 0.5, 0.3])
    row = Values((np.repeat(levels[:, None], 40, axis=1) + np.tile([0.0, 1e-9], 20),))
    low, high = Draws([row]).interval(0)
    t = stats.t.interval(0.95, 2, loc=levels.mean(), scale=stats.sem(levels))
    assert high - low > 0.8 * (t[1] - t[0])


def test_a_loss_without_items_has_students_interval() -> None:
    losses = np.array([1.0, 1.1, 1.3])
    expected = stats.t.interval(0.95, 2, loc=losses.mean(), scale=stats.sem(losses))
    assert Draws([Values((losses[:, None],))]).interval(0) == pytest.approx(expected)


def test_one_seed_without_items_has_no_interval_and_what_never_varies_has_none_to_either_side() -> None:
    lone, several = Values((np.array([[1.0]]),)), Values((np.array([[1.0], [1.2]]),))
    draws = Draws([lone, several])
    assert draws.interval(0) is None and draws.interval(0, 1) is None and draws.interval(1) is not None
    same = [Values((np.full((3, 1), loss),)) for loss in (0.2, 0.3)]
    assert Draws(same).interval(0) is None and Draws(same).interval(0, 1) is None


def test_where_all_items_come_out_alike_the_interval_of_an_accuracy_is_the_exact_one() -> None:
    wrong, right = Values((np.zeros((3, 80)),)), Values((np.ones((3, 80)),))
    exact = stats.binomtest(0, 80).proportion_ci(0.95, method="exact")
    draws = Draws([wrong, right], (0, 1))
    assert draws.interval(0) == (0.0, pytest.approx(exact.high)) and exact.high == pytest.approx(0.0451, abs=1e-4)
    assert draws.interval(1) == (pytest.approx(1 - exact.high), 1.0)
    share = 0.025 ** (1 / 80)
    assert draws.interval(1, 0) == (pytest.approx(2 * share - 1), 1.0), "at worst the others are the other way round"
    assert draws.interval(0, 1) == (-1.0, pytest.approx(1 - 2 * share))


def test_equal_ratings_have_an_interval_that_leaves_the_other_questions_free() -> None:
    low, high = Draws([Values((np.full((3, 20), 7.0),))], (1, 10)).interval(0)
    share = 0.025 ** (1 / 20)
    assert (low, high) == (pytest.approx(share * 7 + (1 - share)), pytest.approx(share * 7 + (1 - share) * 10))
    assert Draws([Values((np.full((3, 20), 7.0),))]).interval(0) is None


def test_no_interval_leaves_what_is_possible() -> None:
    high = Values(((np.arange(20) < np.array([[20], [19], [14]])).astype(float),))
    low = Values((1 - high.strata[0],))
    free, bound = Draws([high, low]), Draws([high, low], (0, 1))
    assert free.interval(0)[1] > 1 and bound.interval(0) == (free.interval(0)[0], 1)
    assert bound.interval(1)[0] == 0 and bound.interval(0, 1)[1] <= 1


def test_the_same_rows_have_the_same_interval_every_time() -> None:
    assert Draws(rows(3, 50)).interval(0, 1) == Draws(rows(3, 50)).interval(0, 1)
