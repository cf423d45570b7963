"""Killed and resumed is the uninterrupted run to the bit, for every sampler and every treatment of state."""

from __future__ import annotations

import json

import pytest

from lisa.sampling import SAMPLERS as NAMES
from lisa.switch import STATES
from tests.lisa.loops import PERIOD, SAMPLERS, load, make, saved, train
from tests.models import changed, copies, tiny_llama

STEPS = 5 * PERIOD


def test_every_sampler_is_tried():
    assert set(SAMPLERS) == set(NAMES)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_resumed_at_any_step_is_the_uninterrupted_one(sampler, state):
    arguments = {"sampler": sampler, "state": state, **SAMPLERS[sampler]}
    whole = tiny_llama()
    lisa, checkpoints, losses = make(whole, **arguments), [], []
    for step in range(STEPS):
        checkpoints.append(saved(whole, lisa))
        losses += train(whole, lisa, step, step + 1)
    for step in range(1, STEPS):
        resumed = tiny_llama(seed=1)
        again = make(resumed, **arguments)
        load(resumed, again, checkpoints[step])
        assert train(resumed, again, step, STEPS) == losses[step:]
        assert changed(resumed, copies(whole)) == set()
        assert again.active == lisa.active


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_state_survives_json(sampler):
    """trainer_state.json holds it, and a float comes back from JSON as the same float."""
    model = tiny_llama()
    lisa = make(model, sampler=sampler, **SAMPLERS[sampler])
    train(model, lisa, 0, 2 * PERIOD - 1)
    state = lisa.state_dict()
    assert json.loads(json.dumps(state)) == state


def test_an_adaptive_run_cannot_go_on_without_what_it_gathered():
    lisa = make(tiny_llama(), sampler="adaptive")
    with pytest.raises(ValueError, match="cannot begin at step 4.*load_state_dict"):
        lisa.before_step(4)
