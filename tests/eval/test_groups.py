"""Letters: rows share one exactly if no test tells them apart."""

from __future__ import annotations

import itertools
import random

import pytest

from eval.groups import letters


def test_the_middle_row_is_like_both_its_neighbours() -> None:
    assert letters(["x", "y", "z"], {frozenset("xz")}) == {"x": "a", "y": "ab", "z": "b"}


def test_equals_are_one_group_and_strangers_one_each() -> None:
    assert letters(range(3), set()) == {0: "a", 1: "a", 2: "a"}
    every = {frozenset(pair) for pair in itertools.combinations(range(3), 2)}
    assert letters([2, 0, 1], every) == {2: "a", 0: "b", 1: "c"}


@pytest.mark.parametrize("seed", range(20))
def test_two_rows_share_a_letter_exactly_if_they_are_not_told_apart(seed: int) -> None:
    draw = random.Random(seed)
    order = draw.sample(range(9), 9)
    apart = {frozenset(pair) for pair in itertools.combinations(order, 2) if draw.random() < 0.4}
    found = letters(order, apart)
    for pair in itertools.combinations(order, 2):
        assert bool(set(found[pair[0]]) & set(found[pair[1]])) == (frozenset(pair) not in apart)
    assert all(found.values()) and found[order[0]].startswith("a")


def test_no_group_is_within_another() -> None:
    found = letters(range(4), {frozenset((0, 3)), frozenset((1, 3)), frozenset((0, 2))})
    groups = [{row for row in found if letter in found[row]} for letter in set("".join(found.values()))]
    assert not any(one < other for one in groups for other in groups)
