"""The training loop against transformers.Trainer, and its promises: determinism, resume, accumulation, divergence."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

import baselines
from baselines.contract import AdamWSettings
from tests.engine.small_loop import (
    BATCH,
    STEPS,
    assert_same_weights,
    examples,
    kill_at_step,
    losses,
    make_loop,
    tiny_llama,
)
from workflow.engine.data import collate
from workflow.engine.errors import InputError
from workflow.engine.live_storage import tensors_in
from workflow.engine.training import LoopSettings, optimizer_steps, state_bytes
from workflow.engine.training_step import Diverged
from workflow.stages.train import LOOP_KEYS


class InOurOrder(Trainer):
    """transformers.Trainer fed the batches in the order our loop draws them."""

    def _get_train_sampler(self, *_: object) -> object:
        from workflow.engine.data import batch_indices

        batches = batch_indices(len(self.train_dataset), BATCH, seed=0)
        return [index for _ in range(len(self.train_dataset) // BATCH) for index in next(batches)]


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_losses_equal_those_of_transformers_trainer(
    method: str, accumulation: int, schedule: str, tmp_path: Path
) -> None:
    items = examples(STEPS * BATCH * accumulation)
    loop = make_loop(tmp_path, method, items=items, accumulation_steps=accumulation, schedule=schedule)
    loop.run()

    torch.manual_seed(0)
    model = tiny_llama()
    if method == "lora":
        model = baselines.build("lora", baselines.method_class("lora").small, AdamWSettings(), 0).prepare(model)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        learning_rate=5e-3,
        lr_scheduler_type=schedule,
        warmup_steps=3,
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
    )
    trainer = InOurOrder(model, arguments, train_dataset=items, data_collator=lambda rows: collate(rows, 0))
    trainer.train()
    reference = [row for row in trainer.state.log_history if "loss" in row and "grad_norm" in row]
    ours = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in reference], abs=1e-5)
    assert [row["grad_norm"] for row in ours] == pytest.approx([float(row["grad_norm"]) for row in reference], rel=1e-4)
    assert [row["learning_rate"] for row in ours] == pytest.approx(
        [row["learning_rate"] for row in reference], rel=1e-6
    )


@pytest.mark.parametrize("method", [name for name in baselines.names() if baselines.method_class(name).trains])
def test_same_seed_gives_identical_losses(method: str, tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        results.append((make_loop(tmp_path / name, method).run().validation_loss, losses(tmp_path / name)))
    assert results[0] == results[1]


@pytest.mark.parametrize("method", [name for name in baselines.names() if baselines.method_class(name).trains])
def test_killed_and_resumed_equals_uninterrupted(method: str, tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole", method).run()

    kill_at_step(make_loop(tmp_path / "killed", method, checkpoint_every_steps=7), 16)
    resumed = make_loop(tmp_path / "killed", method, checkpoint_every_steps=7).run()

    assert resumed.resumed_at_step == 14
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert resumed.validation_loss == whole.validation_loss
    assert resumed.train_tokens == whole.train_tokens
    assert_same_weights(resumed, whole)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    items = examples(8)  # one window holds all of it, so the order does not matter
    make_loop(tmp_path / "split", items=items, batch_size=2, accumulation_steps=4, steps=6).run()
    make_loop(tmp_path / "whole", items=items, batch_size=8, accumulation_steps=1, steps=6).run()
    assert losses(tmp_path / "split") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_a_loss_that_is_no_number_is_a_divergence(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    with torch.no_grad():
        loop.model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(Diverged, match="at step 0"):
        loop.run()


def test_bf16_and_gradient_checkpointing_train(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, precision="bf16-mixed")
    loop.accelerator.unwrap_model(loop.model).gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    loop.run()
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_stepping_in_backward_refuses_accumulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines.method_class("full"), "steps_in_backward", True)
    with pytest.raises(InputError, match="accumulation_steps: 1"):
        make_loop(tmp_path, accumulation_steps=2)


def test_every_setting_of_the_loop_is_one_of_the_experiment() -> None:
    """A setting that the training stage forgets would silently be its default."""
    assert {field.name for field in fields(LoopSettings)} == {"steps", *LOOP_KEYS}


@pytest.mark.parametrize(
    ("method", "overrides", "dtype"),
    [("full", {}, "fp32"), ("lisa", {"gamma": 1, "always_on_moment_bits": 8}, "fp32+uint8")],
)
def test_the_dtype_of_optimizer_state_is_read_off_the_optimizer(tmp_path: Path, method, overrides, dtype) -> None:
    assert make_loop(tmp_path, method, hyperparameters=overrides, steps=2).run().optimizer_state_dtype == dtype


@pytest.mark.parametrize("method", ["full", "lora", "galore", "lisa"])
def test_the_bytes_of_optimizer_state_are_the_methods_formula_and_the_step_counters(tmp_path: Path, method) -> None:
    loop = make_loop(tmp_path, method, hyperparameters=baselines.method_class(method).small, steps=2)
    measured = loop.run().optimizer_state_bytes
    held = [tensor for tensor in tensors_in(loop.optimizer.state) if tensor.numel() == 1]
    formula = loop.method.state_bytes(loop.training_step.unwrapped())
    assert measured == formula + sum(tensor.nbytes for tensor in held)


def test_storage_of_optimizer_state_counts_once_and_whole() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=1.0)
    buffer = torch.zeros(10)
    optimizer.state[optimizer.param_groups[0]["params"][0]] = {"first": buffer[:4], "all": [buffer, {"again": buffer}]}
    assert state_bytes(optimizer) == buffer.nbytes


def test_epochs_become_optimizer_steps() -> None:
    assert optimizer_steps({"epochs": 2, "batch_size": 4, "accumulation_steps": 2}, items=10) == 3
    assert optimizer_steps({"steps": 7, "batch_size": 4, "accumulation_steps": 2}, items=10) == 7


def test_validation_loss_is_the_mean_over_learned_tokens(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    items = examples(6, seed=1)
    with torch.no_grad():
        total = tokens = 0.0
        for item in items:
            batch = collate([item], 0)
            learned = int((batch["labels"][:, 1:] != -100).sum())
            total += loop.model.eval()(**batch).loss.item() * learned
            tokens += learned
    assert loop.evaluate() == pytest.approx(total / tokens, rel=1e-5)
