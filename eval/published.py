"""What papers report: the tables of `results/published/*.csv`, one row a cell, and which cell a row of ours answers to.

`published_tables()` names the tables, `load(name)` reads one, `find(cells, ...)` picks the cell that a row answers to.
A cell's `hyperparameters` (`rank=128;...`, in our methods' own names) must agree with a run's for the two to be
compared; a key the paper leaves open is not named. A cell without a value has a word in its place, with which its note
begins: OOM, or `not at hand` where the paper has a number that we could not read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import EvaluationError

FOLDER = Path(__file__).resolve().parents[1] / "results" / "published"
TEXTS = ("paper", "version", "table", "model", "method", "variant", "metric", "unit", "note")
COLUMNS = [*TEXTS[:6], "hyperparameters", "metric", "value", "unit", "note"]
SHOTS = re.compile(r"(\d+|zero)-shot")  # in notes
WRITTEN = (
    "the paper's model writes its answer, in which the option is searched; lm-eval compares the options' likelihoods"
)
SEARCHED = "the paper asks and searches the written answer with code of its own, not lm-eval's"
WRITING_PAPERS = ("BAdam (arXiv 2404.02827)", "DoRA (arXiv 2402.09353)")  # whose models write all their answers


@dataclass(frozen=True)
class Cell:
    """One printed number, or the word in its place (`value` is None)."""

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

    @property
    def shots(self) -> int | None:
        """Demonstrations in the prompt, where the note says how many."""
        found = SHOTS.search(self.note)
        return None if found is None else 0 if found[1] == "zero" else int(found[1])

    def asked_otherwise(self, writes: bool) -> str | None:
        """Why a score is not of lm-eval's measurement; `writes`: in lm-eval too the model writes its answer."""
        if self.paper not in WRITING_PAPERS:
            return None
        return SEARCHED if writes else WRITTEN


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
