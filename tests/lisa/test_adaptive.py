"""The adaptive sampler's knowledge: the gradients that the optimizer's steps used, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lisa.adaptive import GradientNorms
from tests.lisa.loops import PERIOD, make, train
from tests.models import LAYERS, loss_of, tiny_llama


def test_a_norm_is_the_root_of_the_mean_square_over_the_period():
    units = [[nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))], [nn.Parameter(torch.zeros(1))]]
    optimizer = torch.optim.AdamW([p for unit in units for p in unit])
    norms = GradientNorms(units, optimizer)
    for scale in (1.0, 7.0):
        for parameter, gradient in zip(units[0], ([3.0, 0.0], [4.0]), strict=True):
            parameter.grad = scale * torch.tensor(gradient)
        optimizer.step()
    norms.end_period(2)
    assert norms.norms == [pytest.approx((0.5 * (5**2 + 35**2)) ** 0.5), None]


def test_a_unit_keeps_its_norm_while_others_train():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter])
    norms = GradientNorms([[parameter]], optimizer)
    parameter.grad = torch.full((1,), 2.0)
    optimizer.step()
    norms.end_period(1)
    optimizer.zero_grad()
    optimizer.step()
    norms.end_period(1)
    assert norms.norms == [2.0]


def test_a_step_that_overflowed_adds_nothing():
    """As mixed precision has them, and skips: one of them must not decide all draws to come."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    norms = GradientNorms([[parameter]], optimizer)
    for gradient in ([3.0, 4.0], [float("inf"), 1.0], [float("nan"), 1.0]):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    norms.end_period(1)
    assert norms.norms == [5.0]


@pytest.mark.parametrize("fused", [True, False])
def test_a_loss_scale_does_not_count(fused):
    """GradScaler leaves unscaling to a fused optimizer's kernel, so the hook sees gradients that are still scaled."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter], fused=fused)
    norms = GradientNorms([[parameter]], optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((parameter * torch.tensor([3.0, 4.0])).sum()).backward()
    scaler.step(optimizer)
    norms.end_period(1)
    assert norms.norms == [pytest.approx(5.0)]


def test_norms_of_half_precision_do_not_overflow():
    parameter = nn.Parameter(torch.zeros(4, dtype=torch.float16))
    optimizer = torch.optim.SGD([parameter])
    norms = GradientNorms([[parameter]], optimizer)
    parameter.grad = torch.full_like(parameter, 6e4)
    optimizer.step()
    norms.end_period(1)
    assert norms.norms == [pytest.approx(1.2e5, rel=1e-3)]


def test_every_layer_is_visited_before_any_is_visited_again():
    model = tiny_llama()
    lisa, drawn = make(model, sampler="adaptive"), []
    for period in range(LAYERS // 2):
        train(model, lisa, period * PERIOD, (period + 1) * PERIOD)
        drawn += lisa.active
    assert sorted(drawn) == list(range(LAYERS))


def test_layers_with_larger_gradients_are_drawn_more_often():
    model = tiny_llama()
    lisa, drawn = make(model, gamma=1, sampler="adaptive"), []
    favourite = 2
    for period in range(200):
        lisa.before_step(period * PERIOD)
        drawn.append(lisa.active[0])
        loss_of(model, period).backward()
        if lisa.active == (favourite,):
            for parameter in lisa.unit_parameters[favourite]:
                parameter.grad *= 1e4
        with torch.no_grad():
            lisa.optimizer.step()
        lisa.optimizer.zero_grad()
    assert drawn.count(favourite) > 100  # by its gradient alone nearly always; the exploring tenth goes elsewhere
