"""A step inside backward is the ordinary step, with less memory; what it cannot do is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import baselines
from tests.engine.small_loop import STEPS, assert_same_weights, kill_at_step, losses, make_loop
from tests.models import loss_of, tiny_gpt2
from tests.workflow.experiments import changed
from workflow.engine.data import Example
from workflow.engine.errors import InputError
from workflow.engine.live_storage import LiveStorage
from workflow.engine.step_in_backward import StepInBackward
from workflow.engine.training import Loop
from workflow.engine.training_step import Diverged
from workflow.experiment import resolve

METHODS = [name for name in baselines.names() if baselines.method_class(name).trains]


def run_both(folder: Path, *arguments: Any, **changes: Any) -> list[Loop]:
    """The ordinary loop and the one that steps in backward, each run to its end, with the same results."""
    loops = []
    for name, stepping in (("ordinary", False), ("stepping", True)):
        loop = make_loop(folder / name, *arguments, max_grad_norm=None, step_in_backward=stepping, **changes)
        loop.result = loop.run()  # type: ignore[attr-defined]
        loops.append(loop)
    return loops


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_alike(folder: Path, ordinary: Any, stepping: Any) -> None:
    assert losses(folder / "stepping") == losses(folder / "ordinary")
    assert_same_weights(stepping.result, ordinary.result)
    assert stepping.result.validation_loss == ordinary.result.validation_loss


@pytest.mark.parametrize("adamw", ["for-loop", "fused", "foreach"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_in_the_same_weights_bit_for_bit(method: str, adamw: str, tmp_path: Path) -> None:
    ordinary, stepping = run_both(tmp_path, method, adamw=adamw)
    assert_alike(tmp_path, ordinary, stepping)
    rows = log(tmp_path / "stepping")
    assert len({row["learning_rate"] for row in rows}) > STEPS / 2  # the schedule reached the step
    norms = [row["grad_norm"] for row in rows]
    assert norms == pytest.approx([row["grad_norm"] for row in log(tmp_path / "ordinary")], rel=1e-6)
    assert all(norm > 0 for norm in norms)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "adaptive"},
        {"state": "reset"},
        {"state": "offload"},
        {"embeddings": "drawn", "head": "drawn", "norm": "off"},
        {"always_on_moment_bits": 8},
    ],
    ids=str,
)
def test_every_kind_of_lisa_too(options: dict[str, Any], tmp_path: Path) -> None:
    assert_alike(tmp_path, *run_both(tmp_path, "lisa", hyperparameters=options))


def test_tied_weights_and_checkpointed_activations(tmp_path: Path) -> None:
    loops = []
    for name, stepping in (("ordinary", False), ("stepping", True)):
        model = tiny_gpt2()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loop: Any = make_loop(
            tmp_path / name,
            model=resized(model),
            max_grad_norm=None,
            step_in_backward=stepping,
            loss_chunk_tokens=5,
        )
        loop.result = loop.run()
        loops.append(loop)
    assert_alike(tmp_path, *loops)
    state = loops[1].optimizer.state
    tied = loops[1].accelerator.unwrap_model(loops[1].model).transformer.wte.weight
    assert {int(values["step"]) for values in state.values()} == {STEPS}
    assert tied in state


def resized(model: Any) -> nn.Module:
    """With the vocabulary of the loop's examples."""
    torch.manual_seed(0)
    model.resize_token_embeddings(64)
    return model


def test_mixed_precision_ends_in_the_same_weights(tmp_path: Path) -> None:
    assert_alike(tmp_path, *run_both(tmp_path, precision="bf16-mixed"))


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_equals_uninterrupted(method: str, tmp_path: Path) -> None:
    common = {"max_grad_norm": None, "step_in_backward": True, "checkpoint_every_steps": 7}
    whole = make_loop(tmp_path / "whole", method, **common).run()
    kill_at_step(make_loop(tmp_path / "killed", method, **common), 16)
    resumed = make_loop(tmp_path / "killed", method, **common).run()
    assert resumed.resumed_at_step == 14
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert_same_weights(resumed, whole)


def test_flops_are_counted_without_a_step(tmp_path: Path) -> None:
    ordinary, stepping = run_both(tmp_path, steps=4)
    assert stepping.result.flops_per_step == ordinary.result.flops_per_step > 0
    weights = list(stepping.model.parameters())
    before = [p.detach().clone() for p in weights]
    stepping._count_flops()
    assert all(torch.equal(p, old) for p, old in zip(weights, before, strict=True))
    assert all(p.grad is None for p in weights)


