"""BAdam steps as the authors' package does, on one block at a time, and resumes where the package cannot."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path

import badam
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

import baselines
from baselines.badam import block_at
from baselines.contract import AdamWSettings
from tests.engine.small_loop import assert_same_weights, kill_at_step, losses, make_loop
from tests.engine.small_loop import tiny_llama as small_llama
from tests.models import LAYERS, Run, changed, copies, loss_of, start, state_bytes, tiny_gpt2, tiny_llama

PERIOD = 3
CYCLE = LAYERS * PERIOD
LR = 1e-2


def layer_of(names: set[str]) -> int:
    """The one decoder layer that parameters of these names lie in."""
    (layer,) = {int(name.split(".layers.")[1].split(".")[0]) for name in names}
    return layer


def names_of_layer(model: nn.Module, layer: int) -> set[str]:
    return {name for name, _ in model.named_parameters() if f".layers.{layer}." in name}


def bf16_llama(seed: int = 0) -> nn.Module:
    return tiny_llama(seed).to(torch.bfloat16)


def package_optimizer(model: nn.Module, mode: str, settings: AdamWSettings) -> badam.BlockOptimizer:
    """As the package's readme says; AdamW's default decay, which it would put on every weight, is 0 here."""
    base = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, **settings.arguments())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about fp32 weights
        optimizer = badam.BlockOptimizer(base, list(model.named_parameters()), None, PERIOD, switch_mode=mode)
    optimizer.global_step = -1  # it would switch a step early the first time, and never again
    return optimizer


@pytest.mark.parametrize("implementation", ["fused", "foreach", "for-loop"])
@pytest.mark.parametrize("make", [tiny_llama, bf16_llama])
@pytest.mark.parametrize("mode", ["ascending", "descending"])
def test_fifty_steps_equal_the_packages_own_to_the_bit(
    mode: str, make: Callable[[], nn.Module], implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # the package's, at every switch: 0.2 s
    settings = AdamWSettings(beta1=0.8, beta2=0.99, epsilon=1e-7, implementation=implementation)
    run = start("badam", make(), lr=LR, adamw=settings, switch_mode=mode)
    model = make()
    optimizer = package_optimizer(model, mode, settings)
    for step in range(50):
        for group in optimizer.param_groups:
            group["lr"] = LR / (1 + 0.05 * step)  # as the schedule of `start`
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
        run.train(step, step + 1)
        assert changed(run.model, copies(model)) == set()


@pytest.mark.parametrize("mode", ["random", "ascending", "descending"])
def test_exactly_one_layer_changes_in_a_period_and_all_of_them_in_a_cycle(mode: str) -> None:
    run = start("badam", adamw=AdamWSettings(weight_decay=0.1), switch_mode=mode)
    for cycle in range(3):
        seen = []
        for period in range(cycle * LAYERS, (cycle + 1) * LAYERS):
            before = copies(run.model)
            run.train(period * PERIOD, (period + 1) * PERIOD)
            layer = layer_of(changed(run.model, before))
            assert changed(run.model, before) == names_of_layer(run.model, layer)
            seen.append(layer)
        assert sorted(seen) == list(range(LAYERS))
        if mode != "random":
            assert seen == sorted(seen, reverse=mode == "descending")


def test_the_random_order_is_another_one_in_each_cycle_and_for_each_seed() -> None:
    def order(cycle: int, seed: int) -> tuple[int, ...]:
        return tuple(block_at(cycle * 8 + place, 8, "random", seed) for place in range(8))

    orders = {order(cycle, seed) for cycle in range(10) for seed in range(10)}
    assert len(orders) == 100
    assert all(sorted(each) == list(range(8)) for each in orders)


@pytest.mark.parametrize(("make", "tensors"), [(tiny_llama, 2), (bf16_llama, 3)])
def test_state_is_that_of_the_active_block_only(make: Callable[[], nn.Module], tensors: int) -> None:
    """Two moments in fp32, and for weights in bf16 their copy."""
    run = start("badam", make())
    for step in range(2 * CYCLE):
        run.train(step, step + 1)
        held = {name for name, p in run.model.named_parameters() if p in run.optimizer.state}
        assert held == names_of_layer(run.model, layer_of(held))
        parameters = [p for p in run.model.parameters() if p in run.optimizer.state]
        counters = 4 * len(parameters)  # one fp32 number each
        assert state_bytes(run.optimizer) == sum(tensors * 4 * p.numel() for p in parameters) + counters


def test_a_switch_starts_afresh_even_when_the_same_block_comes_again() -> None:
    run = start("badam", tiny_llama(layers=1))
    for step in range(2 * PERIOD):
        run.train(step, step + 1)
        assert {int(state["step"]) for state in run.optimizer.state.values()} == {step % PERIOD + 1}


def test_weights_in_bf16_are_the_fp32_ones_rounded_and_small_updates_add_up() -> None:
    """At this rate no single update would move a weight of bf16."""
    run = start("badam", bf16_llama(), lr=1e-5, switch_every=200)
    run.method.before_step(0)
    before, moved = copies(run.model), 0
    run.train(0, 100)
    for name, parameter in run.model.named_parameters():
        state = run.optimizer.state.get(parameter)
        if state and parameter.ndim == 2:
            assert torch.equal(parameter, state["master"].to(torch.bfloat16))
            assert not torch.equal(parameter.float(), state["master"])
            moved += int((parameter != before[name]).sum())
    assert moved > 0


@pytest.mark.parametrize("mode", ["random", "descending"])
def test_a_bf16_run_resumed_in_the_middle_of_a_period_is_the_uninterrupted_one(mode: str) -> None:
    """The fp32 copies are part of the checkpoint: weights rounded to bf16 would not do."""
    whole = start("badam", bf16_llama(), switch_mode=mode).train(0, CYCLE)
    for stop in (PERIOD, PERIOD + 1, CYCLE - 1):
        checkpoint = start("badam", bf16_llama(), switch_mode=mode).train(0, stop).saved()
        resumed = start("badam", bf16_llama(seed=1), switch_mode=mode).load(checkpoint).train(stop, CYCLE)
        assert resumed.losses == whole.losses[stop:]
        assert changed(resumed.model, copies(whole.model)) == set()


@pytest.mark.parametrize("other", [{"switch_mode": "ascending"}, {"seed": 2}])
def test_a_checkpoint_with_another_order_is_refused(other: dict) -> None:
    checkpoint = start("badam", switch_mode="descending").train(0, 1).saved()
    settings = {"switch_mode": "random", **other}
    with pytest.raises(ValueError, match=rf"block {LAYERS - 1} trains in period 0 \(here \d\)"):
        start("badam", **settings).load(checkpoint)


def units_that_train(run: Run) -> list[set[str]]:
    """What changes in each period of a cycle."""
    changes = []
    for period in range(len(run.method.drawn_parameters())):
        before = copies(run.model)
        run.train(period * PERIOD, (period + 1) * PERIOD)
        changes.append(changed(run.model, before))
    return changes


def test_embeddings_and_head_can_be_blocks_of_their_own() -> None:
    run = start("badam", include_embedding=True, include_lm_head=True, switch_mode="ascending")
    layers = [names_of_layer(run.model, layer) for layer in range(LAYERS)]
    expected = [{"model.embed_tokens.weight"}, *layers, {"lm_head.weight", "model.norm.weight"}]
    assert units_that_train(run) == expected
    everything = sum(p.numel() for p in run.model.parameters())
    assert run.method.trainable_parameters(run.model)["total"] == everything // (LAYERS + 2)


@pytest.mark.parametrize("make", [tiny_gpt2, lambda: tiny_llama(tied=True)])
def test_a_matrix_that_head_and_embedding_share_is_the_embeddings(make: Callable[[], nn.Module]) -> None:
    run = start("badam", make(), include_embedding=True, include_lm_head=True, switch_mode="ascending")
    shared = next(name for name, p in run.model.named_parameters() if p is run.model.get_input_embeddings().weight)
    first, *_, last = units_that_train(run)
    assert shared in first and shared not in last


def test_the_list_of_layers_can_be_named() -> None:
    assert start("badam", layers="model.layers").train(0, 4).losses == start("badam").train(0, 4).losses
    with pytest.raises(ValueError, match="No list of layers at 'model.blocks'"):
        start("badam", layers="model.blocks")


def test_it_steps_on_fake_tensors() -> None:
    """Sizes without numbers, as the simulator has them (which also answers what torch's unfused AdamW reads)."""
    config = tiny_llama().config
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        method = baselines.build("badam", {"switch_every": 1}, AdamWSettings(), 0)
        optimizer = method.optimizer(method.prepare(model), LR)
        for step in range(LAYERS):
            method.before_step(step)
            tokens = torch.zeros((1, 8), dtype=torch.long)
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            block = [p for p in model.parameters() if p.requires_grad]
            assert set(optimizer.state) == set(block)
            held = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
            assert held == 3 * 4 * sum(p.numel() for p in block)


# --- in the training loop, under accelerate


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
def test_the_loop_trains_it(precision: str, tmp_path: Path) -> None:
    model = small_llama().to(torch.bfloat16 if precision == "bf16" else torch.float32)
    everything = {"include_embedding": True, "include_lm_head": True}
    make_loop(tmp_path, "badam", model=model, hyperparameters=everything, steps=60, precision=precision).run()
    shown = losses(tmp_path)
    assert sum(shown[-5:]) < 0.8 * sum(shown[:5])


def test_a_killed_loop_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole", "badam").run()
    kill_at_step(make_loop(tmp_path / "killed", "badam", checkpoint_every_steps=4), 10)
    resumed = make_loop(tmp_path / "killed", "badam", checkpoint_every_steps=4).run()
    assert resumed.resumed_at_step == 8  # in the middle of a period
    assert_same_weights(resumed, whole)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
