"""The one training loop: every method, CPU or CUDA, through accelerate; it matches `transformers.Trainer` step for step
(tests/engine/test_training.py).

A step draws `accumulation_steps` batches, normalises the loss by the learned tokens of all of them, clips, steps the
optimizer and the schedule: `training_step.py`. What saves memory on the way stands in `loss.py` and
`step_in_backward.py`, what a method adds in `baselines/contract.py`; what is measured in `memory.py` and `speed.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from baselines.contract import Method
from workflow.engine.data import IGNORED, Example, batch_indices, collate
from workflow.engine.live_storage import tensors_in
from workflow.engine.memory import MemoryMeter
from workflow.engine.speed import StepClock, count_tokens
from workflow.engine.tracking import Tracking, forget_tracking
from workflow.engine.training_step import Batch, Diverged, TrainingStep
from workflow.engine.weight_norms import FILE as WEIGHT_NORMS
from workflow.engine.weight_norms import append_norms

CHECKPOINTS = ("checkpoint.new", "checkpoint", "checkpoint.old")  # being written, whole, replaced by a whole one


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs of an experiment's `training` section; lengths in tokens, the rest in steps."""

    steps: int
    batch_size: int
    accumulation_steps: int
    schedule: str  # cosine | linear | constant
    warmup_steps: int
    max_grad_norm: float | None
    precision: str  # fp32 | bf16 | bf16-mixed
    evaluate_every_steps: int | None
    checkpoint_every_steps: int | None
    untimed_steps: int
    metered_steps: int
    weight_norms_every_steps: int | None = None
    loss_chunk_tokens: int | None = None  # None: the model's own loss
    step_in_backward: bool = False


@dataclass(frozen=True)
class LoopResult:
    """What a finished loop leaves for the run record."""

    model: nn.Module
    validation_loss: float | None
    train_tokens: int
    train_s: float
    flops_per_step: int | None
    flops_padded_tokens: int | None  # padded tokens of the step whose FLOPs were counted
    trainable_parameters: dict[str, int]
    optimizer_state_dtype: str | None  # of the state held at the end; "fp32+uint8" where there are several
    optimizer_state_bytes: int  # of the state held at the end, step counters included
    resumed_at_step: int | None


def optimizer_steps(training: dict[str, Any], items: int) -> int:
    """Optimizer steps of an experiment on `items` examples; an epoch's last window may reach into the next epoch."""
    if "steps" in training:
        return int(training["steps"])
    batches = math.ceil(items / training["batch_size"]) * training["epochs"]
    return max(1, math.ceil(batches / training["accumulation_steps"]))


