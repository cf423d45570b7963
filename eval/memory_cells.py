"""Read what a memory experiment left behind: every planned cell with its prediction and with what was measured of it.

    cells = collect(experiment, Path("results/table1_memory"))   # experiment: its resolved form, with `cells`

A prediction is `<results>/<cell>/simulated.json`. A measurement is `run.json` (or `failure.json`) in the same folder or
in `results/reference/<device>/<experiment>/<cell>/`; there may be one for each of several devices, and on one device
one's own comes before the reference. A file of other settings than the planned ones counts as missing, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.collect import dig
from eval.json_files import read_json, require
from eval.planned import words

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference"
BASE = "default"  # the setting of the cells that are compared with the paper
PHASES = ("load", "forward", "backward", "step")
SIMULATED = ("status", "method", "conditions", "peak_bytes", "phase", "operator", "phases", "components", "parameters")
MEASURED = ("status", "method", "settings", "environment", "memory", "time")
NOT_SIMULATED = "no simulated.json: the simulation failed (its log says why) or never started"
UNKNOWN_DEVICE = "unknown device"

Json = Mapping[str, Any]


@dataclass(frozen=True)
class MemoryCell:
    """One planned cell; `simulated` is empty where there is no prediction, and `reason` says why.

    Args:
        planned: its entry in the experiment's `cells`.
        folder: where its own files stand.
        measured: by device, the run record; `homes`: by device, the folder it stands in.
        unused: why files that stand there were not used.
    """

    planned: Json
    folder: Path
    simulated: Json = field(default_factory=dict)
    measured: Mapping[str, Json] = field(default_factory=dict)
    homes: Mapping[str, Path] = field(default_factory=dict)
    reason: str = ""
    unused: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """<model>/<method>/<variant>/<setting>."""
        return self.planned["path"]

    @property
    def row(self) -> tuple[str, str, str]:
        """(model, method, variant): what the cells of all settings share."""
        return (self.planned["model"], self.planned["method"], self.planned["variant"])

    @property
    def base(self) -> bool:
        """Whether it has the experiment's own settings, and not one of those varied."""
        return self.planned["setting"] == BASE

    @property
    def label(self) -> str:
        """Method, and variant unless that is `default`."""
        _, method, variant = self.row
        return method if variant == BASE else f"{method} {variant}"

    @property
    def status(self) -> str:
        """`ok`, or `not simulated`."""
        return "ok" if self.simulated else "not simulated"

    @property
    def peak_bytes(self) -> int | None:
        """The predicted peak."""
        return self.simulated.get("peak_bytes")

    @property
    def settings(self) -> Json:
        """All that decides the cell besides model and method; hyper-parameters as `hyperparameters.rank`."""
        return _settings(self.planned["hyperparameters"], self.planned["conditions"])

    def flops(self, part: str = "total") -> int | None:
        """Predicted FLOPs of a step: `forward`, `backward` or `total`."""
        return dig(self.simulated, ("flops", part))

    def allocated_bytes(self, device: str) -> int | None:
        """The measured peak on a device; None where nothing was measured to its end."""
        return self.result(device, "memory", "allocated_peak_bytes")

    def result(self, device: str, *keys: str) -> Any:
        """A value of the record of a measurement that ended well."""
        record = self.measured.get(device, {})
        return dig(record, keys) if record.get("status") == "ok" else None


def collect(experiment: Json, results: Path, reference: Path | None = REFERENCE) -> list[MemoryCell]:
    """Every cell of the experiment's list, in its order; without a reference, only what its own folder holds.

    Raises:
        EvaluationError: a file that exists cannot be read, or lacks a field that the tables need.
    """
    references = sorted(reference.glob(f"*/{experiment['name']}")) if reference else []
    planned_cells = json.loads(json.dumps(experiment["cells"]))  # as files have it: lists, no tuples
    return [_read_cell(planned, results, references) for planned in planned_cells]


def devices(cells: Iterable[MemoryCell]) -> list[str]:
    """The devices that anything was measured on."""
    return list(dict.fromkeys(device for cell in cells for device in cell.measured))


def siblings(cells: Iterable[MemoryCell]) -> dict[tuple[str, str, str], MemoryCell]:
    """The cell at the base setting of each (model, method, variant)."""
    return {cell.row: cell for cell in cells if cell.base}


def _read_cell(planned: Json, results: Path, references: list[Path]) -> MemoryCell:
    folder = results / planned["path"]
    simulated, reason = _simulated(folder, planned)
    measured: dict[str, Json] = {}
    homes: dict[str, Path] = {}
    unused: list[str] = [reason] if reason and reason != NOT_SIMULATED else []
    for home in (folder, *(root / planned["path"] for root in references)):
        record, other = _measured(home, planned)
        device = record["environment"].get("device") or UNKNOWN_DEVICE if record else UNKNOWN_DEVICE
        if record and device not in measured:
            measured[device], homes[device] = record, home
        unused += [other] if other else []
    return MemoryCell(planned, folder, simulated, measured, homes, reason, tuple(unused))


def _simulated(folder: Path, planned: Json) -> tuple[Json, str]:
    """The prediction, and why there is none."""
    file = folder / "simulated.json"
    content = read_json(file, SIMULATED)
    if not content:
        return {}, NOT_SIMULATED
    if content["status"] != "ok":
        return {}, str(content.get("error") or content["status"])
    other = _difference(_settings(content["method"]["hyperparameters"], content["conditions"]), planned)
    return ({}, f"{file.name} is of other settings ({other}): simulate again") if other else (content, "")


def _measured(folder: Path, planned: Json) -> tuple[Json, str]:
    """The record of a measurement, and why one that stands there is not used."""
    file = next((folder / name for name in ("failure.json", "run.json") if (folder / name).is_file()), None)
    record = read_json(file, ("status", "environment")) if file else {}
    if not file or not record or record["status"] == "failed":
        return record, ""
    require(file, record, MEASURED if record["status"] == "ok" else MEASURED[:4])
    conditions = {key: record["settings"].get(key) for key in planned["conditions"]}
    other = _difference(_settings(record["method"]["hyperparameters"], conditions), planned)
    return ({}, f"{file.name} is of other settings ({other}): measure again") if other else (record, "")


def _settings(hyperparameters: Json, conditions: Json) -> dict[str, Any]:
    return {f"hyperparameters.{key}": value for key, value in hyperparameters.items()} | dict(conditions)


def _difference(found: Json, planned: Json) -> str:
    """The first setting that is not the planned one, as `name: found, planned other`."""
    plan = _settings(planned["hyperparameters"], planned["conditions"])
    for name in dict.fromkeys([*plan, *found]):
        if found.get(name) != plan.get(name):
            return "{}: {}, planned {}".format(name, *words(found.get(name), plan.get(name)))
    return ""


def outcome(record: Json) -> str:
    """What a measurement came to, in words: `ok`, `oom (train)`, `failed (load)`; nothing measured: that."""
    if not record:
        return "not measured here"
    if record["status"] == "ok":
        return "ok"
    return f"{record['status']} ({record['phase']})" if record.get("phase") else str(record["status"])


def unmet(record: Json) -> str | None:
    """What a measurement ended without: layers that were never drawn, a periodic cost that never fell due."""
    settings = record.get("settings", {}) if record.get("status") == "ok" else {}
    drawn, visited = settings.get("drawn_units") or 0, settings.get("visited_units") or 0
    parts = [f"{visited} of {drawn} units drawn"] if visited < drawn else []
    parts += ["no periodic cost"] if settings.get("periodic_cost_seen") is False else []
    return ", ".join(parts) or None
