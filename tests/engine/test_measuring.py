"""Measured cells: which steps are metered and timed, and that peak, state and FLOPs are those of the training step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

import baselines
from tests.engine.test_live_storage import allocator_trace
from tests.models import suited
from workflow.engine.errors import InputError
from workflow.engine.live_storage import ROLES
from workflow.engine.measuring import Effort, Measurement, Plan
from workflow.engine.memory import MemoryMeter
from workflow.engine.models import random_model
from workflow.engine.training_step import Conditions, TrainingStep, build_method, synthetic_window

CPU = torch.device("cpu")
LAYERS = 4
SHAPE = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 4}
CONFIG = LlamaConfig(num_hidden_layers=LAYERS, max_position_embeddings=64, **SHAPE)
CONDITIONS = Conditions(batch_size=2, sequence_length=48, precision="fp32")
SMALL: dict[str, dict[str, Any]] = {
    **{name: dict(baselines.method_class(name).small) for name in baselines.names()},
    "galore": {"rank": 4, "update_proj_gap": 7},
    "lisa": {"gamma": 1, "period_steps": 5},
}
TRAINING = [name for name in baselines.names() if baselines.method_class(name).trains]


def measurement(
    name: str, effort: Effort | None = None, conditions: Conditions = CONDITIONS, **changes: Any
) -> Measurement:
    if baselines.method_class(name).steps_in_backward:
        conditions = replace(conditions, max_grad_norm=None)
    method = build_method(name, SMALL[name] | changes, conditions, 0)
    effort = effort or Effort(warmup_steps=1, timed_steps=3, max_steps=200)
    return Measurement(suited(name, CONFIG), method, conditions, CPU, effort, learning_rate=1e-4, seed=0)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(index, metered) of every step that is done."""
    seen: list[tuple[int, bool]] = []
    done = Plan.done

    def note(plan: Plan, metered: bool) -> None:
        seen.append((plan.index, metered))
        done(plan, metered)

    monkeypatch.setattr(Plan, "done", note)
    return seen


# --- which steps


def test_without_a_period_the_first_two_steps_are_metered_and_the_rest_timed(steps):
    cell = measurement("full", Effort(warmup_steps=3, timed_steps=4, max_steps=50))
    cell.run()
    assert steps == [(index, index < 2) for index in range(3 + 4)]
    assert cell.parts()["time"]["timed_steps"] == 4
    assert cell.parts()["memory"]["metered_steps"] == 2


def test_every_drawn_unit_is_metered_with_its_state_there(steps):
    cell = measurement("lisa")
    cell.run()
    settings = cell.settings()
    assert settings["visited_units"] == settings["drawn_units"] == LAYERS and settings["periodic_cost_seen"]
    metered = [index for index, metered in steps if metered]
    periods = range(metered[-1] // 5 + 1)
    assert metered == [index for period in periods for index in (5 * period, 5 * period + 1)]
    assert len(periods) > LAYERS / SMALL["lisa"]["gamma"] - 1


def test_what_is_left_of_a_period_is_passed_over_once_enough_is_timed(steps):
    measurement("lisa").run()
    first, later = [index for index, _ in steps if index < 5], [index for index, _ in steps if index >= 5]
    assert first == [0, 1, 2, 3, 4]
    assert {index % 5 for index in later} == {0, 1}


def test_a_method_that_redraws_every_step_is_timed_after_all_units_trained(steps):
    cell = measurement("lisa", period_steps=1)
    cell.run()
    flags = [metered for _, metered in steps]
    assert flags == sorted(flags, reverse=True) and flags.count(False) == 3
    assert cell.settings()["visited_units"] == LAYERS


def test_the_periodic_cost_is_metered_while_state_exists_and_never_timed(steps):
    cell = measurement("galore")
    cell.run()
    assert [index for index, metered in steps if metered] == [0, 1, 7]
    assert cell.settings()["periodic_cost_seen"]
    assert cell.parts()["time"]["periodic_step_s"] > 0
    assert cell.parts()["time"]["timed_steps"] == 5


def test_what_max_steps_cuts_off_is_said(capsys: pytest.CaptureFixture[str]):
    cell = measurement("lisa", Effort(warmup_steps=0, timed_steps=2, max_steps=4))
    cell.run()
    settings, time = cell.settings(), cell.parts()["time"]
    assert settings["visited_units"] == 1 and not settings["periodic_cost_seen"] and time["timed_steps"] == 2
    told = capsys.readouterr().err
    assert "max_steps: 4 were done, 1 of 4 drawn units had trained and the cost of period 5 had not come" in told


def test_the_last_steps_are_kept_for_timing():
    cell = measurement("lisa", Effort(warmup_steps=1, timed_steps=3, max_steps=5), period_steps=1)
    cell.run()
    assert cell.parts()["time"]["timed_steps"] == 3 and cell.parts()["memory"]["metered_steps"] == 2


def test_an_effort_that_leaves_nothing_to_time_is_refused():
    with pytest.raises(InputError, match=r"measure.max_steps: 8 is too few .* legal: 13 or more"):
        Effort(warmup_steps=3, timed_steps=10, max_steps=8)


# --- what is measured


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_is_the_allocators(precision: str, checkpointing: bool):
    """An independent trace of the same step: what exists before it plus the rise that the profiler sees."""
    conditions = Conditions(batch_size=2, sequence_length=48, precision=precision, gradient_checkpointing=checkpointing)
    cell = measurement("full", conditions=conditions)
    cell.run()

    model = random_model(CONFIG, precision=precision, attention="sdpa", device=CPU)
    if checkpointing:
        kept = {"use_reentrant": False, "preserve_rng_state": False}  # generator states: no operator makes them
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kept)
    meter = MemoryMeter("cpu")
    step = TrainingStep(
        model, build_method("full", {}, conditions, 0), conditions, learning_rate=1e-4, steps=9, meter=meter
    )
    window = synthetic_window(256, conditions, CPU, 0)

    def train(index: int) -> None:
        with meter.phase("train"):
            step(index, window)

    train(0)
    held = [*model.parameters(), *model.buffers(), *window[0].values()]
    held += [tensor for state in step.optimizer.state.values() for tensor in state.values()]
    before = sum(tensor.untyped_storage().nbytes() for tensor in {t.data_ptr(): t for t in held}.values())
    rise, left = allocator_trace(lambda: train(1))
    assert left == 0
    assert cell.parts()["memory"]["allocated_peak_bytes"] == pytest.approx(before + rise, rel=0.001)


