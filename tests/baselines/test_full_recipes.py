"""Full fine-tuning with fp32 masters and with 8-bit moments: what each adds to AdamW, and what it leaves alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import baselines
from baselines.contract import AdamWSettings, parameter_groups
from tests.models import changed, copies, held_bytes, loss_of, start, tiny_gpt2, tiny_llama
from workflow.engine.shapes import read_config
from workflow.engine.simulator import simulate
from workflow.engine.training_step import Conditions


@pytest.fixture(autouse=True)
def the_package_remembers_nothing() -> Iterator[None]:
    """Its manager lives as long as the process: what other tests' trainers asked of it is not for these."""
    bitsandbytes.optim.GlobalOptimManager.get_instance().initialize()
    yield
    bitsandbytes.optim.GlobalOptimManager.get_instance().initialize()


DECAY = 0.1
IMPLEMENTATIONS = ("fused", "foreach", "for-loop")


def bf16_llama() -> nn.Module:
    return tiny_llama().to(torch.bfloat16)


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


# --- fp32 masters


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_on_fp32_weights_masters_are_full_fine_tuning_to_the_bit(implementation: str) -> None:
    settings = AdamWSettings(weight_decay=DECAY, implementation=implementation)
    full, masters = (start(name, adamw=settings).train(0, 10) for name in ("full", "full_fp32_master"))
    assert masters.losses == full.losses
    assert changed(masters.model, copies(full.model)) == set()


def moved(name: str) -> tuple[int, int]:
    """How many of the larger weights of bf16 are others after 30 steps at a small rate, and how many there are."""
    run = start(name, bf16_llama(), lr=5e-5)
    before = copies(run.model)
    run.train(0, 30)
    large = {key: weight.abs() > 0.05 for key, weight in before.items() if weight.ndim == 2}
    now = dict(run.model.named_parameters())
    return sum(int((now[k] != before[k])[m].sum()) for k, m in large.items()), sum(int(m.sum()) for m in large.values())


def test_updates_too_small_for_bf16_add_up_in_the_masters_and_are_lost_without() -> None:
    assert moved("full")[0] == 0
    changed_weights, weights = moved("full_fp32_master")
    assert changed_weights > 0.2 * weights


def test_weights_of_bf16_are_their_masters_rounded() -> None:
    run = start("full_fp32_master", bf16_llama()).train(0, 5)
    for parameter in run.model.parameters():
        master = run.optimizer.state[parameter]["master"]
        assert torch.equal(parameter, master.to(torch.bfloat16))
    assert any(not torch.equal(p.float(), run.optimizer.state[p]["master"]) for p in run.model.parameters())


@pytest.mark.parametrize(("make", "bytes_each"), [(tiny_llama, 8), (bf16_llama, 12)])
def test_the_state_of_masters_is_8_bytes_a_parameter_and_12_for_weights_of_bf16(make: Any, bytes_each: int) -> None:
    run = start("full_fp32_master", make()).train(0, 1)
    assert held_bytes(run.optimizer) == bytes_each * sum(p.numel() for p in run.model.parameters())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_masters_step_by_the_implementation_that_is_asked_for(implementation: str) -> None:
    run = start("full_fp32_master", bf16_llama(), adamw=AdamWSettings(implementation=implementation))
    loss_of(run.model, 0).backward()
    with Operators() as operators:
        run.optimizer.step()
    assert any("_fused_adamw" in name for name in operators.seen) == (implementation == "fused")
    assert any("_foreach_lerp" in name for name in operators.seen) == (implementation == "foreach")


@pytest.mark.parametrize(("in_backward", "bytes_each"), [(False, 16), (True, 14)])
def test_a_model_of_bf16_takes_16_bytes_a_parameter_or_14_with_the_step_in_backward(
    in_backward: bool, bytes_each: int
) -> None:
    """All gradients in fp32 would be 2 to 4 more."""
    config = read_config("llama-2-7b")
    config.num_hidden_layers = 2
    conditions = Conditions(sequence_length=64, max_grad_norm=None, step_in_backward=in_backward)
    made = simulate(config, "full_fp32_master", {}, conditions)
    largest = config.vocab_size * config.hidden_size
    assert bytes_each * made.parameters < made.peak_bytes < bytes_each * made.parameters + 2 * 4 * largest


