"""The simulator against real steps of the same model, and against what the sizes of a model say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

import baselines
from tests.models import suited
from workflow.engine.errors import InputError
from workflow.engine.live_storage import ROLES
from workflow.engine.memory import MemoryMeter
from workflow.engine.models import DTYPES
from workflow.engine.shapes import read_config
from workflow.engine.simulator import Simulation, accelerate_afresh, shortened, simulate
from workflow.engine.training_step import (
    Conditions,
    TrainingStep,
    build_method,
    checkpoint_layers,
    synthetic_window,
)

TRAINING = [name for name in baselines.names() if baselines.method_class(name).trains]


def can_checkpoint(method: str) -> bool:
    return "checkpointing" not in baselines.method_class(method).limits()


SMALL = Conditions(batch_size=2, sequence_length=32, precision="fp32")
LAYERS = 6


def small_config(**changes: object) -> LlamaConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
    return LlamaConfig(**{"vocab_size": 128, "max_position_embeddings": 64, "use_cache": False, **sizes, **changes})


def simulated(method: str, conditions: Conditions = SMALL, **hyperparameters: object) -> Simulation:
    own = {**baselines.method_class(method).small, **hyperparameters}
    return simulate(suited(method, small_config()), method, own, legal(method, conditions))


def legal(method: str, conditions: Conditions) -> Conditions:
    """Without clipping, where the method steps inside backward."""
    return replace(conditions, max_grad_norm=None) if baselines.method_class(method).steps_in_backward else conditions


def real_peak_bytes(method: str, conditions: Conditions, steps: int, **hyperparameters: object) -> int:
    """The ledger's peak over real training steps, all metered, through the same draws."""
    with accelerate_afresh():
        own = {**baselines.method_class(method).small, **hyperparameters}
        return _real_peak_bytes(method, legal(method, conditions), steps, own)


def _real_peak_bytes(method: str, conditions: Conditions, steps: int, hyperparameters: dict[str, object]) -> int:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        suited(method, small_config()),
        dtype=DTYPES[conditions.precision],
        attn_implementation=conditions.attention,
    )
    if conditions.gradient_checkpointing:
        checkpoint_layers(model)
    meter = MemoryMeter("cpu")
    built = build_method(method, shortened(method, hyperparameters), conditions, seed=0)
    step = TrainingStep(model, built, conditions, learning_rate=1e-5, steps=1, meter=meter)
    window = synthetic_window(model.config.vocab_size, conditions, "cpu", seed=0)
    step.calibrate(window)
    with meter.phase("train", step.model, step.optimizer):
        for index in range(max(steps, 4)):
            with meter.step():
                step(index, window)
    return meter.phases["train"].live_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [(name, False) for name in TRAINING] + [(name, True) for name in TRAINING if can_checkpoint(name)],
)
def test_the_peak_is_that_of_real_steps(method: str, precision: str, checkpointing: bool) -> None:
    conditions = replace(SMALL, precision=precision, gradient_checkpointing=checkpointing)
    predicted = simulated(method, conditions)
    assert predicted.peak_bytes == pytest.approx(real_peak_bytes(method, conditions, predicted.steps), rel=0.005)


