"""The contract, on every registered method unasked: a file in `baselines/` is tested here before anyone names it."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import baselines
from baselines.contract import ABILITIES, FAMILIES, AdamWSettings, Method
from lisa import decoder_layers
from tests.models import Run, batch, changed, copies, held_bytes, start, tiny_gpt2, tiny_llama, tiny_qwen
from workflow.engine.abilities import check_abilities
from workflow.engine.errors import InputError
from workflow.engine.training_step import checkpoint_layers

MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "qwen": tiny_qwen}
TRAINING = [name for name in baselines.names() if baselines.method_class(name).trains]
STEPS = 7  # two whole periods of three steps, and one step
DECAY = AdamWSettings(weight_decay=0.1)


def accepts(name: str, kind: str) -> bool:
    """Whether the method trains models of this kind; `test_a_refused_model_is_declared` looks at those it does not."""
    try:
        build(name).check(MODELS[kind]().config.to_dict())
    except ValueError:
        return False
    return True


def build(name: str) -> Method:
    return baselines.build(name, baselines.method_class(name).small, AdamWSettings(), 0)


def able(ability: str) -> list[str]:
    """Methods that train and do not declare that they lack this ability."""
    return [name for name in TRAINING if ability not in baselines.method_class(name).limits()]


def unable(ability: str) -> list[str]:
    return [name for name in TRAINING if name not in able(ability)]


PAIRS = [(name, kind) for name in baselines.names() for kind in MODELS if accepts(name, kind)]
TRAINING_PAIRS = [(name, kind) for name, kind in PAIRS if name in TRAINING]
FIRST = {name: next(kind for pair, kind in PAIRS if pair == name) for name in baselines.names()}  # a model it trains


def begin(name: str, kind: str | None = None, **arguments: Any) -> Run:
    """The method at step 0 on a model that it trains."""
    return start(name, MODELS[kind or FIRST[name]](), **arguments)


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
    assert [line for line in inspect.getsource(inspect.getmodule(method)).splitlines() if "TODO" in line] == []
    assert method.summary and "\n" not in method.summary
    assert method.paper
    assert dataclasses.is_dataclass(method.Hyperparameters)
    with pytest.raises(dataclasses.FrozenInstanceError):
        baselines.hyperparameters(name, {}).anything = 1
    if method.trains:
        assert list(method.learning_rates) == sorted(set(method.learning_rates))
        assert method.default_learning_rate in method.learning_rates


@pytest.mark.parametrize("name", baselines.names())
def test_what_a_method_declares_is_known(name):
    method = baselines.method_class(name)
    assert method.family in FAMILIES
    assert method.implementation and method.state_formula
    assert set(method.limits()) <= set(ABILITIES)
    assert all(method.limits().values())
    baselines.hyperparameters(name, method.small)


@pytest.mark.parametrize(("name", "kind"), sorted({(n, k) for n in baselines.names() for k in MODELS} - set(PAIRS)))
def test_a_refused_model_is_declared_and_refused_by_prepare_too(name, kind):
    assert "models" in baselines.method_class(name).limits()
    with pytest.raises(ValueError) as error:
        build(name).check(MODELS[kind]().config.to_dict())
    with pytest.raises(ValueError) as prepared:
        build(name).prepare(MODELS[kind]())
    assert str(prepared.value) == str(error.value)


@pytest.mark.parametrize("name", unable("models"))
def test_a_method_that_declares_models_refuses_one(name):
    example = baselines.method_class(name).refused_example
    with pytest.raises(ValueError, match=f"(?i){example['model_type']}"):
        build(name).check(example)


@pytest.mark.parametrize(("name", "kind"), TRAINING_PAIRS)
def test_the_loss_falls(name, kind):
    """By a quarter, which guessing alike among all tokens is far from; at a rate that suits the method."""
    method = baselines.method_class(name)
    losses = begin(name, kind, lr=method.small_learning_rate).train(0, method.small_steps).losses
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])


@pytest.mark.parametrize(("name", "kind"), TRAINING_PAIRS)
def test_exactly_the_trainable_parameters_change(name, kind):
    """Over every step; weight decay is on, which must not reach what is frozen."""
    run = begin(name, kind, adamw=DECAY)
    run.train(0, 1)  # LoRA's A has no gradient while B is still zero
    for step in range(1, STEPS):
        before = copies(run.model)
        run.train(step, step + 1)
        assert changed(run.model, before) == trainable(run.model)


@pytest.mark.parametrize(("name", "kind"), TRAINING_PAIRS)
def test_what_trains_is_what_the_family_says(name, kind):
    """Whatever the method sets `requires_grad` to: full, projection and in-backward methods train every parameter,
    block-wise ones every decoder layer in turn, adapters none of the model's own matrices, selective ones some of its
    own and none besides.
    """
    given = dict(MODELS[kind]().named_parameters())
    own = {f"base_model.model.{n}" for n in given} | {n.replace(".weight", ".base_layer.weight") for n in given}
    run = begin(name, kind, lr=baselines.method_class(name).small_learning_rate)
    before = copies(run.model)
    trained = changed(run.train(0, STEPS).model, before)
    family = baselines.method_class(name).family
    if family in ("full", "projection", "in-backward"):
        assert trained == set(given)
    elif family == "block-wise":
        layers = {id(p) for layer in decoder_layers(run.model) for p in layer.parameters()}
        assert layers <= {id(p) for unit in run.method.drawn_parameters() for p in unit}
        assert any(p.requires_grad for unit in run.method.drawn_parameters() for p in unit)
    elif family == "selective":
        assert trained and trained < set(given) == set(before)
    else:
        assert family == "adapters"
        assert trained - own - set(given), "the adapters"
        matrices = {n for n, p in run.model.named_parameters() if p.ndim > 1 and (n in own or n in given)}
        assert not trained & matrices


@pytest.mark.parametrize("name", TRAINING)
def test_the_stated_number_of_parameters_trains(name):
    run = begin(name)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", TRAINING)
def test_a_run_resumed_at_any_step_is_the_uninterrupted_one(name, dtype):
    """Bit for bit, weights and optimizer state, from a checkpoint that loads with `weights_only`."""

    def anew() -> Run:
        return start(name, MODELS[FIRST[name]]().to(dtype), adamw=DECAY)

    whole, checkpoints = anew(), []
    for step in range(STEPS):
        checkpoints.append(whole.saved())
        whole.train(step, step + 1)
    for stop, checkpoint in enumerate(checkpoints):
        torch.manual_seed(1234 + stop)
        resumed = anew().load(checkpoint).train(stop, STEPS)
        assert resumed.losses == whole.losses[stop:]
        assert identical(resumed.states(), whole.states())


@pytest.mark.parametrize("name", TRAINING)
def test_the_same_seed_gives_the_same_run_whatever_else_draws(name):
    torch.manual_seed(1)
    first = begin(name).train(0, STEPS)
    model = MODELS[FIRST[name]]()
    torch.manual_seed(2)
    second = start(name, model).train(0, STEPS)
    assert first.losses == second.losses
    assert identical(first.states(), second.states())


@pytest.mark.parametrize("name", TRAINING)
def test_a_method_leaves_the_global_generator_alone(name):
    model = MODELS[FIRST[name]]()
    state = torch.get_rng_state()
    start(name, model).train(0, STEPS)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_export_is_a_plain_checkpoint_with_the_trained_models_logits(name, kind, tmp_path):
    kind_of, plain = baselines.method_class(name), "plain export" not in baselines.method_class(name).limits()
    if name in TRAINING:
        run = begin(name, kind, lr=kind_of.small_learning_rate).train(0, STEPS)
        method, model = run.method, run.model
    else:
        method = baselines.build(name, {}, AdamWSettings(), 0)
        model = method.prepare(MODELS[kind]())
    trained, before = logits(model), copies(model)
    method.export(model, tmp_path)
    assert changed(model, before) == set(), "exporting must leave the model as it was"
    exported, notes = AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, trust_remote_code=not plain
    )
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    names, base = ({n for n, _ in made.named_parameters()} for made in (exported, MODELS[kind]()))
    assert names == base if plain else names > base
    torch.testing.assert_close(logits(exported), trained, rtol=0, atol=1e-5)
    if name in TRAINING:
        assert (logits(exported) - logits(MODELS[kind]())).abs().max() > 1e-2, "training must show in the export"


@pytest.mark.parametrize("name", TRAINING)
def test_evaluation_sees_the_trained_weights_and_leaves_them(name):
    run = begin(name, lr=1e-2).train(0, STEPS)
    before = copies(run.model)
    with run.method.eval_weights():
        assert math.isfinite(logits(run.model).sum().item())
    assert changed(run.model, before) == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "kind"), TRAINING_PAIRS)
def test_the_state_of_the_optimizer_is_what_the_methods_formula_says(name, kind, dtype):
    run = start(name, MODELS[kind]().to(dtype)).train(0, 4)
    assert held_bytes(run.optimizer) == run.method.state_bytes(run.model)
    assert all(map(math.isfinite, run.losses))


@pytest.mark.parametrize("name", TRAINING)
def test_what_trains_has_the_precision_of_the_model(name):
    """One precision recipe for all methods: adapters are in bf16 too."""
    run = start(name, MODELS[FIRST[name]]().to(torch.bfloat16)).train(0, 1)
    assert {p.dtype for p in run.model.parameters() if p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("name", TRAINING)
def test_the_state_of_the_optimizer_does_not_grow(name):
    """Between steps that hold the same layers it is constant; no method gathers state with time."""
    run = begin(name)
    sizes = []
    for step in range(3 * STEPS):
        run.train(step, step + 1)
        sizes.append(held_bytes(run.optimizer))
    assert sizes == [sizes[0]] * len(sizes)


@pytest.mark.parametrize("name", able("checkpointing"))
def test_gradient_checkpointing_changes_nothing(name):
    plain = begin(name).train(0, 4)
    model = MODELS[FIRST[name]]()
    checkpoint_layers(model)  # before `prepare`, as the training loop does
    run = start(name, model)
    run.model.train()
    assert run.train(0, 4).losses == plain.losses


@pytest.mark.parametrize("name", able("accumulation"))
def test_four_batches_of_one_item_are_one_batch_of_four(name):
    whole, parts = begin(name).train(0, 4), begin(name).train(0, 4, accumulation=4)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "ability", "setting"),
    [
        *((name, "accumulation", {"accumulation_steps": 4}) for name in unable("accumulation")),
        *((name, "clipping", {"max_grad_norm": 1.0}) for name in unable("clipping")),
        *((name, "checkpointing", {"gradient_checkpointing": True}) for name in unable("checkpointing")),
    ],
)
def test_a_setting_that_a_method_cannot_honour_is_refused(name, ability, setting):
    training = {"accumulation_steps": 1, "max_grad_norm": None, "gradient_checkpointing": False, **setting}
    with pytest.raises(InputError, match=next(iter(setting))) as error:
        check_abilities("methods[0]", baselines.method_class(name), training)
    assert baselines.method_class(name).limits()[ability] in str(error.value)


@pytest.mark.parametrize("name", able("full limit"))
def test_at_its_largest_a_method_tends_to_full_fine_tuning(name):
    """Its loss ends within a fifth of the way that full fine-tuning goes, and lower than it does when small."""
    kind, method = FIRST[name], baselines.method_class(name)
    largest = method.full_limit(MODELS[kind]().config.to_dict())

    def reached(name: str, lr: float, **overrides: Any) -> float:
        losses = begin(name, kind, lr=lr, **overrides).train(0, 60).losses
        return sum(losses[-5:]) / 5

    first, least = begin("full", kind).train(0, 1).losses[0], reached("full", 1e-2)
    limit = reached(name, method.small_learning_rate, **largest)
    assert limit < least + 0.2 * (first - least)
    if largest:
        assert limit < reached(name, method.small_learning_rate) or limit <= least


@pytest.mark.parametrize("name", unable("full limit"))
def test_a_method_without_a_full_limit_has_none(name):
    assert baselines.method_class(name).full_limit(tiny_llama().config.to_dict()) is None
