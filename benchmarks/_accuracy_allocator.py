"""One real run of `simulator_accuracy.py`, in a process of its own, and its peak by the CPU allocator's own trace.

    python -m benchmarks._accuracy_allocator CELL      # CELL and the answer are JSON; see `Cell` and `run`

`torch.profiler(profile_memory=True)` reports every block that torch's CPU allocator hands out and takes back, also
inside kernels; nothing here counts tensors. The trace begins before the model exists, and what is left when everything
was released must be nothing: then no block escaped it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import baselines
from workflow.engine.models import random_model
from workflow.engine.simulator import shortened
from workflow.engine.training_step import Conditions, TrainingStep, build_method, checkpoint_layers, synthetic_window
from workflow.engine.visits import Visits

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LEFT_BOUND = 1e-4  # of the peak: what torch keeps for itself, a few kB
MAX_STEPS = 500
POSITIONS = 4096
LLAMA = {"rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": POSITIONS}
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "heads": 4},
    "20m": {"vocab_size": 8_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "heads": 6},
    "100m": {"vocab_size": 10_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "heads": 12},
}


@dataclass(frozen=True)
class Cell:
    """What runs: a Llama of one of SIZES, a method, and what differs from the defaults."""

    size: str
    method: str
    changes: dict[str, Any] = field(default_factory=dict)  # of `Conditions`
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # of the method
    seed: int = 0

    @property
    def settings(self) -> str:
        """What differs from the defaults, the length of the sequence aside."""
        changes = {key: value for key, value in self.changes.items() if key != "sequence_length"}
        return ", ".join(f"{key}: {value}" for key, value in (changes | self.hyperparameters).items())

    def config(self) -> PretrainedConfig:
        """The shape."""
        from transformers import LlamaConfig

        shape = dict(SIZES[self.size])
        return LlamaConfig(num_attention_heads=shape.pop("heads"), **shape, **LLAMA)

    def conditions(self) -> Conditions:
        """Methods that are defined by the step in backward have no norm to clip by."""
        stepping = baselines.method_class(self.method).steps_in_backward
        return Conditions(**({"max_grad_norm": None} if stepping else {}), **self.changes)


class AllocatorTrace:
    """Bytes that the CPU allocator holds, over stretches with nothing allocated or freed between them."""

    def __init__(self) -> None:
        self.held_bytes = self.peak_bytes = 0
        self.peak_stretch: str | None = None
        self.peak_operator: str | None = None  # the outermost of torch's operators that was running at the peak

    @contextlib.contextmanager
    def stretch(self, name: str) -> Iterator[None]:
        """Follow the allocator; one profile a stretch, as its events need much memory."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            yield
        events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        at_ns = None
        for time_ns, held in running_bytes(events, self.held_bytes):
            self.held_bytes = held
            if held > self.peak_bytes:
                self.peak_bytes, at_ns = held, time_ns
        if at_ns is not None:
            self.peak_stretch, self.peak_operator = name, operator_at(events, at_ns)


def running_bytes(events: Any, held_bytes: int = 0) -> list[tuple[int, int]]:
    """(time in ns, bytes held) after every allocation and release; `held_bytes` before the first."""
    found = []
    memory = (event for event in events if event.name() == "[memory]")
    for event in sorted(memory, key=lambda event: event.start_ns()):
        held_bytes += event.nbytes()
        found.append((event.start_ns(), held_bytes))
    return found


def operator_at(events: Any, time_ns: int) -> str | None:
    """The outermost of torch's operators that was running."""
    running = [e for e in events if e.name().startswith("aten::") and 0 <= time_ns - e.start_ns() <= e.duration_ns()]
    return min(running, key=lambda event: event.start_ns()).name() if running else None


class NoMeter:
    """Stands where `TrainingStep` marks the parts of a step."""

    def part(self, _name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def run(cell: Cell) -> dict[str, Any]:
    """The peak over steps with the simulator's short period, until every unit that the method draws has trained.

    Raises:
        RuntimeError: MAX_STEPS were too few, or blocks escaped the trace.
    """
    trace = AllocatorTrace()
    with trace.stretch("load"):
        step, window = start(cell)
        visits = Visits(step.method)
    steps = last_visit = 0
    least = 1 + (step.method.period() or 1)  # optimizer state appears at the end of a step, and then a period begins
    while steps < least or not visits.complete or last_visit == steps - 1:
        if steps == MAX_STEPS:
            raise RuntimeError(f"{cell}: {visits.visited} of {visits.total} units trained in {steps} steps")
        with trace.stretch(f"step {steps}"):
            step(steps, window)
            if visits.note():
                last_visit = steps
        steps += 1
    answer = {
        "peak_bytes": trace.peak_bytes,
        "peak_stretch": trace.peak_stretch,
        "peak_operator": trace.peak_operator,
        "steps": steps,
    }
    with trace.stretch("release"):
        release(step)
        del step, window, visits
        gc.collect()
    if abs(trace.held_bytes) > LEFT_BOUND * trace.peak_bytes:
        raise RuntimeError(f"{cell}: {trace.held_bytes} bytes are left after all was released")
    return {**answer, "left_bytes": trace.held_bytes}


def start(cell: Cell) -> tuple[TrainingStep, list[Any]]:
    """A model, its method with the simulator's short period, and a window of batches."""
    conditions = cell.conditions()
    torch.manual_seed(cell.seed)
    config, kind = cell.config(), {"precision": conditions.precision, "attention": conditions.attention}
    model = random_model(config, **kind, device="cpu")
    if conditions.gradient_checkpointing:
        checkpoint_layers(model)
    method = build_method(cell.method, shortened(cell.method, cell.hyperparameters), conditions, cell.seed)
    step = TrainingStep(model, method, conditions, learning_rate=1e-5, steps=MAX_STEPS, meter=NoMeter())  # type: ignore[arg-type]
    return step, synthetic_window(config.vocab_size, conditions, "cpu", cell.seed)


def release(step: TrainingStep) -> None:
    """Give back weights and optimizer state, which the hooks of the step in backward hold for ever."""
    step.optimizer.state.clear()
    for parameter in step.model.parameters():
        parameter.data = torch.empty(0)


def ask(cell: Cell, threads: int) -> dict[str, Any]:
    """`run` in a new process."""
    from benchmarks._accuracy_processes import in_new_process

    return in_new_process(__name__, {**asdict(cell), "threads": threads})


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked.pop("threads"))
    print(json.dumps(run(Cell(**asked))))
