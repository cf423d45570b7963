"""LOMO and AdaLomo against the authors' package, and what is theirs alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines._lomo import AdaLomo, Lomo
from baselines.adalomo import AdaLomoHyperparameters
from baselines.lomo import LOMOHyperparameters
from tests.models import batch, copies, loss_of, start, tiny_llama
from workflow.engine.step_in_backward import StepInBackward

STEPS = 50


@pytest.fixture
def lomo_optim(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The authors' package, whose AdaLomo asks for CUDA."""
    monkeypatch.setattr(Tensor, "cuda", lambda tensor: tensor)
    import lomo_optim

    return lomo_optim


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("ours", "theirs", "lr"), [(Lomo, "Lomo", 0.1), (AdaLomo, "AdaLomo", 0.01)])
def test_fifty_steps_are_the_authors_bit_for_bit(ours, theirs, lr, dtype, decay, lomo_optim):
    """Through the package's own `fused_backward`. Its AdaLomo scales the loss by 2**10, which changes no bit here."""
    models = [tiny_llama(layers=2).to(dtype) for _ in range(2)]
    reference = getattr(lomo_optim, theirs)(models[0], lr=lr, weight_decay=decay)
    optimizer = ours(models[1].parameters(), lr=lr, weight_decay=decay)
    StepInBackward(optimizer)
    for step in range(STEPS):
        rate = lr / (1 + 0.05 * step)
        reference.fused_backward(loss_of(models[0], step), rate)
        optimizer.param_groups[0]["lr"] = rate
        loss_of(models[1], step).backward()
    assert all(map(torch.equal, *(model.parameters() for model in models)))
    assert not all(map(torch.equal, models[1].parameters(), tiny_llama(layers=2).to(dtype).parameters()))


def test_gradients_clipped_by_value_are_the_authors(lomo_optim):
    models = [tiny_llama(layers=1) for _ in range(2)]
    reference = lomo_optim.Lomo(models[0], lr=0.1, clip_grad_value=1e-3)
    StepInBackward(Lomo(models[1].parameters(), lr=0.1, clip_value=1e-3))
    for step in range(3):
        reference.fused_backward(loss_of(models[0], step), 0.1)
        loss_of(models[1], step).backward()
    assert all(map(torch.equal, *(model.parameters() for model in models)))


def test_no_weight_moves_further_than_the_clipped_gradient():
    run = start("lomo", lr=0.5, clip_value=1e-3)
    before = copies(run.model)
    run.train(0, 1)
    moved = max((p - before[name]).abs().max().item() for name, p in run.model.named_parameters())
    assert moved == pytest.approx(0.5e-3, rel=1e-3)


def test_lomo_is_sgd():
    run, model = start("lomo", lr=0.1), tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.train(0, 1)
    loss_of(model, 0).backward()
    optimizer.step()
    assert all(map(torch.equal, run.model.parameters(), model.parameters()))
    assert not run.optimizer.state


def test_adalomos_state_is_a_row_and_a_column():
    run = start("adalomo").train(0, 2)
    weight = run.model.model.layers[0].mlp.up_proj.weight  # (64, 32)
    state = run.optimizer.state[weight]
    assert {name: tuple(value.shape) for name, value in state.items() if name != "step"} == {
        "row": (64,),
        "column": (32,),
    }
    assert state["step"] == 2


def test_the_first_second_moment_is_the_gradients_mean_square():
    """At step 1 beta2 is 0: for a gradient of rank one the update is its sign, at the weights' size times the rate."""
    weight = nn.Parameter(torch.full((4, 6), 2.0))
    gradient = torch.tensor([1.0, -3.0, 2.0, 0.5])[:, None] * torch.tensor([1.0, 2.0, -1.0, 4.0, 1.0, 3.0])
    weight.grad = gradient.clone()
    AdaLomo([weight], lr=0.01).step()
    torch.testing.assert_close(weight.detach(), 2.0 - 0.02 * gradient.sign())


def test_experts_in_one_tensor_are_factored_each_for_itself():
    together, draw = nn.Parameter(torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))), torch.Generator()
    together.grad = torch.randn(3, 4, 6, generator=draw)
    optimizer = AdaLomo([together], lr=0.1)
    optimizer.step()
    state = optimizer.state[together]
    assert (state["row"].shape, state["column"].shape) == ((3, 4), (3, 6))
    alone = nn.Parameter(torch.ones(4, 6))
    alone.grad = together.grad[1].clone()
    single = AdaLomo([alone], lr=0.1)
    single.step()
    for name in ("row", "column"):
        torch.testing.assert_close(state[name][1], single.state[alone][name])


def test_adalomos_state_stays_fp32_in_a_checkpoint_of_a_bf16_model():
    run = start("adalomo", tiny_llama().to(torch.bfloat16)).train(0, 2)
    resumed = start("adalomo", tiny_llama().to(torch.bfloat16)).load(run.saved())
    held = [value for state in resumed.optimizer.state.values() for name, value in state.items() if name != "step"]
    assert held
    assert {value.dtype for value in held} == {torch.float32}
    assert run.train(2, 5).losses[2:] == resumed.train(2, 5).losses


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_gradients_are_gone_when_backward_is_done(name):
    run = start(name)
    before = copies(run.model)
    run.model(input_ids=batch(0), labels=batch(0)).loss.backward()
    assert all(p.grad is None for p in run.model.parameters())
    assert not any(torch.equal(p, before[n]) for n, p in run.model.named_parameters())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: LOMOHyperparameters(clip_value=0.0), "clip_value of LOMO is 0.0; legal: above 0, or null"),
        (lambda: AdaLomoHyperparameters(clip_threshold=0.0), "clip_threshold of AdaLomo is 0.0; legal: above 0"),
        (lambda: AdaLomoHyperparameters(epsilon=-1.0), "epsilon of AdaLomo is -1.0; legal: above 0"),
        (lambda: AdaLomoHyperparameters(decay_rate=0.8), "decay_rate of AdaLomo is 0.8; legal: below 0"),
    ],
)
def test_illegal_hyperparameters_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
