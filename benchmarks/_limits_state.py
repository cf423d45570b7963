"""Section 3 of `lisa_limits.py`: optimizer state over the periods, and what it costs to train more than layers."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from benchmarks._limits_memory import meter_name, peak_meter
from benchmarks._limits_model import Setup, ToggleOnly, build, moment_bytes, start, state_bytes, token_ids
from benchmarks._limits_report import Bound, Results, Table
from lisa import LISA
from lisa.adamw import BLOCK_VALUES, AdamW
from lisa.layers import parts

PERIOD_STEPS = 2
GROWTH_TOKENS, ALWAYS_ON_TOKENS = 32, 8  # a row; optimizer state does not depend on it


@dataclass(frozen=True)
class Sizes:
    """How much of the section to run."""

    growth_periods: int = 20
    always_on_periods: int = 8


def state(setup: Setup, sizes: Sizes) -> Results:
    """Both tables of the section, on one model whose weights go on from run to run."""
    model = build(setup)
    results = growth(replace(setup, tokens=GROWTH_TOKENS), sizes.growth_periods, model)
    results.add(always_on(replace(setup, tokens=ALWAYS_ON_TOKENS), sizes.always_on_periods, model))
    return results


# --- growth


def growth(setup: Setup, periods: int, model: nn.Module) -> Results:
    """Optimizer state and peak by period, for each treatment of the state of what is frozen again."""
    treatments: dict[str, dict[str, Any]] = {
        name: {"method": LISA, "state": name} for name in ("drop", "reset", "keep")
    }
    treatments["toggle-only"] = {"method": ToggleOnly}
    if setup.device.type == "cuda":  # elsewhere there is nothing to move
        treatments["offload"] = {"method": LISA, "state": "offload"}
    states_mb, rows = {}, []
    for name, settings in treatments.items():
        states_mb[name], peaks_mb = by_period(setup, periods, model, settings)
        cells = [[values[0], values[-1], values[-1] / values[0]] for values in (states_mb[name], peaks_mb)]
        rows.append([name, *cells[0], *cells[1]])
    columns = {"at a switch": "", "state, period 1, MB": ".1f", f"state, period {periods}": ".1f", "growth": ".3f"}
    columns |= {"peak, period 1, MB": ".1f", f"peak, period {periods}": ".1f", "growth of the peak": ".3f"}
    table = Table(
        f"3a. Optimizer state over {periods} periods",
        f"{setup.describe()}, {PERIOD_STEPS} steps a period. Meter: {meter_name(setup)}. State: on the device, at the"
        f" end of a period; full fine-tuning holds {moment_bytes(list(model.parameters())) / 1e6:.1f} MB.",
        columns,
        rows,
        notes="toggle-only: requires_grad is switched and nothing else, as in the public callbacks.",
    )
    drop, keep = states_mb["drop"], states_mb["keep"]
    bounds = [
        Bound(f"drop: largest / smallest optimizer state over {periods} periods", "==", 1, max(drop) / min(drop)),
        Bound(f"keep, shown beside it: state of period {periods} / period 1", ">", 1, keep[-1] / keep[0]),
    ]
    return Results([table], bounds, states_mb)


def by_period(
    setup: Setup, periods: int, model: nn.Module, settings: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """Optimizer state at the end of each period and peak within it, in MB."""
    run, states_mb, peaks_mb = start(setup, period_steps=PERIOD_STEPS, model=model, **settings), [], []
    gc.collect()  # the run before this one
    for _ in range(periods):
        with peak_meter(setup, run) as peak:
            for _ in range(PERIOD_STEPS):
                run.step(token_ids(setup))
        states_mb.append(state_bytes(run.optimizer, setup.device) / 1e6)
        peaks_mb.append(peak[0] / 1e6)
    return states_mb, peaks_mb


# --- what trains always


ALWAYS_ON: dict[str, tuple[dict[str, str], int]] = {  # what is not "on", bits of the moments of embeddings and head
    "embeddings, head, norm (the paper)": ({}, 32),
    "the same, 8-bit moments for embeddings and head": ({}, 8),
    "norm; embeddings and head drawn like layers": ({"embeddings": "drawn", "head": "drawn"}, 32),
    "head, norm": ({"embeddings": "off"}, 32),
    "norm": ({"embeddings": "off", "head": "off"}, 32),
    "nothing": ({"embeddings": "off", "head": "off", "norm": "off"}, 32),
}
LARGE = Setup("llama-3-8b", torch.device("meta"), "bf16", 1, 1024)


def always_on(setup: Setup, periods: int, model: nn.Module) -> Results:
    """Bytes that what trains beside the layers costs: measured on this model, computed for Llama-3-8B."""
    large, rows = build(LARGE), []
    for name, (choices, bits) in ALWAYS_ON.items():
        measured = state_and_formula(setup, periods, model, choices, bits)
        largest_bytes = max(state_bytes for state_bytes, _ in measured)
        deviation = max(abs(state_bytes / formula - 1) for state_bytes, formula in measured)
        trained = largest_draw(large, choices)
        numbers, gradients = sum(p.numel() for p in trained), sum(p.nbytes for p in trained)
        moments = state_formula(large, trained, bits)
        computed = [value / 1e9 for value in (numbers, moments, gradients, moments + gradients)]
        rows.append([name, largest_bytes / 1e6, deviation, *computed])
    columns = {f"trains beside {LARGE.gamma} drawn": "", "state, MB": ".1f", "off the formula by": ".1g"}
    columns |= dict.fromkeys(["8B: trains, 1e9", "moments, GB", "gradients, GB", "both, GB"], ".3f")
    table = Table(
        "3b. What the always-on set costs",
        f"State: measured, {setup.describe()}, largest of {periods} periods. From 8B on: computed by formula, not"
        f" measured, for {LARGE.shape} in {LARGE.dtype}, gamma {LARGE.gamma}, largest draw, all gradients at once.",
        columns,
        rows,
    )
    return Results([table])


def state_and_formula(
    setup: Setup, periods: int, model: nn.Module, choices: dict[str, str], bits: int
) -> list[tuple[int, int]]:
    """Bytes of optimizer state at the end of each period, as held and by formula."""
    optimizer = partial(mixed_adamw, bits=bits)
    run, found = start(setup, LISA, PERIOD_STEPS, model=model, make_optimizer=optimizer, **choices), []
    for _ in range(periods):
        for _ in range(PERIOD_STEPS):
            run.step(token_ids(setup))
        trained = [p for p in model.parameters() if p.requires_grad]
        found.append((state_bytes(run.optimizer), state_formula(model, trained, bits)))
    return found


def mixed_adamw(model: nn.Module, bits: int) -> Optimizer:
    """AdamW whose moments of embeddings and head take `bits`."""
    found = parts(model)
    outer = {id(p) for p in (*found.embeddings, *found.head)}
    full = [p for p in model.parameters() if id(p) not in outer]
    few = [p for p in model.parameters() if id(p) in outer]
    return AdamW([{"params": full}, {"params": few, "moment_bits": bits}], lr=1e-5, fused=True)


def state_formula(model: nn.Module, trained: list[nn.Parameter], bits: int) -> int:
    """Bytes of `mixed_adamw`'s state for `trained`.

    8 bits: two codes of one byte a number, two fp32 scales a block, and the step count.
    """
    found = parts(model)
    few = {id(p) for p in (*found.embeddings, *found.head) if bits == 8}
    quantised = sum(2 * p.numel() + 8 * -(-p.numel() // BLOCK_VALUES) + 4 for p in trained if id(p) in few)
    return quantised + moment_bytes([p for p in trained if id(p) not in few])


def largest_draw(model: nn.Module, choices: dict[str, str]) -> list[nn.Parameter]:
    """What trains when the gamma largest units are drawn."""
    found = parts(model)
    outside = {"embeddings": found.embeddings, "head": found.head, "norm": found.norm}
    always = [p for name, part in outside.items() if name not in choices for p in part]
    units = [*found.layers, *(outside[name] for name, choice in choices.items() if choice == "drawn")]
    units.sort(key=lambda unit: sum(p.numel() for p in unit), reverse=True)
    return [*always, *(p for unit in units[: LARGE.gamma] for p in unit)]
