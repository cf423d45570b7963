"""The contract, on every registered method unasked: a file in `baselines/` is tested here before anyone names it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import baselines
from baselines.contract import AdamWSettings
from tests.models import batch, changed, copies, start, state_bytes, tiny_gpt2, tiny_llama

TRAINING = [name for name in baselines.names() if baselines.method_class(name).trains]
MODELS = {"llama": tiny_llama, "tied llama": lambda: tiny_llama(tied=True), "gpt2": tiny_gpt2}
STEPS = 7  # two whole periods of LISA's and GaLore's, and one step
DECAY = AdamWSettings(weight_decay=0.1)


def logits(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=batch(99)).logits  # (4, 12, vocabulary)


def trainable(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def identical(a: Any, b: Any) -> bool:
    """Equal to the bit, all the way down."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", baselines.names())
def test_a_method_says_what_it_is(name):
    method = baselines.method_class(name)
    assert method.summary and "\n" not in method.summary
    assert method.paper
    assert dataclasses.is_dataclass(method.Hyperparameters)
    with pytest.raises(dataclasses.FrozenInstanceError):
        baselines.hyperparameters(name, {}).anything = 1
    if method.trains:
        assert list(method.learning_rates) == sorted(set(method.learning_rates))
        assert method.default_learning_rate in method.learning_rates


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", TRAINING)
def test_the_loss_falls(name, kind):
    losses = start(name, MODELS[kind](), lr=1e-2).train(0, 30).losses
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", TRAINING)
def test_exactly_the_trainable_parameters_change(name, kind):
    """Over every step; weight decay is on, which must not reach what is frozen."""
    run = start(name, MODELS[kind](), adamw=DECAY)
    run.train(0, 1)  # LoRA's A has no gradient while B is still zero
    for step in range(1, STEPS):
        before = copies(run.model)
        run.train(step, step + 1)
        assert changed(run.model, before) == trainable(run.model)


@pytest.mark.parametrize("name", TRAINING)
def test_the_stated_number_of_parameters_trains(name):
    run = start(name)
    stated = run.method.trainable_parameters(run.model)
    assert stated["total"] == stated["always"] + stated["sampled"] > 0
    for step in range(STEPS):
        run.train(step, step + 1)
        assert sum(p.numel() for p in run.model.parameters() if p.requires_grad) == stated["total"]
        assert run.method.trainable_parameters(run.model) == stated


def test_vanilla_trains_nothing():
    run_method = baselines.build("vanilla", {}, AdamWSettings(), 0)
    model = run_method.prepare(tiny_llama())
    assert run_method.trainable_parameters(model) == {"always": 0, "sampled": 0, "total": 0}
    with pytest.raises(ValueError, match="does not train"):
        run_method.optimizer(model, 1e-3)


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_resumed_at_any_step_is_the_uninterrupted_one(name):
    """Bit for bit, weights and optimizer state, from a checkpoint that loads with `weights_only`."""
    whole, checkpoints = start(name, adamw=DECAY), []
    for step in range(STEPS):
        checkpoints.append(whole.saved())
        whole.train(step, step + 1)
    for stop, checkpoint in enumerate(checkpoints):
        torch.manual_seed(1234 + stop)
        resumed = start(name, tiny_llama(seed=1), adamw=DECAY).load(checkpoint).train(stop, STEPS)
        assert resumed.losses == whole.losses[stop:]
        assert identical(resumed.states(), whole.states())


@pytest.mark.parametrize("name", TRAINING)
def test_the_same_seed_gives_the_same_run_whatever_else_draws(name):
    torch.manual_seed(1)
    first = start(name, tiny_llama()).train(0, STEPS)
    model = tiny_llama()
    torch.manual_seed(2)
    second = start(name, model).train(0, STEPS)
    assert first.losses == second.losses
    assert identical(first.states(), second.states())


@pytest.mark.parametrize("name", TRAINING)
def test_a_method_leaves_the_global_generator_alone(name):
    model = tiny_llama()
    state = torch.get_rng_state()
    start(name, model).train(0, STEPS)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", baselines.names())
def test_the_export_is_a_plain_checkpoint_with_the_trained_models_logits(name, kind, tmp_path):
    if name in TRAINING:
        run = start(name, MODELS[kind](), lr=1e-2).train(0, STEPS)
        method, model = run.method, run.model
    else:
        method = baselines.build(name, {}, AdamWSettings(), 0)
        model = method.prepare(MODELS[kind]())
    trained, before = logits(model), copies(model)
    method.export(model, tmp_path)
    assert changed(model, before) == set(), "exporting must leave the model as it was"
    exported, notes = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {n for n, _ in exported.named_parameters()} == {n for n, _ in MODELS[kind]().named_parameters()}
    torch.testing.assert_close(logits(exported), trained, rtol=0, atol=1e-5)
    if name in TRAINING:
        assert (logits(exported) - logits(MODELS[kind]())).abs().max() > 1e-2, "training must show in the export"


@pytest.mark.parametrize("name", TRAINING)
def test_evaluation_sees_the_trained_weights_and_leaves_them(name):
    run = start(name, lr=1e-2).train(0, STEPS)
    before = copies(run.model)
    with run.method.eval_weights():
        assert math.isfinite(logits(run.model).sum().item())
    assert changed(run.model, before) == set()


@pytest.mark.parametrize("name", TRAINING)
def test_bf16_stays_bf16(name):
    """Weights, gradients' moments and adapters: one precision recipe for all methods that do not bring their own."""
    run = start(name, tiny_llama().to(torch.bfloat16)).train(0, 4)
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}
    states = run.optimizer.state_dict()["state"].values()
    expected = torch.float32 if run.method.fp32_state else torch.bfloat16
    assert {t.dtype for s in states for t in s.values() if torch.is_tensor(t) and t.ndim} == {expected}
    assert all(map(math.isfinite, run.losses))


@pytest.mark.parametrize("name", TRAINING)
def test_the_state_of_the_optimizer_does_not_grow(name):
    """Between steps that hold the same layers it is constant; no method gathers state with time."""
    run = start(name)
    sizes = []
    for step in range(3 * STEPS):
        run.train(step, step + 1)
        sizes.append(state_bytes(run.optimizer))
    assert sizes == [sizes[0]] * len(sizes)


@pytest.mark.parametrize("name", TRAINING)
def test_gradient_checkpointing_changes_nothing(name):
    plain = start(name).train(0, 4)
    run = start(name)
    run.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    run.model.train()
    assert run.train(0, 4).losses == plain.losses


@pytest.mark.parametrize("name", baselines.names())
def test_check_accepts_the_models_it_trains(name):
    method = start(name).method if name in TRAINING else baselines.build(name, {}, AdamWSettings(), 0)
    for kind in MODELS.values():
        method.check(kind().config.to_dict())