# --- 8-bit moments


@pytest.fixture(params=[tiny_llama, bf16_llama, tiny_gpt2], ids=["fp32", "bf16", "gpt2"])
def model_maker(request: pytest.FixtureRequest) -> Iterator[Any]:
    return request.param


def test_8_bit_moments_are_the_packages_own_step_to_the_bit(model_maker: Any) -> None:
    run = start("full_8bit", model_maker(), adamw=AdamWSettings(weight_decay=DECAY))
    model = model_maker()
    groups = parameter_groups(model.named_parameters(), DECAY)
    optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=3e-3, min_8bit_size=256)
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 / (1 + 0.05 * step)  # as the schedule of `start`
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert changed(run.train(0, 10).model, copies(model)) == set()


def test_8_bit_moments_train_nearly_as_32_bit_ones() -> None:
    full, eight = (start(name, lr=1e-2).train(0, 30).losses for name in ("full", "full_8bit"))
    assert eight != full
    assert sum(eight[-5:]) == pytest.approx(sum(full[-5:]), rel=0.1)


def test_moments_of_small_tensors_stay_in_fp32() -> None:
    run = start("full_8bit", min_8bit_size=2048).train(0, 1)
    dtypes = {p: run.optimizer.state[p]["state1"].dtype for p in run.model.parameters()}
    assert set(dtypes.values()) == {torch.uint8, torch.float32}
    assert all((dtype == torch.uint8) == (p.numel() >= 2048) for p, dtype in dtypes.items())


def test_at_7bs_shape_8_bit_moments_are_half_of_those_in_bf16_and_a_little_more() -> None:
    config = read_config("llama-2-7b")
    config.num_hidden_layers = 1
    full, eight = (simulate(config, name, {}, Conditions()) for name in ("full", "full_8bit"))
    ratio = eight.components["optimizer_state"] / full.components["optimizer_state"]
    assert ratio == pytest.approx((2 + 1 / 32) / 4, rel=1e-3)


def test_a_resumed_run_holds_no_more_than_the_uninterrupted_one() -> None:
    """The tables of 8-bit values stay shared by all parameters."""
    run = start("full_8bit").train(0, 2)
    resumed = start("full_8bit").load(run.saved()).train(2, 4)
    assert held_bytes(resumed.optimizer) == resumed.method.state_bytes(resumed.model)


def test_what_others_in_the_process_asked_of_the_package_does_not_count() -> None:
    """transformers' Trainer asks it for 32 bits for its embedding, and it remembers that by the place in the list."""
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    other = nn.Embedding(32, 32)
    GlobalOptimManager.get_instance().register_module_override(other, "weight", {"optim_bits": 32})
    theirs = AdamW8bit(other.parameters())
    other(torch.arange(32)).sum().backward()
    theirs.step()
    assert (0, 0) in GlobalOptimManager.get_instance().index2config
    run = start("full_8bit").train(0, 2)
    assert held_bytes(run.optimizer) == run.method.state_bytes(run.model)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="min_8bit_size of full_8bit is -1; legal: at least 0"):
        baselines.hyperparameters("full_8bit", {"min_8bit_size": -1})


@pytest.mark.parametrize("name", ["full_8bit", "qlora"])
def test_without_the_package_check_and_prepare_say_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    method = baselines.build(name, {}, AdamWSettings(), 0)
    told = f"{name} needs the package bitsandbytes, which is not installed: pip install bitsandbytes"
    with pytest.raises(ValueError, match=told):
        method.check(tiny_llama().config.to_dict())
    with pytest.raises(ValueError, match=told):
        method.prepare(tiny_llama())


@pytest.mark.parametrize("name", ["full_8bit", "qlora"])
def test_check_does_not_import_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_llama().config.to_dict()
    monkeypatch.delitem(sys.modules, "bitsandbytes")
    baselines.build(name, {}, AdamWSettings(), 0).check(config)
    assert "bitsandbytes" not in sys.modules