def test_gradients_never_all_exist(tmp_path: Path) -> None:
    """For a row of two tokens activations are next to nothing."""
    peaks, biggest = {}, 0
    for name, stepping in (("ordinary", False), ("stepping", True)):
        loop = make_loop(
            tmp_path / name, items=[Example([1, 2], [1, 2])] * 8, max_grad_norm=None, step_in_backward=stepping
        )
        biggest = max(p.nbytes for p in loop.model.parameters())
        window = [loop._batch([0])]
        with loop.meter.phase("train"):
            loop.training_step(0, window)  # the optimizer's state exists from here on
            with LiveStorage("cpu") as ledger:
                ledger.watch(loop.model, loop.optimizer)
                ledger.reset_peak()
                loop.training_step(1, window)
        peaks[name] = ledger.peak_by_role
    gradients = sum(p.nbytes for p in loop.model.parameters())
    assert peaks["ordinary"]["gradients"] == gradients
    assert peaks["stepping"]["gradients"] <= biggest < gradients / 4
    assert sum(peaks["stepping"].values()) < sum(peaks["ordinary"].values()) - gradients / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_gradients_norm_is_that_of_all_gradients_of_the_last_backward(dtype: torch.dtype) -> None:
    models = [tiny_gpt2().to(dtype) for _ in range(2)]  # with a tied matrix
    stepper = StepInBackward(torch.optim.SGD(models[0].parameters(), lr=0.0))
    assert stepper.gradient_norm() == 0.0
    for step in range(3):
        for model in models:
            model.zero_grad()
            loss_of(model, step).backward()
        gradients = [p.grad.double().flatten() for p in models[1].parameters()]
        assert stepper.gradient_norm() == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-6)
    with stepper.discarding():
        loss_of(models[0], 3).backward()
    assert stepper.gradient_norm() == 0.0


def test_a_gradient_that_is_no_number_ends_the_run_though_the_weights_have_changed(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, max_grad_norm=None, step_in_backward=True)
    weight = loop.model.model.layers[1].mlp.up_proj.weight
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(Diverged, match=r"^loss \d.*gradient norm nan at step 0"):
        loop.run()
    assert weight.isnan().all()
    assert not log(tmp_path)


def test_a_loss_that_is_no_number_leaves_the_weights_alone(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, max_grad_norm=None, step_in_backward=True)
    with torch.no_grad():
        loop.model.lm_head.weight.fill_(float("inf"))
    before = [p.detach().clone() for p in loop.model.parameters()]
    with pytest.raises(Diverged, match="at step 0"):
        loop.run()
    assert all(torch.equal(p, old) for p, old in zip(loop.model.parameters(), before, strict=True))
    assert not loop.optimizer.state


# --- any optimizer


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01),
    "Adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_keep_their_own_rates_and_the_schedule_its_groups(name: str) -> None:
    weights = []
    for stepping in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.003}]
        optimizer = OPTIMIZERS[name](groups)
        held = optimizer.param_groups
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        if stepping:
            StepInBackward(optimizer)
        for step in range(5):
            model(torch.full((3, 4), float(step))).square().sum().backward()
            if not stepping:
                optimizer.step()
                optimizer.zero_grad()
            schedule.step()
        assert optimizer.param_groups is held
        assert all(p.grad is None for p in model.parameters())
        weights.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_what_is_frozen_when_the_hooks_are_made_trains_when_it_is_not() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.weight.requires_grad_(False)
    StepInBackward(optimizer)
    assert not model.weight.requires_grad
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    assert torch.equal(model.weight, before)
    model.weight.requires_grad_(True)
    model(torch.ones(1, 2)).sum().backward()
    assert torch.allclose(model.weight, before - 0.1)


def test_an_error_in_the_step_leaves_the_groups_whole() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    StepInBackward(optimizer)

    def fail(*_: Any) -> None:
        raise RuntimeError("no step today")

    optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no step today"):
        model(torch.ones(1, 2)).sum().backward()
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


# --- what is refused


@pytest.mark.parametrize("changes", [{"accumulation_steps": 2, "max_grad_norm": None}, {"max_grad_norm": 0.5}])
def test_the_loop_refuses_what_needs_all_gradients(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"legal: accumulation_steps: 1 and max_grad_norm: null") as raised:
        make_loop(tmp_path, step_in_backward=True, **changes)
    assert f"accumulation_steps is {changes.get('accumulation_steps', 1)} " in str(raised.value)
    assert f"max_grad_norm {changes['max_grad_norm'] or 'null'};" in str(raised.value)


def test_an_experiment_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^training\.step_in_backward: .* max_grad_norm 1\.0; legal:"):
        resolve(changed("training.step_in_backward", True))
    legal = changed("training.step_in_backward", True)
    legal["training"]["max_grad_norm"] = None
    assert resolve(legal)["training"]["step_in_backward"]

    monkeypatch.setattr(baselines.method_class("lisa"), "steps_in_backward", True)
    with pytest.raises(InputError, match=r"^methods\[1\] \(lisa\): training\.max_grad_norm is 1\.0; legal: null"):
        resolve(changed("training.steps", 4))


def test_a_method_defined_by_it_steps_without_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = make_loop(tmp_path / "ordinary", max_grad_norm=None).run()
    monkeypatch.setattr(baselines.method_class("full"), "steps_in_backward", True)
    loop = make_loop(tmp_path / "stepping", max_grad_norm=None)
    assert_same_weights(loop.run(), ordinary)
    assert loop.training_step.stepper is not None
