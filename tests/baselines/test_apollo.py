"""APOLLO and APOLLO-Mini are the authors' package, on the right matrices, with a seed of ours and exact resumption."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from apollo_torch import APOLLOAdamW

import baselines
from baselines.contract import AdamWSettings
from tests.baselines.test_galore import projected
from tests.models import Run, copies, held_bytes, loss_of, start, tiny_gpt2, tiny_llama, train_by_hand

GAP = 3
KINDS = {"apollo": {"rank": 4, "scale": 1.0, "scale_type": "channel"}, "apollo_mini": {"rank": 1, "scale": 128.0}}


def package_optimizer(model: torch.nn.Module, name: str) -> APOLLOAdamW:
    matrices = projected(model)
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    random = {"proj": "random", "proj_type": "std", "update_proj_gap": GAP, "scale_type": "tensor", **KINDS[name]}
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
        {"params": matrices, "weight_decay": 0.1, **random},
    ]
    return APOLLOAdamW(groups, lr=1e-2, betas=(0.8, 0.99), eps=1e-7)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_equals_the_packages_own(name):
    settings = AdamWSettings(beta1=0.8, beta2=0.99, epsilon=1e-7, weight_decay=0.1)
    run = start(name, lr=1e-2, adamw=settings)
    model = tiny_llama()
    optimizer = package_optimizer(model, name)
    train_by_hand(model, optimizer, 50, lr=1e-2)
    run.train(0, 50)
    theirs = dict(model.named_parameters())
    for parameter, ours in run.model.named_parameters():
        torch.testing.assert_close(ours, theirs[parameter], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("make", "matrices"), [(tiny_llama, 7), (tiny_gpt2, 4)])
def test_matrices_of_the_decoder_layers_are_scaled_and_nothing_else(make, matrices):
    run = start("apollo", make())
    group = next(group for group in run.optimizer.param_groups if "rank" in group)
    assert len(group["params"]) == matrices * run.model.config.num_hidden_layers
    assert sum(len(group["params"]) for group in run.optimizer.param_groups) == len(list(run.model.parameters()))


def first_update(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(gradient, change) of every scaled matrix at the first step."""
    run = start(name)
    before = copies(run.model)
    loss_of(run.model, 0).backward()
    gradients = {key: p.grad.clone() for key, p in run.model.named_parameters()}
    run.optimizer.step()
    scaled = {id(p) for p in projected(run.model)}
    return [(gradients[key], p.detach() - before[key]) for key, p in run.model.named_parameters() if id(p) in scaled]


def test_a_channel_moves_along_its_gradient():
    """A channel is a row of a tall matrix and a column of a wide one."""
    factors = set()
    for gradient, change in first_update("apollo"):
        dim = 1 if gradient.shape[0] >= gradient.shape[1] else 0
        cosine = torch.nn.functional.cosine_similarity(gradient, change, dim=dim)
        torch.testing.assert_close(cosine, torch.full_like(cosine, -1.0), rtol=0, atol=1e-3)
        factors |= {round(float(x), 4) for x in change.norm(dim=dim) / gradient.norm(dim=dim)}
    assert len(factors) > 100, "channels have factors of their own"


def test_with_mini_a_whole_matrix_moves_along_its_gradient():
    for gradient, change in first_update("apollo_mini"):
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), change.flatten(), dim=0)
        assert float(cosine) == pytest.approx(-1.0, abs=1e-3)


def projections(run: Run) -> list[torch.Tensor]:
    states = run.optimizer.state_dict()["state"].values()
    return [values["projector"] for values in states if "projector" in values]


def test_no_two_matrices_and_no_two_seeds_share_a_projection():
    made = [p for seed in (0, 1, 2) for p in projections(start("apollo", seed=seed).train(0, 1))]
    numbers = {round(float(p.flatten()[0]), 6) for p in made}
    assert len(numbers) == len(made) == 3 * len(projected(tiny_llama()))


def test_a_projection_is_renewed_after_the_gap_and_not_before():
    run, renewed, last = start("apollo"), [], None
    for step in range(2 * GAP + 1):
        run.train(step, step + 1)
        now = projections(run)[0].clone()
        if last is None or not torch.equal(now, last):
            renewed.append(step)
        last = now
    assert renewed == [0, GAP, 2 * GAP]


def test_state_of_mini_is_three_vectors_a_matrix():
    run = start("apollo_mini").train(0, 1)
    matrices = projected(run.model)
    others = sum(p.numel() for p in run.model.parameters()) - sum(p.numel() for p in matrices)
    vectors = sum(2 * max(p.shape) + min(p.shape) for p in matrices)
    assert held_bytes(run.optimizer) == 4 * (vectors + 2 * others)


@pytest.mark.parametrize("override", [{"rank": 0}, {"update_proj_gap": 0}, {"scale": 0.0}])
def test_an_illegal_value_is_an_error_with_what_is_legal(override):
    (key, value) = next(iter(override.items()))
    with pytest.raises(ValueError, match=f"{key} of APOLLO is {value!r}; legal: "):
        baselines.hyperparameters("apollo_mini", override)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("package", ["apollo-torch", "bitsandbytes"])
def test_without_a_package_the_check_says_what_to_install(name, package, monkeypatch):
    method = baselines.build(name, {}, AdamWSettings(), 0)
    method.check({})
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda it: found(it) if it != package.replace("-", "_") else None)
    with pytest.raises(ValueError, match=f"APOLLO needs the package {package}, .*: pip install {package}"):
        method.check({})
