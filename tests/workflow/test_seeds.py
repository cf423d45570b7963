"""Which seed decides what of a training, with and without parts that are held fixed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workflow.experiments import small
from workflow.engine.errors import InputError
from workflow.experiment import build_method, resolve
from workflow.seeds import PARTS, seed_of

TRAINING = {"steps": 4, "batch_size": 2}


def seeded(fixed: dict[str, int | None] | None, **changes: Any) -> dict[str, Any]:
    return resolve(small(seeds=[3], methods=["lisa"], training={**TRAINING, "fixed_seeds": fixed}, **changes))


def test_one_seed_decides_all() -> None:
    experiment = resolve(small(seeds=[3]))
    assert {seed_of(part, experiment, experiment["runs"][0]) for part in PARTS} == {3}


@pytest.mark.parametrize("part", PARTS)
def test_a_fixed_part_has_a_seed_of_its_own(part: str) -> None:
    experiment = seeded({part: 0})
    run = experiment["runs"][0]
    assert {name: seed_of(name, experiment, run) for name in PARTS} == {**dict.fromkeys(PARTS, 3), part: 0}
    method = build_method(experiment, run)
    assert (method.seed, method.draw_seed) == (
        seed_of("initialisation", experiment, run),
        seed_of("draws", experiment, run),
    )


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({"order": 0}, r"training.fixed_seeds: unknown key 'order'.*data_order"),
        ({"draws": -1}, r"training.fixed_seeds.draws.*-1"),
        ({}, r"training.fixed_seeds"),
    ],
)
def test_what_is_no_fixed_seed_is_refused(fixed: dict[str, int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        seeded(fixed)


def test_several_seeds_that_would_move_nothing_are_refused() -> None:
    fixed = dict.fromkeys(PARTS, 0)
    assert len(seeded(fixed)["runs"]) == 1
    with pytest.raises(InputError, match=r"training.fixed_seeds: .* are all fixed, so that seeds \[0, 1\] would train"):
        resolve(small(seeds=[0, 1], training={**TRAINING, "fixed_seeds": fixed}))


def test_null_lets_a_part_go_that_the_file_fixes() -> None:
    given = {"data_order": None, "draws": 2}
    assert seeded(given)["training"]["fixed_seeds"] == {"draws": 2}
    assert seeded({"draws": None})["training"]["fixed_seeds"] is None
