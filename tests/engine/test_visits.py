"""Units that have trained: complete once every unit was active."""

from __future__ import annotations

import pytest
import torch

import baselines
from baselines.contract import AdamWSettings, Method
from tests.models import tiny_llama
from workflow.engine.visits import Visits


def ready(name: str, **hyperparameters: object) -> Method:
    method = baselines.build(name, hyperparameters, AdamWSettings(), seed=0)
    torch.manual_seed(0)
    method.optimizer(method.prepare(tiny_llama()), lr=1e-3)
    return method


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_method_that_draws_nothing_is_complete_at_once(name: str) -> None:
    visits = Visits(ready(name))
    assert visits.complete
    assert (visits.visited, visits.total, visits.active()) == (0, 0, ())


@pytest.mark.parametrize(
    ("name", "hyperparameters"), [("lisa", {"gamma": 1, "period_steps": 1}), ("badam", {"switch_every": 1})]
)
def test_visits_are_complete_when_the_last_unit_was_active(name: str, hyperparameters: dict[str, object]) -> None:
    method = ready(name, **hyperparameters)
    visits, seen, step = Visits(method), set[int](), 0
    while not visits.complete:
        method.before_step(step)
        new = not seen.issuperset(visits.active())
        assert visits.note() == new
        seen.update(visits.active())
        assert visits.visited == len(seen)
        step += 1
    assert len(seen) == visits.total > 1
    assert len(visits.active()) == 1