def test_state_that_is_kept_is_that_of_every_unit_in_the_end():
    cell = measurement("lisa", state="keep")
    cell.run()
    components, weights = cell.parts()["memory"]["components"], 4 * cell.parameters
    assert 2 * weights <= components["optimizer_state"] < 2 * weights + 1024  # two moments, and step counters


@pytest.mark.parametrize("name", TRAINING)
def test_the_record_of_every_method_is_whole(name: str):
    cell = measurement(name)
    cell.run()
    parts = cell.parts()
    assert cell.phase is None
    assert list(parts["memory"]["components"]) == list(ROLES)
    assert sum(parts["memory"]["components"].values()) == parts["memory"]["allocated_peak_bytes"]
    step = set() if cell.method.steps_in_backward else {"step"}
    assert parts["memory"]["phases"].keys() == {"load", "train", "forward", "backward"} | step
    assert parts["throughput"]["tokens_per_s"] == parts["throughput"]["padded_tokens_per_s"] > 0
    assert max(moment.total for moment in cell.timeline.moments()) <= parts["memory"]["allocated_peak_bytes"]
    dtypes = cell.settings()["optimizer_state_dtype"]
    assert dtypes == {"lomo": None, "full_8bit": "fp32+uint8"}.get(name, "fp32")


def test_flops_are_those_of_the_shapes_and_freezing_layers_saves_their_weight_gradients():
    full, lisa = measurement("full"), measurement("lisa")
    full.run()
    lisa.run()
    tokens, width, wide = 2 * 48, SHAPE["hidden_size"], SHAPE["intermediate_size"]
    layer = 4 * width**2 + 3 * width * wide
    linear = 2 * tokens * (LAYERS * layer + width * SHAPE["vocab_size"])  # forward of all matrices, the embedding aside
    attention = LAYERS * 2 * 4 * 48 * 48 * width  # scores and values, forward, of two sequences
    assert full.flops == 3 * linear + attention * 7 // 2  # backward: five products for two
    assert full.flops - lisa.flops == 2 * tokens * (LAYERS - 1) * layer


def test_accumulation_counts_the_tokens_of_the_whole_window():
    conditions = Conditions(batch_size=1, sequence_length=32, accumulation_steps=3, precision="fp32")
    cell = measurement("full", conditions=conditions)
    cell.run()
    parts = cell.parts()
    assert cell.tokens == 3 * 32
    timed = [step.unpadded_tokens for step in cell.clock.timed]
    assert timed == [96] * parts["time"]["timed_steps"]


def test_an_error_leaves_what_was_known(monkeypatch: pytest.MonkeyPatch):
    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(TrainingStep, "__call__", run_out)
    cell = measurement("full")
    with pytest.raises(torch.OutOfMemoryError):
        cell.run()
    parts = cell.parts()
    assert parts["phase"] == "train"
    assert 0 <= parts["memory"]["phases"]["load"] - 4 * cell.parameters < 1024  # buffers
    assert parts["time"]["step_median_s"] is None and parts["steps"] == 0
