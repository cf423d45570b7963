"""GaLore is the authors' package, on the right matrices, without the memory it wastes."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from galore_torch import GaLoreAdamW

import baselines
from baselines._projectors import PROJECTIONS
from baselines.contract import AdamWSettings
from tests.models import held_bytes, start, tiny_gpt2, tiny_llama, train_by_hand

RANK, GAP = 4, 3
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def projected(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """By the names of Llama's matrices, as the package's own script picks them (modules of attn and mlp)."""
    return [p for name, p in model.named_parameters() if name.split(".")[-2] in MATRICES]


def package_optimizer(model: torch.nn.Module, proj_type: str) -> GaLoreAdamW:
    matrices = projected(model)
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    low_rank = {"rank": RANK, "update_proj_gap": GAP, "scale": 1.0, "proj_type": proj_type}
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
        {"params": matrices, "weight_decay": 0.1, **low_rank},
    ]
    return GaLoreAdamW(groups, lr=1e-2, betas=(0.8, 0.99), eps=1e-7, no_deprecation_warning=True)


@pytest.mark.parametrize("proj_type", PROJECTIONS)
def test_a_step_equals_the_packages_own(proj_type):
    settings = AdamWSettings(beta1=0.8, beta2=0.99, epsilon=1e-7, weight_decay=0.1)
    run = start("galore", lr=1e-2, adamw=settings, proj_type=proj_type)
    model = tiny_llama()
    optimizer = package_optimizer(model, proj_type)
    train_by_hand(model, optimizer, 50, lr=1e-2)
    run.train(0, 50)
    theirs = dict(model.named_parameters())
    for name, ours in run.model.named_parameters():
        torch.testing.assert_close(ours, theirs[name], rtol=0, atol=1e-6)


def test_matrices_of_attention_and_mlp_are_projected_and_nothing_else():
    run = start("galore")
    group = next(group for group in run.optimizer.param_groups if "rank" in group)
    assert {id(p) for p in group["params"]} == {id(p) for p in projected(run.model)}
    assert sum(len(group["params"]) for group in run.optimizer.param_groups) == len(list(run.model.parameters()))


def test_gpt2s_matrices_are_projected_too():
    run = start("galore", tiny_gpt2())
    group = next(group for group in run.optimizer.param_groups if "rank" in group)
    assert len(group["params"]) == 4 * run.model.config.n_layer


def test_state_is_two_low_rank_moments_and_a_projector():
    run = start("galore").train(0, 1)
    matrices = projected(run.model)
    others = [p for p in run.model.parameters() if all(p is not matrix for matrix in matrices)]
    low_rank = sum(2 * max(p.shape) * RANK + min(p.shape) * RANK for p in matrices)
    assert held_bytes(run.optimizer) == 4 * (low_rank + sum(2 * p.numel() for p in others))


def test_no_projector_keeps_a_whole_factor_alive():
    run = start("galore").train(0, 1)
    for values in run.optimizer.state_dict()["state"].values():
        if "projector" in values:
            basis = values["projector"]  # (rank, in) or (out, rank)
            assert basis.untyped_storage().nbytes() == basis.nbytes


def test_a_projector_is_renewed_after_the_gap_and_not_before():
    run = start("galore")
    renewed, last = [], None
    for step in range(2 * GAP + 1):
        run.train(step, step + 1)
        states = run.optimizer.state_dict()["state"].values()
        basis = next(values["projector"] for values in states if "projector" in values)
        if last is None or not torch.equal(basis, last):
            renewed.append(step)
        last = basis.clone()
    assert renewed == [0, GAP, 2 * GAP]


def test_a_checkpoint_from_before_the_first_step_loads():
    checkpoint = start("galore").saved()
    assert start("galore").load(checkpoint).train(0, 5).losses == start("galore").train(0, 5).losses


@pytest.mark.parametrize("name", ["galore", "galore_layerwise", "lisa_galore", "owlore"])
@pytest.mark.parametrize("package", ["galore-torch", "bitsandbytes"])
def test_without_a_package_the_check_says_what_to_install(name, package, monkeypatch):
    method = baselines.build(name, {}, AdamWSettings(), 0)
    method.check({})
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda it: found(it) if it != package.replace("-", "_") else None)
    with pytest.raises(ValueError, match=f"GaLore needs the package {package}, .*: pip install {package}"):
        method.check({})
