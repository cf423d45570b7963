"""LISA's draws with GaLore's step: both parents are found again in it, and the state is that of what trains."""

from __future__ import annotations

import pytest
import torch

import baselines
from baselines.contract import AdamWSettings
from tests.models import LAYERS, Run, start, tiny_llama

PERIOD = 3


def held(run: Run) -> set[str]:
    """Names of the parameters that have optimizer state."""
    return {name for name, p in run.model.named_parameters() if run.optimizer.state.get(p)}


def test_with_all_layers_it_is_galore_to_the_bit():
    decay = AdamWSettings(weight_decay=0.1)
    shared = {"rank": 4, "update_proj_gap": 3, "scale": 1.0}
    both = start("lisa_galore", adamw=decay, gamma=LAYERS, **shared).train(0, 10)
    galore = start("galore", adamw=decay, **shared).train(0, 10)
    assert both.losses == galore.losses


def test_it_draws_the_layers_that_lisa_draws():
    ours, lisa = start("lisa_galore", seed=5), start("lisa", seed=5)
    for step in range(10 * PERIOD):
        ours.method.before_step(step)
        lisa.method.before_step(step)
        assert ours.method.lisa.active == lisa.method.lisa.active


def test_a_frozen_layer_keeps_neither_moments_nor_projector():
    run = start("lisa_galore", gamma=1)
    seen = set()
    for period in range(6):
        run.train(PERIOD * period, PERIOD * period + PERIOD)
        assert held(run) == {name for name, p in run.model.named_parameters() if p.requires_grad}
        seen |= set(run.method.lisa.active)
    assert len(seen) > 1


def test_no_projector_of_a_layer_drawn_again_keeps_a_whole_factor_alive():
    run = start("lisa_galore").train(0, 6 * PERIOD)
    bases = [values["projector"] for values in run.optimizer.state_dict()["state"].values() if "projector" in values]
    assert len(bases) == 2 * 7
    assert all(basis.untyped_storage().nbytes() == basis.nbytes for basis in bases)


def test_a_checkpoint_of_another_gamma_is_refused():
    checkpoint = start("lisa_galore").train(0, 2).saved()
    with pytest.raises(ValueError, match="draws other layers"):
        start("lisa_galore", gamma=3).load(checkpoint)


@pytest.mark.parametrize("override", [{"gamma": -1}, {"period_steps": 0}, {"rank": 0}, {"proj_type": "up"}])
def test_an_illegal_value_is_an_error_with_what_is_legal(override):
    (key, value) = next(iter(override.items()))
    with pytest.raises(ValueError, match=f"{key}.* {value!r}.*; legal: "):
        baselines.hyperparameters("lisa_galore", override)


def test_more_layers_than_there_are_is_an_error_before_anything_is_loaded():
    method = baselines.build("lisa_galore", {"gamma": LAYERS + 1}, AdamWSettings(), 0)
    with pytest.raises(ValueError, match=r"gamma.* is 5; legal: 0\.\.4"):
        method.check(tiny_llama().config.to_dict())


def test_layerwise_galore_is_galore_to_the_bit():
    whole, stepped = start("galore").train(0, 10), start("galore_layerwise").train(0, 10)
    assert stepped.losses == whole.losses
    weights = zip(stepped.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    assert all(p.grad is None for p in stepped.model.parameters())
