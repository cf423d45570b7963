"""The rows of a panel on one metric, item by item and aligned: what `eval/verdicts.py` compares.

    store = Store()
    aligned = store.aligned(rows, slot)          # rows of one model and data set; slot: of eval.protocols.slots
    aligned.values["..."], aligned.left_out      # Values by the row's key; items that not all rows have

An item is what was asked: its id with the hash of its prompt, so that answers to different prompts never pair. Of
MT-Bench an item is a question, with the mean of its turns' ratings. Each run's samples.jsonl.gz and judgments.jsonl are
read once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from eval import EvaluationError
from eval.benchmarks import SUITES
from eval.collect import Row, Run
from eval.items import read_comparisons, read_judgments, read_right_or_wrong
from eval.json_files import AGAIN
from eval.pairwise import points_by_question
from eval.protocols import MT_BENCH, Slot, comparing_judge
from eval.values import Array, Values

Key = tuple[Any, ...]
Items = dict[Key, float]  # in the order of the file


@dataclass(frozen=True)
class Aligned:
    """Rows on the items that all of them have.

    Args:
        values: by the row's key; rows without item-level results are not in it. Empty where the rows share no items.
        items: how many all rows have.
        left_out: how many some rows have and others lack.
        alone: likewise, the rows with items that others lack on all items of their own.
        without: keys of rows of which a run left no item-level results.
    """

    values: Mapping[Key, Values]
    items: int
    left_out: int
    alone: Mapping[Key, Values] = field(default_factory=dict)
    without: tuple[Key, ...] = ()


class Store:
    """Item-level results of runs, each file read once."""

    def __init__(self) -> None:
        self._scored, self._judged = functools.cache(_scored), functools.cache(_judged)

    def aligned(self, rows: Iterable[Row], slot: Slot) -> Aligned:
        """The rows' values of a metric under one protocol; a seed without a file of items is a row without."""
        parts = {row.key: slot.part(row).runs for row in rows}
        return self._aligned(parts, lambda run: self._strata(run, slot.metric))

    def compared(self, rows: Iterable[Row]) -> Aligned:
        """Win rates against MT-Bench's pairwise baseline, question by question, of the rows compared with it; none
        where more than one judge compared them.
        """
        parts = {row.key: tuple(run for run in row.runs if run.pairwise.get("status") == "ok") for row in rows}
        if len({comparing_judge(run) for runs in parts.values() for run in runs}) > 1:
            return Aligned({}, 0, 0)
        return self._aligned(parts, lambda run: _or_none([_win_rates(run)]))

    def _aligned(
        self, parts: Mapping[tuple[str, ...], Sequence[Run]], items_of: Callable[[Run], list[Items] | None]
    ) -> Aligned:
        read = {key: [items_of(run) for run in runs] for key, runs in parts.items() if runs}
        found = {key: [seed for seed in seeds if seed is not None] for key, seeds in read.items()}
        without = tuple(key for key, seeds in read.items() if len(found[key]) < len(seeds))
        found = {key: seeds for key, seeds in found.items() if key not in without}
        if not found:
            return Aligned({}, 0, 0)
        shared = _strata([seed for seeds in found.values() for seed in seeds])
        own = {key: _strata(seeds) for key, seeds in found.items()}
        names = {key: tuple(run.seed for run in parts[key]) for key in found}
        values = {key: _values(seeds, shared, names[key]) for key, seeds in found.items()} if all(shared) else {}
        alone = {
            key: _values(found[key], strata, names[key])
            for key, strata in own.items()
            if all(strata) and _size(strata) > _size(shared)
        }
        places = range(len(shared))
        every = [seed for seeds in found.values() for seed in seeds]
        union = sum(len({_name(item) for seed in every for item in seed[place]}) for place in places)
        return Aligned(values, _size(shared), union - _size(shared), alone, without)

    def _strata(self, run: Run, metric: str) -> list[Items] | None:
        """The items behind a metric of a run, one mapping a benchmark; None where the run left no items of one."""
        if metric.startswith(MT_BENCH):
            return _or_none([_questions(self._judged(run.folder), metric)])
        members = SUITES[metric].members if metric in SUITES else (metric,)
        return _or_none([self._scored(run.folder).get(member, {}) for member in members])


