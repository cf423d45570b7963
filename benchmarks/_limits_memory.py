"""Section 2 of `lisa_limits.py`: the peak of memory over its floor, for every setting that lowers it.

On the CPU the peak is that of the live-storage meter, on CUDA the allocator's.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks._limits_floor import Floor, floor, saved_activations
from benchmarks._limits_model import GPU_OPTIONS, SHAPES, Run, Setup, own_loss, start, token_ids
from benchmarks._limits_report import Bound, Results, Table
from lisa import LISA, decoder_layers
from workflow.engine.loss import linear_cross_entropy
from workflow.engine.memory import MemoryMeter
from workflow.engine.step_in_backward import StepInBackward

PERIOD_STEPS = 2  # a first step across the switch, with fresh moments, and an ordinary one
WARM_UP_TOKENS = 8
FLOOR_BOUND = 1.02
GPU_BOUNDS_GB = {False: 21.6, True: 18.1}  # without and with gradient checkpointing
CHUNKS = 4  # of the chunked loss, a step


@dataclass(frozen=True)
class Cell:
    """The settings of one measured period."""

    tokens: int  # a row
    chunked: bool  # the loss
    checkpointing: bool
    stepping: bool  # in backward


def memory(setup: Setup, longer_rows: tuple[int, ...] = ()) -> Results:
    """Peak of one period, from its switch on, over the floor of its active layers.

    Every cell at `setup.tokens`, for which the bound is; those with the step after backward at `longer_rows`, too.
    """
    found = {}
    for stepping in (False, True):
        run = start(setup, LISA, PERIOD_STEPS)
        run.visit_all(token_ids(setup, WARM_UP_TOKENS))
        if stepping:
            StepInBackward(run.optimizer)
        rows = (setup.tokens,) if stepping else (setup.tokens, *longer_rows)
        for tokens, chunked, checkpointing in itertools.product(rows, (False, True), (False, True)):
            cell = Cell(tokens, chunked, checkpointing, stepping)
            found[cell] = peak_and_floor(run, setup, cell)
        del run
        gc.collect()  # the next one gets a model of its own: hooks that step in backward stay on a model
    width = SHAPES[setup.shape]["hidden_size"]
    columns = {"batch": "", "loss": "", "checkpointing": "", "step": "", "peak, MB": ".1f", "floor, MB": ".1f"}
    columns |= {"peak / floor": ".4f", "weights": ".1f", "moments": ".1f", "activations": ".1f", "gradients": ".1f"}
    table = Table(
        "2. Peak memory of LISA over the floor",
        f"{setup.describe()}, every layer visited before; each row one period of {PERIOD_STEPS} steps, the switch and"
        f" its fresh moments included. Meter: {meter_name(setup)}.",
        columns | {"floor where": ""},
        [peak_row(setup, cell, *pair) for cell, pair in found.items()],
        notes=FLOOR_NOTES.format(tokens=setup.tokens, per_width=setup.tokens / width, chunks=CHUNKS),
    )
    return Results([table], peak_bounds(setup, found))


FLOOR_NOTES = """The floor is what the step must hold at once, added up without the meter (benchmarks/_limits_floor.py):
weights, moments of what is active, and the largest sum over backward of saved activations and gradients made; the four
columns behind the ratio are its parts, in MB. It has no temporaries, of which the larger ones grow with the batch: the
two further copies of the logits in the model's own loss, and the gradients inside the layer at hand. So it matters how
long a row is: {tokens} tokens are {per_width:.2f} of the model's width (1024 tokens at LLaMA-2-7B: 0.25). With
checkpointing, the generator's states, which the meter does not see, are added to the peak by hand. Chunks of the
chunked loss: {chunks}."""


def peak_and_floor(run: Run, setup: Setup, cell: Cell) -> tuple[int, Floor]:
    """Meters one period, then adds up the floor for the layers that were active in it."""
    ids, loss_of = token_ids(setup, cell.tokens), chunked_loss if cell.chunked else own_loss
    set_checkpointing(run.model, cell.checkpointing)
    with peak_meter(setup, run) as peak:
        for _ in range(PERIOD_STEPS):
            run.step(ids, loss_of)
    set_checkpointing(run.model, False)
    saved = saved_activations(run.model, ids, loss_of)
    unseen = generator_states_bytes(run.model) if cell.checkpointing and setup.device.type == "cpu" else 0
    return peak[0] + unseen, floor(run.model, saved, checkpointing=cell.checkpointing, step_in_backward=cell.stepping)


def peak_row(setup: Setup, cell: Cell, peak: int, least: Floor) -> list[Any]:
    """One line of the table."""
    settings = ["chunked" if cell.chunked else "own", "on" if cell.checkpointing else "off"]
    how = "in backward" if cell.stepping else "after it"
    components = [b / 1e6 for b in (least.weights, least.moments, least.activations, least.gradients)]
    totals = [peak / 1e6, least.total / 1e6, peak / least.total]
    return [f"{setup.batch_size} x {cell.tokens}", *settings, how, *totals, *components, least.where]


def peak_bounds(setup: Setup, found: dict[Cell, tuple[int, Floor]]) -> list[Bound]:
    """The floor's, and those for a GPU, which are about one cell each."""
    bounds = []
    for tokens, chunked in sorted(
        {(cell.tokens, cell.chunked) for cell in found}, key=lambda kind: (kind[0], -kind[1])
    ):
        ratios = [p / least.total for c, (p, least) in found.items() if (c.tokens, c.chunked) == (tokens, chunked)]
        loss = "loss in chunks" if chunked else "the model's own loss"
        what = f"peak / floor, batch {setup.batch_size} x {tokens}, {loss}, worst of {len(ratios)} settings"
        bounds.append(Bound(what, "<=", FLOOR_BOUND, max(ratios)))
    for checkpointing, limit_gb in GPU_BOUNDS_GB.items():
        told = f"7B, allocated peak {'with' if checkpointing else 'without'} checkpointing, GB"
        cell = Cell(setup.tokens, chunked=False, checkpointing=checkpointing, stepping=False)
        if setup.is_for_gpu_bounds():
            bounds.append(Bound(told, "<=", limit_gb, found[cell][0] / 1e9))
        else:
            bounds.append(Bound(told, "<=", limit_gb, None, reason=f"needs {GPU_OPTIONS}"))
    return bounds