@pytest.mark.parametrize(
    "changes",
    [
        {"adamw_implementation": "foreach"},
        {"adamw_implementation": "for-loop"},
        {"attention": "eager"},
        {"accumulation_steps": 3},
        {"loss_chunk_tokens": 8},
        {"step_in_backward": True, "max_grad_norm": None},
        {"batch_size": 1, "sequence_length": 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_count_as_in_real_steps(changes: dict[str, object]) -> None:
    conditions = replace(SMALL, **changes)  # type: ignore[arg-type]
    predicted = simulated("full", conditions)
    assert predicted.peak_bytes == pytest.approx(real_peak_bytes("full", conditions, predicted.steps), rel=0.005)


@pytest.mark.parametrize(
    ("method", "hyperparameters"),
    [
        ("lisa", {"sampler": "independent"}),
        ("lisa", {"embeddings": "drawn", "head": "drawn", "gamma": 1}),
        ("badam", {"include_embedding": True, "include_lm_head": True}),
    ],
    ids=["independent", "drawn", "badam"],
)
def test_the_largest_draws_count_where_draws_differ_in_size(method: str, hyperparameters: dict[str, object]) -> None:
    predicted = simulated(method, **hyperparameters)
    real = real_peak_bytes(method, SMALL, predicted.steps, **hyperparameters)
    assert predicted.peak_bytes == pytest.approx(real, rel=0.005)


@pytest.mark.parametrize("method", TRAINING)
def test_components_sum_to_the_peak_and_the_peak_is_the_largest_phase(method: str) -> None:
    made = simulated(method)
    assert tuple(made.components) == ROLES
    assert sum(made.components.values()) == made.peak_bytes == max(made.phases.values())
    assert made.phases[made.phase] == made.peak_bytes
    assert made.operator is not None
    assert made.operator.startswith("aten.")


@pytest.mark.parametrize("method", ["lisa", "badam"])
def test_every_unit_has_trained_before(method: str) -> None:
    made = simulated(method)
    assert made.visited_units == made.drawn_units == LAYERS


def test_state_that_is_kept_is_counted_for_every_layer_ever_visited() -> None:
    kept, full = simulated("lisa", state="keep"), simulated("full")
    assert kept.components["optimizer_state"] == full.components["optimizer_state"]
    assert simulated("lisa").components["optimizer_state"] < 0.7 * full.components["optimizer_state"]


def test_state_that_is_offloaded_is_not_on_the_device() -> None:
    offloaded, dropped = simulated("lisa", state="offload"), simulated("lisa")
    counters = 4 * 9 * LAYERS  # fp32 step numbers of the matrices and norms of every layer stay
    assert 0 < offloaded.peak_bytes - dropped.peak_bytes <= counters


def test_the_length_of_the_period_does_not_matter() -> None:
    assert simulated("galore", update_proj_gap=200).peak_bytes == simulated("galore", update_proj_gap=2).peak_bytes
    assert simulated("lisa", period_steps=50).peak_bytes == simulated("lisa", period_steps=2).peak_bytes


def test_the_draw_that_keeps_most_activations_counts() -> None:
    """BAdam freezes the embeddings: with the first block active, activations of all layers are kept."""
    long = replace(SMALL, batch_size=16)
    first = simulate(small_config(), "badam", {"switch_mode": "ascending"}, long)
    again = simulate(small_config(), "badam", {"switch_mode": "descending"}, long)
    assert first.peak_bytes == again.peak_bytes
    assert first.components["activations"] > 0.8 * simulated("full", long).components["activations"] / 2


def test_more_of_a_batch_takes_more_memory() -> None:
    peaks = [simulated("lora", replace(SMALL, batch_size=size)).peak_bytes for size in (1, 2, 4, 8)]
    assert peaks == sorted(peaks)
    assert len(set(peaks)) == len(peaks)


def test_llama_2_7b_under_full_bf16_fine_tuning_is_eight_bytes_a_parameter() -> None:
    made = simulate(read_config("llama-2-7b"), "full", {}, Conditions())
    assert made.parameters == 6_738_415_616
    assert made.components["weights"] == pytest.approx(2 * made.parameters, rel=1e-4)
    assert made.components["optimizer_state"] == pytest.approx(4 * made.parameters, rel=1e-4)
    assert 8 * made.parameters < made.peak_bytes < 8.1 * made.parameters


def test_operations_follow_the_parameters_that_train() -> None:
    """2 operations a parameter and token forward, 2 for the inputs' gradients, 2 for the weights' that train."""
    wide = small_config(hidden_size=256, intermediate_size=1024, vocab_size=16)
    flops = {name: simulate(wide, name, {}, SMALL, flops=True).flops for name in ("full", "lisa")}
    full, lisa = flops["full"], flops["lisa"]
    assert full is not None and lisa is not None
    assert full["total"] == full["forward"] + full["backward"]
    assert full["backward"] == pytest.approx(2 * full["forward"], rel=0.05)
    assert lisa["forward"] == full["forward"]
    assert lisa["backward"] == pytest.approx(full["backward"] * (1 + 2 / LAYERS) / 2, rel=0.05)


def test_operations_are_those_of_the_mean_draw() -> None:
    """With the embeddings off, backward goes down to the first active layer only."""
    options = {"gamma": 2, "embeddings": "off", "period_steps": 1}
    found = simulate(small_config(), "lisa", options, SMALL, flops=True).flops
    assert found is not None
    with accelerate_afresh():
        model = AutoModelForCausalLM.from_config(small_config())
        method = build_method("lisa", options, SMALL, seed=0)
        step = TrainingStep(model, method, SMALL, learning_rate=0.0, steps=1, meter=MemoryMeter("cpu"))
        window = synthetic_window(model.config.vocab_size, SMALL, "cpu", seed=0)
        counts = []
        for draw in range(60):
            method.before_step(draw)
            counts.append(step.flops(window)["total"])
    assert found["total"] == pytest.approx(sum(counts) / len(counts), rel=0.04)


@pytest.mark.parametrize("family", ["gemma2", "bloom", "mamba"])
def test_models_without_fused_attention_are_refused_in_one_line(family: str) -> None:
    config = AutoConfig.for_model(family, vocab_size=64, hidden_size=32, num_hidden_layers=2)
    with pytest.raises(InputError, match=f"'{family}' models have no sdpa; legal: eager"):
        simulate(config, "full", {}, SMALL)


@pytest.mark.parametrize("family", ["falcon", "opt", "gpt_neox", "qwen3", "phi3", "olmo2"])
def test_other_families_are_simulated(family: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = AutoConfig.for_model(family, **{"vocab_size": 128, "pad_token_id": 0, "num_key_value_heads": 4, **sizes})
    made = simulate(config, "full", {}, SMALL)
    assert made.components["weights"] >= 4 * made.parameters


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_what_accelerate_holds_for_the_process_stands_afterwards(precision: str) -> None:
    with accelerate_afresh():
        mine = Accelerator(mixed_precision="bf16", cpu=True)
        simulated("full", replace(SMALL, precision=precision))
        assert mine.mixed_precision == "bf16"
    with accelerate_afresh():
        simulated("full", replace(SMALL, precision=precision))
        assert not AcceleratorState._shared_state


def test_a_timeline_is_kept_on_request() -> None:
    assert simulated("full").timeline is None
    made = simulate(small_config(), "full", {}, SMALL, timeline=True)
    assert made.timeline is not None
    assert "timeline" not in made.as_json()


def test_simulating_twice_gives_the_same() -> None:
    assert replace(simulated("lisa"), simulated_s=0.0) == replace(simulated("lisa"), simulated_s=0.0)


def test_the_configuration_is_left_alone() -> None:
    config = small_config()
    before = config.to_dict()
    simulate(config, "full", {}, SMALL)
    assert config.to_dict() == before


def test_a_sequence_longer_than_the_sliding_window_needs_a_mask() -> None:
    config, tokens = read_config("mistral-7b"), 1024
    config.num_hidden_layers = 1
    forward = {}
    for config.sliding_window in (tokens // 2, tokens):
        made = simulate(config, "lora", {}, Conditions(sequence_length=tokens))
        forward[config.sliding_window] = made.phases["forward"]
    assert forward[tokens // 2] >= forward[tokens] + tokens * tokens


def test_what_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="gamma"):
        simulated("lisa", gamma=LAYERS + 1)
    with pytest.raises(ValueError, match="Unknown method 'lsa'"):
        simulated("lsa")
