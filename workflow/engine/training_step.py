"""One optimizer step of any method: forward and backward over a window of batches, clipping, the optimizer's step.

The training loop trains with it, `measuring.py` measures it, `simulator.py` runs it on tensors without data: one step,
so that what is predicted, what is measured and what trains are the same operators in the same order.

    step = TrainingStep(model, method, conditions, learning_rate=1e-5, steps=100, meter=meter)
    with meter.phase("train", step.model, step.optimizer):
        loss, gradient_norm = step(0, [batch])      # batch: input_ids, attention_mask, labels, each (batch, tokens)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import baselines
from baselines.contract import AdamWSettings, Method
from workflow.engine.data import IGNORED
from workflow.engine.loss import ChunkedLoss
from workflow.engine.memory import MemoryMeter
from workflow.engine.speed import count_flops
from workflow.engine.step_in_backward import StepInBackward, check_step_in_backward
from workflow.engine.tracking import Tracking

Batch = dict[str, Tensor]
Around = Callable[[str], contextlib.AbstractContextManager[Any]]  # given "forward" or "backward"
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}  # ours -> transformers'


class Diverged(Exception):
    """The loss or its gradient is no longer a finite number; `step` says when."""

    def __init__(self, step: int, loss: float, gradient_norm: float | None) -> None:
        super().__init__(f"loss {loss}, gradient norm {gradient_norm} at step {step}")
        self.step = step


class StepSettings(Protocol):
    """What a step asks of its settings; `Conditions` and the loop's `LoopSettings` have it."""

    @property
    def accumulation_steps(self) -> int: ...
    @property
    def max_grad_norm(self) -> float | None: ...
    @property
    def precision(self) -> str: ...
    @property
    def loss_chunk_tokens(self) -> int | None: ...
    @property
    def step_in_backward(self) -> bool: ...


@dataclass(frozen=True)
class Conditions:
    """All that moves the memory or the speed of a step besides model and method; the names of `training` in YAML."""

    batch_size: int = 1  # sequences of a forward pass
    sequence_length: int = 1024  # tokens of each
    accumulation_steps: int = 1
    precision: str = "bf16"  # fp32 | bf16 | bf16-mixed
    attention: str = "sdpa"  # sdpa | eager | flash_attention_2
    gradient_checkpointing: bool = False
    adamw_implementation: str = "fused"  # fused | foreach | for-loop
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    loss_chunk_tokens: int | None = None  # None: the model's own loss
    step_in_backward: bool = False


def build_method(name: str, hyperparameters: Mapping[str, Any], conditions: Conditions, seed: int) -> Method:
    """The method with the AdamW of these conditions.

    Raises:
        ValueError: unknown method or hyper-parameter, or a value it refuses.
    """
    keys = ("beta1", "beta2", "epsilon", "weight_decay")
    adamw = AdamWSettings(
        **{key: getattr(conditions, key) for key in keys}, implementation=conditions.adamw_implementation
    )
    return baselines.build(name, hyperparameters, adamw, seed)