def chunked_loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The loss as `training.loss_chunk_tokens` has it, in CHUNKS pieces: no logits of the whole batch."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)  # (batch x (tokens - 1), width)
    chunk_tokens = -(-len(hidden) // CHUNKS)
    return linear_cross_entropy(hidden, model.lm_head, ids[:, 1:].flatten(), len(hidden), chunk_tokens)


def set_checkpointing(model: nn.Module, on: bool) -> None:
    """As the training stage sets it."""
    if on:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    else:
        model.gradient_checkpointing_disable()  # type: ignore[operator]


def generator_states_bytes(model: nn.Module) -> int:
    """What checkpointing keeps of the CPU's generator, a state a layer: no operator makes it, so the meter is blind."""
    return len(decoder_layers(model)) * torch.get_rng_state().nbytes


# --- the meter


@contextlib.contextmanager
def peak_meter(setup: Setup, run: Run) -> Iterator[list[int]]:
    """Meters what happens inside; the list then holds its peak in bytes."""
    peak: list[int] = []
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setup.device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(setup.device))
        return
    meter = MemoryMeter(setup.device)
    with meter.phase("train", run.model, run.optimizer), meter.step():
        yield peak
    peak.append(meter.record()["allocated_peak_bytes"])


def meter_name(setup: Setup) -> str:
    return "torch.cuda.max_memory_allocated" if setup.device.type == "cuda" else "live tensor storage"
