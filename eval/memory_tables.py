"""The tables of a memory experiment as plain rows: memory, ablation, speed. Reads result files; never simulates.

    cells = collect(experiment, results)                       # eval.memory_cells
    write_csv(memory(cells, experiment), results / "tables" / "memory.csv")

As in `eval/tables.py`: a list of dicts with the same keys in the same order, units in the keys, None an empty cell, and
every row repeats its conditions. Of each device that anything was measured on there is a group of columns, named
`measured_<device>_...`. `eval/reproduction.py` holds the published cells against these, `eval/memory_present.py` makes
all of them readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from eval.conditions import distinct, distinct_packages, packages_line
from eval.memory_cells import PHASES, MemoryCell, devices, outcome, siblings, unmet
from eval.planned import word
from eval.published import Cell, find, rounding
from eval.tables import COMPONENTS, TRAINABLE, TableRow, published_cells, times
from eval.text import GB

GIB = 2**30  # bytes
FLOPS = ("forward", "backward", "total")
TIMES = ("speedup_over_full", "iteration_s", "forward_s")  # published
EXCEEDS, WITHIN = "exceeds the FLOP bound", "within the FLOP bound"


def memory(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[TableRow]:
    """Published, predicted and measured peaks at the base setting, with the predicted peak's phase and components."""
    cells = list(cells)
    found = devices(cells)
    published = [cell for cell in published_cells(experiment) if cell.metric == "peak_memory"]
    return [
        {
            **_identity(cell),
            **(_published(cell, published) if published else {}),
            "predicted_peak_bytes": cell.peak_bytes,
            "predicted_peak_gb": times(cell.peak_bytes, 1 / GB),
            "predicted_peak_gib": times(cell.peak_bytes, 1 / GIB),
            **_card(cell, experiment),
            **{key: value for device in found for key, value in _measured(cell, device).items()},
            "peak_phase": cell.simulated.get("phase"),
            "peak_operator": cell.simulated.get("operator"),
            **{f"{phase}_peak_bytes": cell.simulated.get("phases", {}).get(phase) for phase in PHASES},
            **{f"{role}_bytes": cell.simulated.get("components", {}).get(role) for role in COMPONENTS},
            "parameters": cell.simulated.get("parameters"),
            **_trainable(cell),
            **_conditions(cell, experiment),
        }
        for cell in cells
        if cell.base
    ]


