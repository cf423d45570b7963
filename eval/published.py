"""What papers report: the tables of `results/published/*.csv`, one row a cell, and which cell a row of ours answers to.

`published_tables()` names the tables, `load(name)` reads one, `find(cells, ...)` picks the cell that a row answers to.
A cell's `hyperparameters` (`rank=128;...`, in our methods' own names) must agree with a run's for the two to be
compared; a key the paper leaves open is not named.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import EvaluationError

FOLDER = Path(__file__).resolve().parents[1] / "results" / "published"
TEXTS = ("paper", "version", "table", "model", "method", "variant", "metric", "unit", "note")
COLUMNS = [*TEXTS[:6], "hyperparameters", "metric", "value", "unit", "note"]


@dataclass(frozen=True)
class Cell:
    """One printed number; `value` is None where the paper prints a word such as OOM, which `note` then begins with."""

    paper: str
    version: str
    table: str
    model: str
    method: str
    variant: str
    hyperparameters: Mapping[str, float]
    metric: str
    value: float | None
    printed: str
    unit: str
    note: str


def published_tables(folder: Path = FOLDER) -> list[str]:
    """Names of the published tables: the CSV files' stems."""
    return sorted(file.stem for file in folder.glob("*.csv"))


def load(name: str, folder: Path = FOLDER) -> list[Cell]:
    """All cells of a published table, in the paper's order.

    Raises:
        EvaluationError: there is no such table, or a row of it is malformed.
    """
    file = folder / f"{name}.csv"
    if not file.is_file():
        raise EvaluationError(f"Unknown published table {name!r}. Known: {', '.join(published_tables(folder))}.")
    with file.open(newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != COLUMNS:
            raise EvaluationError(f"{file}: columns are {reader.fieldnames}; expected {COLUMNS}.")
        return [_cell(row, f"{file}, line {reader.line_num}") for row in reader]


def _cell(row: dict[str, str], where: str) -> Cell:
    try:
        value = float(row["value"]) if row["value"] else None
        pairs = (pair.split("=") for pair in row["hyperparameters"].split(";") if pair)
        hyperparameters = {key: float(number) for key, number in pairs}
    except ValueError as error:
        raise EvaluationError(f"{where}: {error}; expected a number or nothing, and name=number;...") from error
    printed = row["value"] or row["note"].split(";")[0]
    texts = {key: row[key] for key in TEXTS}
    return Cell(**texts, value=value, printed=printed, hyperparameters=hyperparameters)


def find(
    cells: Iterable[Cell], model: str, method: str, hyperparameters: Mapping[str, Any], metric: str
) -> Cell | None:
    """The cell that this row of ours answers to, or None; among several the one that states most hyper-parameters."""
    wanted = (model, method, metric)
    fitting = [c for c in cells if (c.model, c.method, c.metric) == wanted and agrees(c, hyperparameters)]
    return max(fitting, key=lambda cell: len(cell.hyperparameters), default=None)


def agrees(cell: Cell, hyperparameters: Mapping[str, Any]) -> bool:
    """Whether every hyper-parameter the cell states has the same value in ours."""
    return all(key in hyperparameters and hyperparameters[key] == value for key, value in cell.hyperparameters.items())


def rounding(printed: str) -> float:
    """Half a unit of the last printed digit: 59 is 58.5 to 59.5."""
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])
