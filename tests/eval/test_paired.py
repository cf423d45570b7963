"""The tests of pairs give what statsmodels and scipy give on the same inputs, and hold where these end."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from eval.hierarchical import Draws
from eval.paired import holm, p_items, p_seeds_and_items, rating_sign_tests, sign_test, spread
from eval.values import Values


def accuracies(draw: np.random.Generator, seeds: int, items: int, share: float = 0.5) -> Values:
    return Values(((draw.random((seeds, items)) < share).astype(float),))


def one_seed(seed: int, items: int = 60) -> tuple[Values, Values]:
    draw = np.random.default_rng(seed)
    return accuracies(draw, 1, items), accuracies(draw, 1, items, 0.7)


@pytest.mark.parametrize("seed", range(8))
def test_one_seed_right_or_wrong_is_mcnemars_exact_test(seed: int) -> None:
    a, b = one_seed(seed)
    one, other = a.strata[0][0], b.strata[0][0]
    table = [[int(((one == x) & (other == y)).sum()) for y in (1, 0)] for x in (1, 0)]
    (p,) = p_items([(a, b)], accuracy=True)
    assert p == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-12)
    only_a, only_b = table[0][1], table[1][0]
    assert p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-12)


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (2, 3)])
def test_several_seeds_are_the_exact_permutation_test_of_the_items(seeds: tuple[int, int]) -> None:
    draw = np.random.default_rng(sum(seeds))
    a, b = accuracies(draw, seeds[0], 12), accuracies(draw, seeds[1], 12, 0.8)
    (p,) = p_items([(a, b)], accuracy=True)
    reference = stats.permutation_test(
        (a.item_means[0] - b.item_means[0],), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert p == pytest.approx(reference.pvalue, rel=1e-9)


@pytest.mark.parametrize("items", [2, 12, 16])
def test_few_ratings_are_given_all_signs_as_scipy_gives_them(items: int) -> None:
    differences = np.random.default_rng(5).normal(0.3, 1.0, (3, items)).round(2)
    for own, p in zip(differences, rating_sign_tests(differences), strict=True):
        every = stats.permutation_test((own,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
        assert p == pytest.approx(every, rel=1e-12)
        assert p == pytest.approx(sign_test(own, 0.01), rel=1e-6)


def test_drawn_signs_of_many_ratings_come_close_to_all_of_them() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1.0, (3, 40)).round(2)
    for own, p in zip(differences, rating_sign_tests(differences), strict=True):
        every = sign_test(own, 0.01)
        assert p == pytest.approx(every, abs=4 * np.sqrt(every / 1e5))


def test_items_that_do_not_differ_prove_nothing() -> None:
    same = Values((np.ones((2, 30)),))
    assert p_items([(same, same)], accuracy=True) == p_items([(same, same)], accuracy=False) == [1.0]
    assert p_seeds_and_items(same, same) == 1.0


def test_without_a_spread_of_seeds_it_is_the_paired_t_test_on_items() -> None:
    draw = np.random.default_rng(2)
    one, other = (draw.normal(5, 2, 40) for _ in range(2))
    a, b = (Values((np.stack([row] * 3),)) for row in (one, other))
    assert p_seeds_and_items(a, b) == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-12)


@pytest.mark.parametrize("seeds", [(3, 3), (2, 5)])
def test_without_items_it_is_welchs_test_on_seeds(seeds: tuple[int, int]) -> None:
    draw = np.random.default_rng(3)
    one, other = (draw.normal(mean, 0.1, count) for mean, count in zip((1.0, 1.2), seeds, strict=True))
    a, b = Values((one[:, None],)), Values((other[:, None],))
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert p_seeds_and_items(a, b) == pytest.approx(welch.pvalue, rel=1e-12)
    assert spread(a, b)[1] == pytest.approx(welch.df)
    assert p_items([(a, b)], accuracy=False) == [None]


def test_one_seed_says_nothing_of_others() -> None:
    a, b = one_seed(0)
    assert p_seeds_and_items(a, b) is None
    assert p_seeds_and_items(Values((np.ones((3, 60)),)), b) is None


def test_the_spread_of_seeds_counts_beside_that_of_items() -> None:
    """Seeds of one row, 0.1 apart, on items that all give what the seed gives: nothing but the seeds varies."""
    levels = np.array([0.2, 0.3, 0.4])
    moving, still = Values((np.repeat(levels[:, None], 50, axis=1),)), Values((np.full((3, 50), 0.25),))
    error, degrees = spread(moving, still)
    assert error == pytest.approx(np.std(levels, ddof=1) / np.sqrt(3)) and degrees == pytest.approx(2)


def test_rows_that_answer_alike_have_no_fewer_degrees_of_freedom_than_seeds() -> None:
    """The items' differences vary less than the seeds do: what is subtracted is no part of what is known."""
    draw = np.random.default_rng(0)
    hard = draw.normal(size=(3, 40))
    a, b = Values((hard,)), Values((hard + draw.normal(scale=0.001, size=(3, 40)),))
    error, degrees = spread(a, b)
    assert error > 0 and degrees >= 2
    low, high = Draws([a, b]).interval(0, 1)
    assert high - low < 20 * error


def test_benchmarks_of_a_suite_weigh_alike_however_many_items_they_have() -> None:
    draw = np.random.default_rng(4)
    strata = [draw.normal(0.5, 1, (3, items)) for items in (30, 300)]
    other = [draw.normal(0.2, 1, (3, items)) for items in (30, 300)]
    a, b = Values(tuple(strata)), Values(tuple(other))
    parts = [(one - two).mean(axis=0) for one, two in zip(strata, other, strict=True)]
    variance = sum(part.var(ddof=1) / len(part) for part in parts) / 4
    (p,) = p_items([(a, b)], accuracy=True)
    assert a.mean - b.mean == pytest.approx(np.mean([part.mean() for part in parts]))
    statistic = abs(a.mean - b.mean) / np.sqrt(variance)
    assert 2 * stats.t.sf(statistic, 29 + 299) < p < 2 * stats.t.sf(statistic, 29)


def test_holms_correction_is_statsmodels() -> None:
    draw = np.random.default_rng(6)
    for count in (1, 2, 10, 45):
        ps = draw.random(count) ** 3
        assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1].tolist(), rel=1e-12)
    assert holm([]) == []


def test_many_items_take_no_rounding_for_a_chance() -> None:
    """14,042 items, as MMLU has: the chance of what lies far out stays positive and small."""
    signs = np.ones(14_042)
    signs[:6000] = -1
    assert 0 <= sign_test(signs, 1.0) < 1e-12
    for few in itertools.accumulate([1] * 6):
        assert sign_test(np.ones(few), 1.0) == pytest.approx(2.0 ** (1 - few))
