"""Verdicts: when two rows are told apart, how the column is grouped, and what the sentence says."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from eval.values import Values
from eval.verdicts import compare, leaders, sentence, unpaired


def rows(**accuracies: float) -> dict[str, Values]:
    """Three seeds on 1,000 items of rising difficulty; seeds change about one item in thirty."""
    hard = np.linspace(0, 1, 1000)
    draw = np.random.default_rng(0)
    return {
        name: Values((np.stack([hard + draw.normal(0, 0.03, 1000) < level for _ in range(3)]).astype(float),))
        for name, level in accuracies.items()
    }


def one_seed(**accuracies: float) -> dict[str, Values]:
    return {name: Values((values.strata[0][:1],)) for name, values in rows(**accuracies).items()}


def said(values: dict[str, Values], **options) -> str:
    return sentence(compare(values, accuracy=True, **options), "GSM8K", factor=100, digits=1)


def test_equals_are_said_to_be_equal() -> None:
    text = said(rows(lisa=0.601, lora=0.600))
    assert re.match(
        r"GSM8K: (lisa and lora|lora and lisa) are not distinguishable here\. Telling two rows apart here", text
    )


def test_how_far_apart_rows_must_lie_is_said_where_any_are_not_told_apart() -> None:
    noise, items = (-0.02, 0.0, 0.02), np.zeros(1)
    a = Values((np.array([items + e for e in noise]),))
    needed = compare({"a": a, "b": a}).needed
    assert needed == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(2 * 0.02**2 / 3))
    for shift, apart in ((1.02 * needed, True), (0.98 * needed, False)):
        verdict = compare({"a": a, "b": Values((a.strata[0] + shift,))})
        assert verdict.differences[0].apart == apart
        said_of_it = f" Telling two rows apart here takes a difference of about {needed:.3f}."
        assert sentence(verdict, "X", digits=3).endswith(said_of_it) != apart
    assert compare({"a": a, "b": a}, floor=1.0).needed == 1.0
    assert compare({"a": a, "b": a, "c": a}).needed > needed, "Holm asks more of the first of three pairs"


def test_the_best_row_is_named_with_its_equals_and_what_it_is_ahead_by() -> None:
    text = said(rows(lisa=0.6, full=0.65, lora=0.601))
    found = re.fullmatch(r"GSM8K: full is better than (lisa|lora) by (.*) and (lisa|lora) by (.*)\.", text)
    assert found and {found[1], found[3]} == {"lisa", "lora"}
    value, low, high = map(float, re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", found[2]).groups())
    assert low < value < high and value == pytest.approx(5, abs=0.8)
    text = said(rows(lisa=0.65, full=0.651, lora=0.6))
    assert re.match(r"GSM8K: (\w+) is best; (\w+) is not distinguishable from it; \1 is better than lora by ", text)


def test_lower_may_be_better() -> None:
    losses = {name: Values((np.array([[x], [x + 0.01], [x - 0.01]]),)) for name, x in (("full", 1.0), ("lora", 2.0))}
    verdict = compare(losses, lower_is_better=True)
    assert verdict.order == ("full", "lora") and verdict.groups == {"full": "a", "lora": "b"}
    assert sentence(verdict, "Loss", digits=2).startswith("Loss: full is better than lora by 1.00 [0.9")


def test_one_seed_is_said_to_speak_of_the_trained_models_only() -> None:
    assert said(one_seed(full=0.7, lora=0.6)).endswith(
        " One seed: said of the trained models at hand, not of their methods."
    )
    verdict = compare(one_seed(full=0.7, lora=0.6), accuracy=True)
    assert verdict.one_seed and verdict.differences[0].p_seeds_and_items is None and verdict.differences[0].apart


def test_one_seed_without_items_is_not_tested() -> None:
    losses = {name: Values((np.array([[x]]),)) for name, x in (("full", 1.0), ("lora", 2.0))}
    verdict = compare(losses, lower_is_better=True)
    assert not verdict.tested and verdict.differences[0].p_holm is None and not verdict.differences[0].apart
    assert sentence(verdict, "Loss") == "Loss: not tested, since no seeds or items show a spread."


def test_seeds_that_are_one_run_several_times_show_no_spread() -> None:
    losses = {name: Values((np.full((3, 1), x),)) for name, x in (("full", 0.2), ("lora", 0.2001))}
    verdict = compare(losses, lower_is_better=True)
    assert not verdict.tested and not verdict.differences[0].apart and verdict.intervals["full"] is None
    told = "Loss: not tested, since no seeds or items show a spread."
    assert sentence(verdict, "Loss") == told


@pytest.mark.parametrize(("items", "tested"), [(5, False), (6, True)])
def test_so_few_items_that_no_answers_tell_rows_apart_are_not_tested(items: int, tested: bool) -> None:
    right, wrong = Values((np.ones((1, items)),)), Values((np.zeros((1, items)),))
    verdict = compare({"a": right, "b": wrong}, accuracy=True, bounds=(0, 1))
    assert verdict.differences[0].p_items == pytest.approx(2.0 ** (1 - items)) and verdict.tested == tested
    assert verdict.too_few == (None if tested else items)
    assert verdict.differences[0].apart == tested, "the interval tells apart what the sign test does"
    if not tested:
        assert sentence(verdict, "X") == "X: not tested, since 5 items can not tell any two of 2 rows apart."
    three = compare({"a": right, "b": wrong, "c": wrong}, accuracy=True)
    assert not three.tested, "Holm asks more of the first of three pairs"


def test_a_difference_within_the_noise_floor_is_none() -> None:
    found = rows(full=0.63, lora=0.6)
    (difference,) = compare(found, accuracy=True).differences
    assert difference.apart
    (difference,) = compare(found, accuracy=True, floor=0.05).differences
    assert not difference.apart and difference.p_holm is not None


def test_more_pairs_need_a_smaller_p() -> None:
    few, many = rows(full=0.63, lora=0.6), rows(full=0.63, lora=0.6, a=0.6, b=0.6, c=0.6)
    (alone,) = compare(few, accuracy=True).differences
    among = next(d for d in compare(many, accuracy=True).differences if {d.a, d.b} == {"full", "lora"})
    assert among.p_items == alone.p_items and among.p_holm > alone.p_holm


def test_the_larger_of_the_two_ps_counts() -> None:
    for difference in compare(rows(full=0.62, lora=0.6, lisa=0.61), accuracy=True).differences:
        assert difference.p_holm >= max(difference.p_items, difference.p_seeds_and_items)


def test_all_right_is_told_apart_from_all_wrong() -> None:
    values = {"right": np.ones((3, 80)), "wrong": np.zeros((3, 80)), "half": np.tile([0.0, 1.0], (3, 40))}
    verdict = compare({name: Values((items,)) for name, items in values.items()}, accuracy=True, bounds=(0, 1))
    assert verdict.groups == {"right": "a", "half": "b", "wrong": "c"}
    share = 0.025 ** (1 / 80)
    pair = verdict.pair("right", "wrong")
    assert (pair.low, pair.high) == (pytest.approx(2 * share - 1), 1.0)
    assert "right is better than half by" in sentence(verdict, "X") and "and wrong by 1.00 [0.91, 1.00]" in sentence(
        verdict, "X"
    )


def test_a_row_that_could_not_be_tested_is_no_equal() -> None:
    losses = {"full": (1.0, 1.01, 0.99), "lora": (2.0, 2.01, 1.99), "galore": (9.0,)}
    values = {name: Values((np.array(seeds)[:, None],)) for name, seeds in losses.items()}
    verdict = compare(values, lower_is_better=True)
    assert verdict.groups == {"full": "a", "lora": "b"} and leaders(verdict) == ("full", []) and not verdict.one_seed
    assert sentence(verdict, "Loss").startswith("Loss: full is better than lora by 1.00 [")
    assert sentence(verdict, "Loss").endswith("Not tested against full: galore.")
    best = compare({**values, "galore": Values((np.array([[0.5]]),))}, lower_is_better=True)
    assert leaders(best) == ("full", []) and "galore is" not in sentence(best, "Loss")
    assert "Not tested against full: galore." in sentence(best, "Loss")


def test_rows_that_share_no_items_are_not_tested_and_keep_their_intervals() -> None:
    verdict = unpaired(rows(full=0.7, lora=0.6), (0, 1))
    assert verdict.order == ("full", "lora") and verdict.intervals["full"][0] < 0.7 < verdict.intervals["full"][1]
    assert sentence(verdict, "X") == "X: not tested, since the rows have no items in common."


def test_what_it_takes_is_never_more_than_values_can_lie_apart() -> None:
    found = [np.array([[0.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 1.0]])]
    values = {"a": Values((found[0], np.ones((1, 9)))), "b": Values((found[1], np.ones((1, 9))))}
    assert compare(values, accuracy=True, bounds=(0, 1)).needed <= 1.0 < compare(values, accuracy=True).needed


def test_with_one_seed_it_takes_as_many_items_as_the_sign_test_does() -> None:
    """Four of 80 items one way have p = 0.125, though Student's t would tell so little a spread apart."""
    items = np.zeros((1, 80))
    better = items.copy()
    better[0, :4] = 1
    verdict = compare({"a": Values((better,)), "b": Values((items,))}, accuracy=True, bounds=(0, 1))
    assert not verdict.differences[0].apart and verdict.needed == 6 / 80
    better[0, :6] = 1
    assert compare({"a": Values((better,)), "b": Values((items,))}, accuracy=True, bounds=(0, 1)).differences[0].apart