class Loop:
    """One run's training; `run()` does all of it, resuming from `folder/checkpoint` where a killed run left one."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        settings: LoopSettings,
        *,
        train: Sequence[Example],
        validation: Sequence[Example],
        learning_rate: float,
        seed: int,
        pad_token_id: int,
        folder: Path,
        meter: MemoryMeter,
        clock: StepClock,
        device: torch.device | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.method, self.settings, self.train, self.validation = method, settings, train, validation
        self.seed, self.pad_token_id, self.folder = seed, pad_token_id, folder
        self.meter, self.clock, self.tracking = meter, clock, tracking
        self.training_step = TrainingStep(
            model,
            method,
            settings,
            learning_rate=learning_rate,
            steps=settings.steps,
            meter=meter,
            schedule=settings.schedule,
            warmup_steps=settings.warmup_steps,
            device=device,
            tracking=tracking,
        )
        self.accelerator = self.training_step.accelerator
        self.model, self.optimizer = self.training_step.model, self.training_step.optimizer
        self.progress = Progress()
        self.accelerator.register_for_checkpointing(self.progress, method)

    def run(self) -> LoopResult:
        """Train to the end.

        Raises:
            Diverged: the loss became infinite or not a number.
        """
        resumed = self._resume()
        if self.tracking:
            self.tracking.start(self.accelerator, self._logged())
        trainable = self.method.trainable_parameters(self.training_step.unwrapped())
        metered = self._metered_steps()
        if resumed is None:
            self.training_step.calibrate([self._batch(indices) for indices in self._window(0)])
            self._note_weight_norms()
        self.started = time.perf_counter() - self.progress.train_s
        with (self.folder / "log.jsonl").open("a") as log, self.meter.phase("train", self.model, self.optimizer):
            for step in range(self.progress.step, self.settings.steps):
                window = [self._batch(indices) for indices in self._window(step)]
                self._log(log, self._step(step, window, metered=step in metered))
                self.progress.step = step + 1
                self._after_step(log)
        train_s = time.perf_counter() - self.started
        flops_per_step, flops_padded_tokens = self._count_flops()
        validation_loss = self.evaluate()
        if validation_loss is not None and not math.isfinite(validation_loss):
            raise Diverged(self.settings.steps - 1, validation_loss, None)
        return LoopResult(
            model=self.training_step.unwrapped(),
            validation_loss=validation_loss,
            train_tokens=self.progress.tokens,
            train_s=train_s,
            flops_per_step=flops_per_step,
            flops_padded_tokens=flops_padded_tokens,
            trainable_parameters=trainable,
            optimizer_state_dtype=state_dtype(self.optimizer),
            optimizer_state_bytes=state_bytes(self.optimizer),
            resumed_at_step=resumed,
        )

    # --- one step

    def _step(self, step: int, window: list[Batch], *, metered: bool) -> dict[str, Any]:
        """One optimizer step over a window of batches; returns its line of the log."""
        learning_rate = self.training_step.schedule.get_last_lr()[0]
        tokens, padded = count_tokens(batch["attention_mask"] for batch in window)
        self.clock.start()
        with self.meter.step() if metered else contextlib.nullcontext():
            loss, norm = self.training_step(step, window)
        step_s = self.clock.stop(tokens, padded, timed=not metered)
        self.progress.tokens += tokens
        return {
            "step": step,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": learning_rate,
            "tokens": tokens,
            "step_s": step_s,
            "metered": metered,
        }

    def _count_flops(self) -> tuple[int, int]:
        """FLOPs of the last step's window, and its padded tokens."""
        window = [self._batch(indices) for indices in self._window(self.settings.steps - 1)]
        flops = self.training_step.flops(window)["total"]
        return flops, count_tokens(batch["attention_mask"] for batch in window)[1]

    def _after_step(self, log: Any) -> None:
        step, settings = self.progress.step, self.settings
        self._note_weight_norms()
        if settings.evaluate_every_steps and step % settings.evaluate_every_steps == 0 and step < settings.steps:
            self._log(log, {"step": step - 1, "validation_loss": self.evaluate()})
        if settings.checkpoint_every_steps and step % settings.checkpoint_every_steps == 0 and step < settings.steps:
            self._save()

    def _note_weight_norms(self) -> None:
        every, step = self.settings.weight_norms_every_steps, self.progress.step
        if every and (step % every == 0 or step == self.settings.steps):
            with self.meter.phase("evaluate"):  # a merged matrix is no memory of the training's
                append_norms(self.training_step.unwrapped(), step, self.folder / WEIGHT_NORMS)

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Mean loss over the learned tokens of the validation items; None without any."""
        if not self.validation:
            return None
        self.model.eval()
        total, tokens = 0.0, 0
        with self.method.eval_weights(), self.meter.phase("evaluate"), self.meter.step():
            for start in range(0, len(self.validation), self.settings.batch_size):
                batch = self._batch(
                    list(range(start, min(start + self.settings.batch_size, len(self.validation)))), self.validation
                )
                total += self.training_step.loss(batch, 1).item()
                tokens += int((batch["labels"][:, 1:] != IGNORED).sum())
        return total / tokens

    # --- batches

    def _window(self, step: int) -> Iterator[list[int]]:
        accumulation = self.settings.accumulation_steps
        batches = batch_indices(len(self.train), self.settings.batch_size, self.seed, start=step * accumulation)
        return (next(batches) for _ in range(accumulation))

    def _batch(self, indices: list[int], items: Sequence[Example] | None = None) -> Batch:
        batch = collate([(self.train if items is None else items)[index] for index in indices], self.pad_token_id)
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def _metered_steps(self) -> set[int]:
        """Steps whose memory is traced: the first few, the one with the largest batch, a periodic one, the last.

        They do not count for the time, so a periodic one is taken only where enough others remain to be timed.
        """
        first = range(self.progress.step, min(self.progress.step + self.settings.metered_steps, self.settings.steps))

        def largest(step: int) -> int:
            return max(max(len(self.train[i].input_ids) for i in batch) * len(batch) for batch in self._window(step))

        rest = range(self.progress.step, self.settings.steps)
        period = self.method.period() or 0
        periodic = period if self.settings.steps >= 4 * period else 0
        return {*first, max(rest, key=largest), periodic, self.settings.steps - 1} if rest else set()

    # --- state and log

    def _logged(self) -> list[dict[str, Any]]:
        """The lines of the log so far; none in a new run."""
        log = self.folder / "log.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []

    def _log(self, log: Any, row: dict[str, Any]) -> None:
        log.write(json.dumps(row) + "\n")
        log.flush()
        if self.tracking:
            began = time.perf_counter()
            self.tracking.log(row)
            self.started += time.perf_counter() - began  # no time of the training's
        step = row["step"] + 1
        if "validation_loss" in row:
            print(
                f"step {step}/{self.settings.steps}  validation loss {row['validation_loss']:.4f}",
                file=sys.stderr,
                flush=True,
            )
        elif step % max(1, self.settings.steps // 20) == 0 or step == self.settings.steps:
            rate = row["tokens"] / row["step_s"]
            left = (self.settings.steps - step) * row["step_s"]
            print(
                f"step {step}/{self.settings.steps}  loss {row['loss']:.4f}  {rate:.0f} tokens/s  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def _save(self) -> None:
        """Write the state beside the old one, then swap: a kill in between leaves a whole checkpoint."""
        self.progress.train_s = time.perf_counter() - self.started
        fresh, current, old = (self.folder / name for name in CHECKPOINTS)
        shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.save_state(str(fresh))
        shutil.copy(self.folder / "log.jsonl", fresh)  # Snakemake removes the run's own before it starts the run again
        if self.settings.weight_norms_every_steps:
            shutil.copy(self.folder / WEIGHT_NORMS, fresh)
        shutil.rmtree(old, ignore_errors=True)
        if current.is_dir():
            current.rename(old)
        fresh.rename(current)
        shutil.rmtree(old, ignore_errors=True)

    def _resume(self) -> int | None:
        log, (_, current, old) = self.folder / "log.jsonl", (self.folder / name for name in CHECKPOINTS)
        (self.folder / WEIGHT_NORMS).unlink(missing_ok=True)
        if old.is_dir() and not current.is_dir():  # killed between the two renames
            old.rename(current)
        if not current.is_dir():
            log.unlink(missing_ok=True)
            forget_tracking(self.folder)
            return None
        self.accelerator.load_state(str(current))
        rows = (current / "log.jsonl").read_text().splitlines()
        log.write_text("".join(row + "\n" for row in rows if json.loads(row)["step"] < self.progress.step))
        if self.settings.weight_norms_every_steps:
            shutil.copy(current / WEIGHT_NORMS, self.folder)
        print(f"resumed at step {self.progress.step}/{self.settings.steps}", file=sys.stderr)
        return self.progress.step


def state_dtype(optimizer: Optimizer) -> str | None:
    """Dtypes of the tensors in the optimizer's state, single numbers aside; None if it holds none."""
    held = {str(tensor.dtype) for tensor in tensors_in(optimizer.state) if tensor.numel() > 1}
    short = {"torch.float32": "fp32", "torch.bfloat16": "bf16"}
    return "+".join(sorted(short.get(name, name.removeprefix("torch.")) for name in held)) or None


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all storages that the optimizer's state holds, each once."""
    storages = (tensor.untyped_storage() for tensor in tensors_in(optimizer.state))
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def forget_checkpoints(folder: Path) -> None:
    """Remove what a run could resume from."""
    for name in CHECKPOINTS:
        shutil.rmtree(folder / name, ignore_errors=True)


class Progress:
    """Where a run stands; saved with every checkpoint."""

    def __init__(self) -> None:
        self.step, self.tokens, self.train_s = 0, 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"step": self.step, "tokens": self.tokens, "train_s": self.train_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.step, self.tokens, self.train_s = state["step"], state["tokens"], state["train_s"]