def ablation(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[TableRow]:
    """What one changed setting does to the peak of a method: each cell of another setting against its base."""
    cells = list(cells)
    bases, found = siblings(cells), devices(cells)
    return [
        _ablation_row(cell, bases[cell.row], found, experiment) for cell in cells if not cell.base and cell.row in bases
    ]


def speed(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[TableRow]:
    """FLOPs of a step and the bound they set on the speed-up over full fine-tuning, measured and published ratios.

    At every setting against full fine-tuning under the same conditions; the published ratios are of the base.
    """
    cells = list(cells)
    found = devices(cells)
    published = [cell for cell in published_cells(experiment) if cell.metric in TIMES]
    return [_speed_row(cell, full_of(cell, cells), found, published, experiment) for cell in cells]


def full_of(cell: MemoryCell, cells: Iterable[MemoryCell]) -> MemoryCell | None:
    """Full fine-tuning of the same model under the same conditions."""
    same = (cell.row[0], "full", cell.planned["conditions"])
    return next((other for other in cells if (*other.row[:2], other.planned["conditions"]) == same), None)


def flop_bound(cell: MemoryCell, full: MemoryCell | None) -> float | None:
    """How much faster than full fine-tuning the method can be at equal FLOPs per second."""
    mine, theirs = cell.flops(), full.flops() if full else None
    return theirs / mine if mine and theirs else None


def published_cell(cell: MemoryCell, published: Iterable[Cell], metric: str) -> Cell | None:
    """The published cell that a cell of ours answers to."""
    name = cell.planned.get("published_as")
    return find(published, name, cell.row[1], cell.planned["hyperparameters"], metric) if name else None


def error_percent(value: float | None, reference: float | None) -> float | None:
    """How far a value lies above (+) or below (-) the reference."""
    return None if value is None or not reference else 100 * (value / reference - 1)


def slug(device: str) -> str:
    """A device's name in the keys of columns."""
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")


def not_compared(cell: Cell) -> str | None:
    """Why a published peak is not of the same quantity as the prediction for one device."""
    if cell.value is None:
        return f"published: {cell.printed}"
    return "published per card of several (model parallel), predicted for one device" if per_card(cell) else None


def per_card(cell: Cell) -> bool:
    """Whether the published figure is of one card among several that share the model."""
    return "model parallel" in cell.note.lower()


# --- parts of a row


def _identity(cell: MemoryCell) -> TableRow:
    model, method, variant = cell.row
    hyperparameters = json.dumps(dict(cell.planned["hyperparameters"]), sort_keys=True)
    return {
        "model": model,
        "method": method,
        "variant": variant,
        "setting": cell.planned["setting"],
        "hyperparameters": hyperparameters,
        "status": cell.status,
        "reason": cell.reason or None,
    }


def _card(cell: MemoryCell, experiment: Mapping[str, Any]) -> TableRow:
    """Whether the predicted peak is no more than a process has on the experiment's card; nothing if it names none."""
    size, peak = experiment.get("card_bytes"), cell.peak_bytes
    return {} if size is None else {"card_bytes": size, "fits_card": None if peak is None else peak <= size}


def _published(cell: MemoryCell, published: list[Cell]) -> TableRow:
    theirs = published_cell(cell, published, "peak_memory")
    reason = not_compared(theirs) if theirs else None
    value = theirs.value if theirs and reason is None else None
    return {
        "published": theirs.printed if theirs else None,
        "published_unit": theirs.unit if theirs else None,
        "predicted_over_published_percent": error_percent(times(cell.peak_bytes, 1 / GB), value),
        "predicted_over_published_if_gib_percent": error_percent(times(cell.peak_bytes, 1 / GIB), value),
        "not_compared": reason,
        "published_note": theirs.note or None if theirs else None,
    }


def _measured(cell: MemoryCell, device: str) -> TableRow:
    """What one device's record says of memory, and how far it lies from the prediction."""
    allocated = cell.allocated_bytes(device)
    columns = {
        "device": device,
        "outcome": outcome(cell.measured.get(device, {})),
        "allocated_bytes": allocated,
        "allocated_gb": times(allocated, 1 / GB),
        "allocated_gib": times(allocated, 1 / GIB),
        "over_predicted_percent": error_percent(allocated, cell.peak_bytes),
        "reserved_bytes": cell.result(device, "memory", "reserved_peak_bytes"),
        "process_bytes": cell.result(device, "memory", "process_peak_bytes"),
        "unmet": unmet(cell.measured.get(device, {})),
        **{f"{phase}_bytes": cell.result(device, "memory", "phases", phase) for phase in PHASES},
        **{f"{role}_bytes": cell.result(device, "memory", "components", role) for role in COMPONENTS},
    }
    return {f"measured_{slug(device)}_{key}": value for key, value in columns.items()}


def _trainable(cell: MemoryCell) -> TableRow:
    counts = cell.simulated.get("trainable_parameters") or {}
    return {
        **{f"trainable_parameters_{part}": counts.get(part) for part in TRAINABLE},
        "drawn_units": cell.simulated.get("drawn_units"),
        "visited_units": cell.simulated.get("visited_units"),
    }


def _ablation_row(cell: MemoryCell, base: MemoryCell, found: list[str], experiment: Mapping[str, Any]) -> TableRow:
    change = _minus(cell.peak_bytes, base.peak_bytes)
    parts, before = cell.simulated.get("components", {}), base.simulated.get("components", {})
    return {
        **_identity(cell),
        "changed": changed(cell, base),
        "predicted_peak_bytes": cell.peak_bytes,
        "predicted_peak_gb": times(cell.peak_bytes, 1 / GB),
        "predicted_peak_gib": times(cell.peak_bytes, 1 / GIB),
        "base_peak_bytes": base.peak_bytes,
        "change_bytes": change,
        "change_gb": times(change, 1 / GB),
        "change_percent": error_percent(cell.peak_bytes, base.peak_bytes),
        **{key: value for device in found for key, value in _measured_change(cell, base, device).items()},
        "peak_phase": cell.simulated.get("phase"),
        "peak_operator": cell.simulated.get("operator"),
        **{f"{role}_change_bytes": _minus(parts.get(role), before.get(role)) for role in COMPONENTS},
        **_conditions(cell, experiment),
    }


def changed(cell: MemoryCell, base: MemoryCell) -> str:
    """The settings that differ from the base, e.g. `adamw_implementation: foreach (fused)`."""
    names = [name for name in cell.settings if cell.settings[name] != base.settings.get(name)]
    return "; ".join(f"{_short(name)}: {word(cell.settings[name])} ({word(base.settings.get(name))})" for name in names)


def _measured_change(cell: MemoryCell, base: MemoryCell, device: str) -> TableRow:
    columns = _measured(cell, device)
    change = _minus(cell.allocated_bytes(device), base.allocated_bytes(device))
    return {**columns, f"measured_{slug(device)}_change_gb": times(change, 1 / GB)}


def _speed_row(
    cell: MemoryCell, full: MemoryCell | None, found: list[str], published: list[Cell], experiment: Mapping[str, Any]
) -> TableRow:
    bound = flop_bound(cell, full)
    return {
        **_identity(cell),
        **{f"flops_{part}": cell.flops(part) for part in FLOPS},
        "speedup_bound": bound,
        **{key: value for device in found for key, value in _measured_speed(cell, full, device).items()},
        **(_published_speed(cell, published, bound) if published else {}),
        **_conditions(cell, experiment),
    }


def _measured_speed(cell: MemoryCell, full: MemoryCell | None, device: str) -> TableRow:
    median_s = cell.result(device, "time", "step_median_s")
    full_s = full.result(device, "time", "step_median_s") if full else None
    columns = {
        "device": device,
        "outcome": outcome(cell.measured.get(device, {})),
        "step_median_s": median_s,
        "step_p90_s": cell.result(device, "time", "step_p90_s"),
        "tokens_per_s": cell.result(device, "throughput", "tokens_per_s"),
        "mfu": cell.result(device, "mfu"),
        "speedup_over_full": full_s / median_s if full_s and median_s else None,
    }
    return {f"measured_{slug(device)}_{key}": value for key, value in columns.items()}


def _published_speed(cell: MemoryCell, published: list[Cell], bound: float | None) -> TableRow:
    theirs = {metric: published_cell(cell, published, metric) if cell.base else None for metric in TIMES}
    ratio = theirs["speedup_over_full"]
    return {
        **{f"published_{metric}": found.value if found else None for metric, found in theirs.items()},
        "verdict": speed_verdict(ratio, bound) if ratio else None,
        "published_note": distinct(found.note for found in theirs.values() if found),
    }


def speed_verdict(ratio: Cell, bound: float | None) -> str | None:
    """Whether a published speed-up can come from skipped work alone, its rounding granted."""
    if ratio.value is None or bound is None:
        return None
    return EXCEEDS if ratio.value - rounding(ratio.printed) > bound else WITHIN


def _conditions(cell: MemoryCell, experiment: Mapping[str, Any]) -> TableRow:
    """The columns that close every CSV: the settings, and what made the prediction and the measurements."""
    simulator = cell.simulated.get("environment", {})
    measured = [record.get("environment", {}) for record in cell.measured.values()]
    every = [simulator, *measured]
    dirty = [environment.get("git_dirty") for environment in every if environment]
    return {
        "experiment": experiment["name"],
        **cell.planned["conditions"],
        "simulated_with": packages_line(simulator.get("packages", {})) or None,
        "measured_with": distinct_packages(packages_line(environment.get("packages", {})) for environment in measured),
        "git_commit": distinct(environment.get("git_commit") for environment in every),
        "git_dirty": any(dirty) if dirty else None,
    }


def _minus(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _short(name: str) -> str:
    return name.removeprefix("hyperparameters.")
