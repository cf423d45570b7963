"""Measure one cell: memory, time and operations of a method's training steps, on random weights at a real shape.

    cell = Measurement(config, method, conditions, device, Effort(), learning_rate=1e-5, seed=0)
    cell.run()                                # one cell a process: an allocator remembers what ran before
    record |= cell.parts()                    # after an error too, with what was known by then
    cell.timeline.write_csv(path)

Weights are drawn on the device (or where the method makes them small, the host) in the precision of the recipe, and the
window of batches is random tokens of the full length that are all learned: nothing is downloaded, and no other window
of these conditions takes more memory. The steps are `TrainingStep`'s, the training loop's own.

Which steps are done, in this order of concern:

metered   The first two steps of each period, until every unit that the method draws has trained, with its optimizer
          state there, and the periodic cost (a redraw, a decomposition) was incurred while state existed. A method
          without a period has one of one step, so its first two steps are metered.
timed     All others after the warm-up, at least `timed_steps`. Where a period is longer than one step, its cost is in
          none of them: `periodic_step_s` is the step that had it, the meter's own time included.
          Once enough are timed and only units are missing, the rest of each period is passed over: the method hears of
          its steps (`before_step`), and nothing is trained.
at most   `max_steps`, of which the last are for timing. What they could not reach stands in the record: fewer
          `visited_units` than `drawn_units`, `periodic_cost_seen: false`.

FLOPs are counted on one more window, which trains nothing, with the units of the last step active.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from baselines.contract import Method
from workflow.engine.errors import InputError
from workflow.engine.memory import MemoryMeter
from workflow.engine.models import count_parameters, is_out_of_memory, loading_device, random_model
from workflow.engine.records import device_name
from workflow.engine.speed import StepClock, count_tokens, mfu
from workflow.engine.timeline import Timeline
from workflow.engine.training import state_dtype
from workflow.engine.training_step import Batch, Conditions, TrainingStep, checkpoint_layers, synthetic_window
from workflow.engine.visits import Visits

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Effort:
    """How long a cell is measured, in optimizer steps that train.

    Raises:
        InputError: `max_steps` leaves no room for the others.
    """

    warmup_steps: int = 3  # not timed: allocator, autotuning, caches
    timed_steps: int = 10  # at least
    max_steps: int = 500  # of all kinds

    def __post_init__(self) -> None:
        least = max(self.warmup_steps, 2) + self.timed_steps
        if self.max_steps < least:
            raise InputError(
                f"measure.max_steps: {self.max_steps} is too few for warmup_steps: {self.warmup_steps} and timed_steps:"
                f" {self.timed_steps}; legal: {least} or more."
            )


class Plan:
    """Which step comes next, whether it is metered, and when all is seen."""

    def __init__(self, method: Method, effort: Effort, clock: StepClock) -> None:
        self.method, self.effort, self.clock = method, effort, clock
        self.visits, self.period = Visits(method), method.period() or 1
        self.index = self.steps = 0  # the next step's, and how many were done
        self.periodic_cost_seen = self.complete = False

    @property
    def over(self) -> bool:
        """Whether no step is left to do."""
        return self.steps >= self.effort.max_steps or (self.complete and self._missing == 0)

    @property
    def metered(self) -> bool:
        """Whether the next step is to be metered; the last ones that `max_steps` allows are kept for timing."""
        spare = self.effort.max_steps - self.steps - self._missing
        return not self.complete and self.index % self.period < 2 and spare > 0

    def done(self, metered: bool) -> None:
        """Step `index` was done, just now."""
        if metered:
            all_had_trained = self.visits.complete and self.steps > 0  # so that all their state was there in this step
            self.visits.note()
            self.periodic_cost_seen |= self.index >= self.period
            self.complete = all_had_trained and self.periodic_cost_seen
        self.steps += 1
        self.index += 1
        while self._missing == 0 and self.visits.total and self.index % self.period > 1:
            self.method.before_step(self.index)
            self.index += 1

    @property
    def _missing(self) -> int:
        """Steps that are still to be timed."""
        return max(0, self.effort.timed_steps - len(self.clock.timed))


class Measurement:
    """One cell on one device; `run` measures it, `parts` and `settings` say what is known at any time.

    Attributes:
        phase: "load", "train", or None once all is done.
        timeline: of the last metered step, which met all state there is, or which failed; None before the first.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        method: Method,
        conditions: Conditions,
        device: torch.device,
        effort: Effort,
        *,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.config, self.method, self.conditions, self.device = config, method, conditions, device
        self.effort, self.learning_rate, self.seed = effort, learning_rate, seed
        self.meter, self.clock = MemoryMeter(device), StepClock(effort.warmup_steps, device)
        self.phase: str | None = "load"
        self.plan: Plan | None = None
        self.parameters: int | None = None
        self.trainable: dict[str, int] | None = None
        self.train_s: float | None = None
        self.periodic_step_s: float | None = None
        self.flops: int | None = None
        self.state_dtype: str | None = None

    @property
    def timeline(self) -> Timeline | None:
        """Bytes by role at every operator of one step."""
        return self.meter.timeline

    def run(self) -> None:
        """Load and train; says on stderr what `max_steps` cut off.

        Raises:
            InputError: settings that contradict each other or the model.
            Diverged: loss or gradient is no finite number.
            torch.OutOfMemoryError, MemoryError: `phase` says when.
        """
        torch.manual_seed(self.seed)
        with self.meter.phase("load"), self.meter.step():
            precision, attention = self.conditions.precision, self.conditions.attention
            device = loading_device(self.method, self.device)
            model = random_model(self.config, precision=precision, attention=attention, device=device)
            self.meter.watch(model)
        self.parameters, self.phase = count_parameters(model), "train"
        if self.conditions.gradient_checkpointing:
            checkpoint_layers(model)
        step = TrainingStep(
            model,
            self.method,
            self.conditions,
            learning_rate=self.learning_rate,
            steps=self.effort.max_steps,
            meter=self.meter,
            device=self.device,
        )
        self.trainable = self.method.trainable_parameters(step.unwrapped())
        self.plan = Plan(self.method, self.effort, self.clock)
        window = synthetic_window(self.config.vocab_size, self.conditions, self.device, self.seed)
        with self.meter.phase("train", step.model, step.optimizer):
            step.calibrate(window)
            self._train(step, self.plan, window)
        self.state_dtype = state_dtype(step.optimizer)
        self.flops = self._count_flops(step, window)
        self.phase = None

    def _train(self, step: TrainingStep, plan: Plan, window: list[Batch]) -> None:
        tokens = count_tokens(batch["attention_mask"] for batch in window)
        started = time.perf_counter()
        while not plan.over:
            metered = plan.metered
            self.clock.start()
            with self.meter.step(timeline=True) if metered else contextlib.nullcontext():
                step(plan.index, window)
            step_s = self.clock.stop(*tokens, timed=not metered)
            if metered and plan.index == plan.period > 1:
                self.periodic_step_s = step_s
            plan.done(metered)
        self.train_s = time.perf_counter() - started
        if not plan.complete:
            seen = f"{plan.visits.visited} of {plan.visits.total} drawn units had trained"
            seen += "" if plan.periodic_cost_seen else f" and the cost of period {plan.period} had not come"
            print(
                f"warning: when measure.max_steps: {self.effort.max_steps} were done, {seen}: the peak may be higher.",
                file=sys.stderr,
            )

    def _count_flops(self, step: TrainingStep, window: list[Batch]) -> int | None:
        """Operations of a step; None, and a word on stderr, where counting them takes memory that training did not."""
        try:
            return step.flops(window)["total"]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            print("warning: no memory was left to count operations with; all else was measured.", file=sys.stderr)
            return None

    def parts(self) -> dict[str, Any]:
        """The parts of a run record that a measurement knows; None for what it does not know."""
        clock = self.clock.record()
        return {
            "phase": self.phase,
            "memory": self.meter.record() if self.meter.phases else None,
            "time": {"train_s": self.train_s, "periodic_step_s": self.periodic_step_s, **clock["time"]},
            "throughput": clock["throughput"],
            "flops_per_step": self.flops,
            "mfu": self._mfu(clock["throughput"]["padded_tokens_per_s"]),
            "trainable_parameters": self.trainable,
            "steps": self.plan.steps if self.plan else None,
        }

    def settings(self) -> dict[str, Any]:
        """What it adds to the `settings` of a run record: what was done, and what was seen by then."""
        plan = self.plan
        return {
            **asdict(self.effort),
            "optimizer_state_dtype": self.state_dtype,
            "drawn_units": plan.visits.total if plan else None,
            "visited_units": plan.visits.visited if plan else None,
            "periodic_cost_seen": plan.periodic_cost_seen if plan else False,
        }

    @property
    def tokens(self) -> int:
        """Tokens of one optimizer step."""
        conditions = self.conditions
        return conditions.batch_size * conditions.sequence_length * conditions.accumulation_steps

    def _mfu(self, tokens_per_s: float | None) -> float | None:
        if not self.flops or not tokens_per_s:
            return None
        return mfu(self.flops / self.tokens * tokens_per_s, device_name(self.device), self.conditions.precision)