def _scored(folder: Path) -> dict[str, Items]:
    """A run's right and wrong answers by benchmark."""
    items: dict[str, Items] = {}
    if (folder / "samples.jsonl.gz").is_file():
        for benchmark, item_id, prompt, correct in read_right_or_wrong(folder):
            items.setdefault(benchmark, {})[item_id, prompt] = float(correct)
    return items


def _judged(folder: Path) -> list[dict[str, Any]]:
    return _rows(read_judgments, folder, "judgments.jsonl")


def _name(item: Any) -> Any:
    """An item without the prompt that it was asked by."""
    return item[0] if isinstance(item, tuple) else item


def _rows(read: Callable[[Path], list[dict[str, Any]]], folder: Path, name: str) -> list[dict[str, Any]]:
    return read(folder) if (folder / name).is_file() else []


def _questions(judgments: Sequence[Mapping[str, Any]], metric: str) -> Items:
    """Each rated question of a metric's categories with the mean of its turns."""
    category = metric.removeprefix(f"{MT_BENCH}_")
    of_metric = {
        MT_BENCH: judgments,
        "mt_bench_without_coding": [row for row in judgments if row.get("category") != "coding"],
    }.get(metric, [row for row in judgments if row.get("category") == category])
    ratings: dict[Any, list[Mapping[str, Any]]] = {}
    for row in of_metric:
        if row["rating"] is not None:
            ratings.setdefault(row["question_id"], []).append(row)
    return {
        (question, *sorted((row["turn"], row.get("prompt_sha256")) for row in rows)): fmean(
            row["rating"] for row in rows
        )
        for question, rows in ratings.items()
    }


def _win_rates(run: Run) -> Items:
    points = points_by_question(_rows(read_comparisons, run.folder, "comparisons.jsonl"))
    return {(question,): fmean(earned) for question, earned in points.items()}


def _or_none(strata: list[Items]) -> list[Items] | None:
    return strata if all(strata) else None


def _strata(seeds: list[list[Items]]) -> list[list[Key]]:
    """Of each stratum the items that all have."""
    return [_shared([seed[place] for seed in seeds]) for place in range(len(seeds[0]))]


def _size(strata: list[list[Key]]) -> int:
    return sum(map(len, strata))


def _values(seeds: list[list[Items]], strata: list[list[Key]], names: tuple[int, ...]) -> Values:
    """A row on these items."""
    return Values(tuple(_array([seed[place] for seed in seeds], items) for place, items in enumerate(strata)), names)


def _shared(items: list[Items]) -> list[Key]:
    """The items of all, in the order of the first."""
    first, *others = items
    if all(first.keys() == other.keys() for other in others):
        return list(first)
    return [key for key in first if all(key in other for other in others)]


def _array(seeds: list[Items], shared: list[Key]) -> Array:
    """(seeds, items)"""
    return np.array([[items[key] for key in shared] for items in seeds])


def of_seeds(rows: Iterable[Row], value: Callable[[Run], float | None]) -> Aligned:
    """The rows' values of what has no items, such as a loss: one number a seed, from runs that trained.

    Raises:
        EvaluationError: a record holds a number that is none.
    """
    rows = list(rows)
    for run in (run for row in rows for run in row.runs if run.trained):
        if (number := value(run)) is not None and not math.isfinite(number):
            raise EvaluationError(f"{run.folder / 'run.json'}: {number} is no number to compare. {AGAIN}")
    found = {
        row.key: {run.seed: number for run in row.runs if run.trained and (number := value(run)) is not None}
        for row in rows
    }
    values = {
        key: Values((np.array([*numbers.values()], dtype=float)[:, None],), tuple(numbers))
        for key, numbers in found.items()
        if numbers
    }
    return Aligned(values, 1, 0)
