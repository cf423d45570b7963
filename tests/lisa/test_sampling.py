"""Which layers are drawn: pure functions of seed, period and weights, each with the distribution it promises."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections import Counter

import pytest
import torch
from scipy import stats

from lisa import draw_independent, draw_uniform, draw_weighted, paper_weights
from lisa.sampling import draw_adaptive, inclusion_probabilities, uniforms

DRAWS = 10_000
WEIGHTS = [8.0, 1.0, 4.0, 2.0, 1.0]


@pytest.mark.parametrize(("layers", "gamma"), [(1, 1), (4, 2), (8, 8), (32, 2), (80, 4)])
def test_exactly_gamma_distinct_layers_are_drawn(layers, gamma):
    for period in range(200):
        drawn = draw_uniform(seed=3, period=period, layers=layers, gamma=gamma)
        assert len(set(drawn)) == gamma
        assert drawn == tuple(sorted(drawn))
        assert set(drawn) <= set(range(layers))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_set_of_layers_is_equally_likely(seed):
    counts = Counter(draw_uniform(seed, period, layers=6, gamma=3) for period in range(10_000))
    sets = list(itertools.combinations(range(6), 3))
    assert stats.chisquare([counts[drawn] for drawn in sets]).pvalue > 0.001


def test_consecutive_periods_and_seeds_are_independent():
    by_period = Counter((draw_uniform(0, p, 4, 1), draw_uniform(0, p + 1, 4, 1)) for p in range(0, 20_000, 2))
    by_seed = Counter((draw_uniform(s, 0, 4, 1), draw_uniform(s + 1, 0, 4, 1)) for s in range(0, 20_000, 2))
    for counts in (by_period, by_seed):
        assert stats.chisquare([counts[(a,), (b,)] for a in range(4) for b in range(4)]).pvalue > 0.001


def test_uniforms_are_uniform():
    numbers = uniforms(seed=0, period=0, count=10_000)
    assert 0 <= min(numbers) and max(numbers) < 1
    assert stats.kstest(numbers, "uniform").pvalue > 0.001


def test_draws_neither_use_nor_disturb_the_global_generators():
    torch.manual_seed(1)
    random.seed(1)
    first, states = draw_uniform(0, 5, 12, 2), (torch.get_rng_state(), random.getstate())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    torch.rand(7)
    random.random()
    untouched = torch.get_rng_state()
    assert draw_uniform(0, 5, 12, 2) == first
    assert torch.equal(torch.get_rng_state(), untouched)


def test_draws_do_not_depend_on_what_was_drawn_before():
    forwards = [draw_uniform(0, period, 12, 2) for period in range(50)]
    backwards = [draw_uniform(0, period, 12, 2) for period in reversed(range(50))]
    assert forwards == backwards[::-1]


def test_another_process_draws_the_same_layers():
    """As every rank of a distributed run must, whatever it drew before and however Python hashes there."""
    script = "import torch; torch.rand(3); import lisa; print([lisa.draw_uniform(7, p, 32, 2) for p in range(9)])"
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str([draw_uniform(7, period, 32, 2) for period in range(9)])


def test_draws_stay_what_they_were():
    """Golden: printed by `[draw_uniform(0, p, 12, 2) for p in range(6)]`. Other draws make old runs unresumable."""
    drawn = [draw_uniform(0, period, 12, 2) for period in range(6)]
    assert drawn == [(3, 7), (4, 7), (7, 10), (7, 9), (3, 4), (0, 5)]


@pytest.mark.parametrize("gamma", [-1, 5, 2.0, True, None])
def test_an_illegal_gamma_is_an_error_with_the_value_and_the_legal_range(gamma):
    with pytest.raises(ValueError, match=rf"is {gamma!r}; legal: 0\.\.4"):
        draw_uniform(0, 0, 4, gamma)


def test_gamma_0_draws_nothing_whatever_the_sampler():
    weights, norms = [1.0, 2.0, 3.0, 4.0], [None, 0.5, 2.0, None]
    for period in range(20):
        assert draw_uniform(0, period, 4, 0) == draw_weighted(0, period, weights, 0) == ()
        assert draw_independent(0, period, inclusion_probabilities(weights, 0)) == ()
        assert draw_adaptive(0, period, norms, 0) == ()


# --- the other samplers


def chance_of_order(order: tuple[int, ...], weights: list[float]) -> float:
    """Of drawing just so, one layer after the other, each by weight among those that are left."""
    chance, left = 1.0, sum(weights)
    for index in order:
        chance, left = chance * weights[index] / left, left - weights[index]
    return chance


def chance_of_set(drawn: tuple[int, ...], weights: list[float]) -> float:
    return sum(chance_of_order(order, weights) for order in itertools.permutations(drawn))


@pytest.mark.parametrize("gamma", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_weighted_draws_are_successive_draws_by_weight(seed, gamma):
    counts = Counter(draw_weighted(seed, period, WEIGHTS, gamma) for period in range(DRAWS))
    sets = list(itertools.combinations(range(len(WEIGHTS)), gamma))
    expected = [DRAWS * chance_of_set(drawn, WEIGHTS) for drawn in sets]
    assert sum(counts.values()) == sum(counts[drawn] for drawn in sets)
    assert stats.chisquare([counts[drawn] for drawn in sets], expected).pvalue > 0.001


@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_equal_weights_are_the_uniform_draw(gamma):
    for period in range(100):
        assert draw_weighted(4, period, [3.0] * 5, gamma) == draw_uniform(4, period, 5, gamma)


@pytest.mark.parametrize("seed", [0, 1])
def test_independent_draws_take_each_layer_with_its_probability_whatever_the_others_are(seed):
    probabilities = [0.1, 0.5, 0.8]
    counts = Counter(draw_independent(seed, period, probabilities) for period in range(DRAWS))
    sets = [drawn for count in range(4) for drawn in itertools.combinations(range(3), count)]
    expected = [
        DRAWS * math.prod(p if index in drawn else 1 - p for index, p in enumerate(probabilities)) for drawn in sets
    ]
    assert stats.chisquare([counts[drawn] for drawn in sets], expected).pvalue > 0.001


def test_the_number_of_independent_draws_is_binomial():
    """v1 of the paper: gamma layers on average, and any number in a single period."""
    layers, gamma = 12, 2
    probabilities = inclusion_probabilities([1.0] * layers, gamma)
    assert probabilities == pytest.approx([gamma / layers] * layers)
    counts = Counter(len(draw_independent(0, period, probabilities)) for period in range(DRAWS))
    pooled = [counts[number] for number in range(6)] + [sum(counts[number] for number in range(6, 13))]
    binomial = stats.binom(layers, gamma / layers)
    expected = [DRAWS * binomial.pmf(number) for number in range(6)] + [DRAWS * binomial.sf(5)]
    assert stats.chisquare(pooled, expected).pvalue > 0.001


@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5])
def test_inclusion_probabilities_keep_ratios_sum_to_gamma_and_stop_at_one(gamma):
    probabilities = inclusion_probabilities(WEIGHTS, gamma)
    assert sum(probabilities) == pytest.approx(gamma)
    assert all(0 < p <= 1 for p in probabilities)
    ratios = [p / weight for p, weight in zip(probabilities, WEIGHTS, strict=True) if p < 1]
    assert ratios == pytest.approx(ratios[:1] * len(ratios))


@pytest.mark.parametrize("seed", [0, 1])
def test_adaptive_draws_follow_the_gradient_norms(seed):
    norms, exploration = [3.0, 1.0, 0.0, 2.0], 0.1
    counts = Counter(draw_adaptive(seed, period, norms, 2, exploration) for period in range(DRAWS))
    shares = [(1 - exploration) * norm / sum(norms) + exploration / len(norms) for norm in norms]
    sets = list(itertools.combinations(range(4), 2))
    expected = [DRAWS * chance_of_set(drawn, shares) for drawn in sets]
    assert stats.chisquare([counts[drawn] for drawn in sets], expected).pvalue > 0.001


def test_adaptive_draws_take_layers_never_seen_first_and_all_of_them_alike():
    norms = [100.0, None, 5.0, None, None]
    counts = Counter(draw_adaptive(0, period, norms, 2) for period in range(DRAWS))
    assert stats.chisquare([counts[drawn] for drawn in [(1, 3), (1, 4), (3, 4)]]).pvalue > 0.001
    assert all({1, 3, 4} <= set(draw_adaptive(0, period, norms, 4)) for period in range(100))


def test_layers_without_any_gradient_are_drawn_alike():
    assert [draw_adaptive(0, p, [0.0] * 4, 2) for p in range(50)] == [draw_uniform(0, p, 4, 2) for p in range(50)]


def test_paper_weights_are_ratios_of_norms():
    assert paper_weights([17.0, 17.0, 6.5], [200.0, 270.0, 180.0]) == pytest.approx([0.085, 0.06296296, 0.03611111])


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        (([1.0], [1.0, 2.0]), "norms of 1 under LoRA and 2 under full"),
        (([1.0, 0.0], [1.0, 2.0]), "layer 1 is 0.0; legal: a positive, finite number"),
        (([1.0, 1.0], [math.nan, 2.0]), "layer 0 is nan"),
    ],
)
def test_norms_that_make_no_weights_are_an_error(norms, message):
    with pytest.raises(ValueError, match=message):
        paper_weights(*norms)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan, True, "2", None])
def test_an_illegal_weight_is_an_error(weight):
    with pytest.raises(ValueError, match="weight of layer 1 is .*; legal: a positive, finite number"):
        draw_weighted(0, 0, [1.0, weight], 1)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_an_illegal_probability_is_an_error(probability):
    with pytest.raises(ValueError, match=r"draw layer 1 is .*; legal: 0\.\.1"):
        draw_independent(0, 0, [0.5, probability])
