"""A results folder as one of two sides: its rows, of trained runs or of memory cells, and where they were made.

    side = read_side(Path("results/smoke"), experiment)      # the content of its experiment.json
    side = read_side(Path("results/reference/cpu/memory_cpu"), None)      # there is none: its records tell

A folder speaks for itself: what `results/reference/` holds of a memory experiment is not read into another folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval import EvaluationError, memory_cells
from eval.collect import Row, Run, collect, group
from eval.conditions import PACKAGES, distinct, of_records
from eval.memory_cells import MemoryCell
from eval.recorded import recorded

IDENTITY = {"training": ("model", "data", "method", "variant"), "memory": ("model", "method", "variant", "setting")}

Json = Mapping[str, Any]
Key = tuple[str, ...]  # the values of a row's IDENTITY


@dataclass(frozen=True)
class Side:
    """One of the two folders.

    Args:
        kind: `training`, or `memory`: each row is then a cell with at most one run, its measurement.
        predictions: of cells, by the key of their row.
    """

    folder: Path
    experiment: Json
    kind: str
    rows: Mapping[Key, Row]
    predictions: Mapping[Key, Json] = field(default_factory=dict)

    @property
    def conditions(self) -> dict[str, Any]:
        """Where and with what its numbers were made: what two machines or versions may differ in."""
        measured = [run.record for row in self.rows.values() for run in row.runs if run.record]
        records = measured or [{"environment": found.get("environment", {})} for found in self.predictions.values()]
        environments = [record["environment"] for record in records]
        keys = ("driver", "cuda", "python", "lock_sha256")
        more = {key: distinct(environment.get(key) for environment in environments) for key in keys}
        versions = [environment.get("packages", {}) for environment in environments]
        packages = {name: distinct(found.get(name) for found in versions) for name in PACKAGES}
        return {"experiment": self.experiment["name"], **of_records(records), **more, "packages": packages}

    @property
    def scored(self) -> bool:
        """Whether any run has scores; committed folders of run records have none."""
        return any(run.benchmarks or run.judged for row in self.rows.values() for run in row.runs)

    def part(self, chosen: Mapping[str, str]) -> Side:
        """The rows with these values of their identity, e.g. {"method": "lora"}."""
        keys = [key for key in self.rows if chosen.items() <= dict(zip(IDENTITY[self.kind], key, strict=True)).items()]
        predictions = {key: self.predictions[key] for key in keys if key in self.predictions}
        return Side(self.folder, self.experiment, self.kind, {key: self.rows[key] for key in keys}, predictions)


def read_side(folder: Path, experiment: Json | None) -> Side | None:
    """A results folder by its experiment.json, or by its records where there is none; None: nor is there a record.

    Raises:
        EvaluationError: a file is damaged, or the experiment lists neither runs nor cells.
    """
    experiment = recorded(folder) if experiment is None else experiment
    if experiment is None:
        return None
    if "name" not in experiment or not experiment.keys() & {"cells", "runs"}:
        raise EvaluationError(f"{folder / 'experiment.json'} lists neither runs nor cells: no pipeline wrote it.")
    if "cells" in experiment:
        cells = memory_cells.collect(experiment, folder, reference=None)
        predictions = {_cell_key(cell): cell.simulated for cell in cells if cell.simulated}
        rows = {_cell_key(cell): Row((_as_run(cell),), "") for cell in cells}
        return Side(folder, experiment, "memory", rows, predictions)
    found = group(collect(experiment, folder), experiment)
    return Side(folder, experiment, "training", {row.key: row for row in found})


def _cell_key(cell: MemoryCell) -> Key:
    return (*cell.row, cell.planned["setting"])


def _as_run(cell: MemoryCell) -> Run:
    """A cell's measurement, as far as there is one, as the one run of a row."""
    record = next(iter(cell.measured.values()), {})
    about = {key: cell.planned[key] for key in ("model", "method", "variant", "hyperparameters", "learning_rate")}
    files = dict.fromkeys(("scores", "mt_bench", "pairwise", "noise_floor", "general_text"), {})
    ended = {"status": record.get("status", "not measured"), "phase": record.get("phase") or ""}
    reason = str(record.get("error") or "; ".join(cell.unused))
    place = {"data": "synthetic", "seed": record.get("seed", 0), "path": cell.path, "folder": cell.folder}
    return Run(**about, **place, **ended, reason=reason, foreign=bool(cell.unused), record=record, **files)