def checkpoint_layers(model: Any) -> None:
    """Gradient checkpointing as all parts of the suite use it."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


class TrainingStep:
    """A prepared model with its optimizer and schedule; calling it does one optimizer step.

    Args:
        model: freshly loaded; `method.prepare` freezes or wraps it.
        settings: see `StepSettings`.
        steps: over which the schedule runs.
        device: where it trains; None: where the model is.
        tracking: where the run is shown; who gives it starts and finishes it.
        meter: learns which part of the step is running; its phase "train" must be open when a step is done.

    Attributes:
        model: as accelerate wraps it. optimizer: the method's own. accelerator, schedule.

    Raises:
        InputError: settings that contradict each other or the model.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        settings: StepSettings,
        *,
        learning_rate: float,
        steps: int,
        meter: MemoryMeter,
        schedule: str = "constant",
        warmup_steps: int = 0,
        device: torch.device | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        from accelerate import Accelerator
        from transformers import get_scheduler

        stepping = settings.step_in_backward or method.steps_in_backward
        if stepping:
            check_step_in_backward(settings.accumulation_steps, settings.max_grad_norm)
        self.method, self.meter, self.max_grad_norm = method, meter, settings.max_grad_norm
        self.accelerator = Accelerator(
            mixed_precision="bf16" if settings.precision == "bf16-mixed" else "no",
            cpu=(device or next(model.parameters()).device).type == "cpu",
            **(tracking.accelerator_arguments() if tracking else {}),
        )
        model = method.prepare(model)
        self.optimizer = method.optimizer(model, learning_rate)
        scheduler = get_scheduler(SCHEDULES[schedule], self.optimizer, warmup_steps, steps)
        self.stepper = StepInBackward(self.optimizer) if stepping else None
        self.model, self._optimizer, self.schedule = self.accelerator.prepare(model, self.optimizer, scheduler)
        chunk = settings.loss_chunk_tokens
        self.chunked_loss = None if chunk is None else ChunkedLoss(self.model, chunk)

    def calibrate(self, window: list[Batch]) -> None:
        """Show the method the batches of the first step, before it."""
        self.method.calibrate(self.unwrapped(), window)

    def __call__(self, index: int, window: list[Batch]) -> tuple[float, float]:
        """Optimizer step `index` (0-based) over a window of batches.

        Returns the loss (mean over the window's learned tokens) and the gradient's norm before clipping.

        Raises:
            Diverged: loss or gradient is no finite number. The weights are those before the step; with a step in
                backward and a finite loss they have changed, since a gradient's norm is known too late.
        """
        self.model.train()
        self.method.before_step(index)
        if self.stepper:
            total, norm = self.backward(window, check_at=index), self.stepper.gradient_norm()
            if not math.isfinite(norm):
                raise Diverged(index, total, norm)
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
            return total, norm
        total = self.backward(window)
        with self.meter.part("step"):
            norm = self._clip()
            if not math.isfinite(total) or not math.isfinite(norm):
                raise Diverged(index, total, norm)  # before an optimizer that decomposes gradients meets them
            self._optimizer.step()
            self.schedule.step()
            self._optimizer.zero_grad(set_to_none=True)
        return total, norm

    def backward(self, window: list[Batch], check_at: int | None = None, around: Around | None = None) -> float:
        """Gradients of the mean loss over the window's learned tokens; returns that loss.

        Args:
            check_at: raise Diverged at this step before backward, which may change the weights. None: nothing checks.
            around: contexts for each forward and backward in place of the meter's parts.
        """
        around = around or self.meter.part
        learned = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in window)
        total = 0.0
        for batch in window:
            with around("forward"):
                loss = self.loss(batch, learned)
            if check_at is not None and not math.isfinite(loss.item()):
                raise Diverged(check_at, loss.item(), None)
            with around("backward"):
                self.accelerator.backward(loss)
            total += loss.item()
        return total

    def loss(self, batch: Batch, learned: int) -> Tensor:
        """Sum of the batch's token losses over `learned`; no logits outlive this call, unless autograd needs them."""
        if self.chunked_loss:
            return self.chunked_loss(batch, learned)
        return self.model(**batch, use_cache=False, num_items_in_batch=learned).loss

    def flops(self, window: list[Batch]) -> dict[str, int]:
        """Floating-point operations of the window: {forward, backward, total}, what is recomputed under backward.

        Counted apart from training, on gradients that are thrown away: the counter takes other kernels, which move the
        last bits of a result. With a loss in chunks, positions that are not learned have no FLOPs in the head, whose
        backward counts under forward.
        """
        counts = {"forward": 0, "backward": 0}

        @contextlib.contextmanager
        def counted(part: str) -> Iterator[None]:
            with count_flops() as counter:
                yield
            counts[part] += counter.total

        with self.stepper.discarding() if self.stepper else contextlib.nullcontext():
            self.backward(window, around=counted)
        self._optimizer.zero_grad(set_to_none=True)
        return {**counts, "total": sum(counts.values())}

    def unwrapped(self) -> nn.Module:
        """The model without accelerate's wrapping."""
        return self.accelerator.unwrap_model(self.model)

    def _clip(self) -> float:
        limit = self.max_grad_norm
        return float(self.accelerator.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit))


def synthetic_window(vocabulary: int, conditions: Conditions, device: torch.device | str, seed: int) -> list[Batch]:
    """The batches of one optimizer step, all of the full length, of random tokens that are all learned."""
    draw = torch.Generator().manual_seed(seed)
    shape = (conditions.batch_size, conditions.sequence_length)
    window = []
    for _ in range(conditions.accumulation_steps):
        tokens = torch.randint(0, vocabulary, shape, generator=draw).to(device)
        window.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens.clone()})
    return window