def test_a_difference_can_be_asked_for_from_either_side() -> None:
    verdict = compare(rows(full=0.7, lora=0.6), accuracy=True)
    here, there = verdict.pair("full", "lora"), verdict.pair("lora", "full")
    assert (here.value, here.low, here.high) == (-there.value, -there.high, -there.low) and here.a == "full"


def test_pairs_behind_the_best_are_told_when_nothing_is_behind_it() -> None:
    """The best row's seeds are far apart, so that nothing is told apart from it."""
    found = rows(b=0.6, c=0.5)
    wild = np.stack([found["b"].strata[0][0] * 0 + level for level in (1.0, 0.9, 0.2)])
    verdict = compare({"wild": Values((wild,)), **found})
    text = sentence(verdict, "X", factor=100, digits=1)
    assert text.startswith("X: wild is best; b and c are not distinguishable from it; b is better than c by 9.")


def test_many_rows_are_counted_and_not_all_named() -> None:
    levels = {f"m{place:02}": 0.2 + 0.04 * place for place in range(20)}
    text = said(rows(**levels))
    assert text.startswith("GSM8K: m19 is better than m18 by ") and text.endswith(" and 14 more.")


def test_a_row_alone_has_an_interval_and_no_verdict() -> None:
    verdict = compare(rows(full=0.6), accuracy=True)
    assert verdict.differences == () and verdict.groups == {} and not verdict.tested
    low, high = verdict.intervals["full"]
    assert low < 0.6 < high and sentence(verdict, "X") == "X: full stands alone."
