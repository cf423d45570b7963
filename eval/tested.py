"""What tests said of a table's columns, as tables and pages read it; `eval/significance.py` makes it.

verdicts.of(row, "gsm8k")                              # Cell: interval and letters of a row, None where untested
verdicts.columns(row, "gsm8k", "gsm8k", "percent")     # the same as columns of a CSV
verdicts.sentences(["gsm8k", "mt_bench"])              # what stands under a table
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.collect import Row

if TYPE_CHECKING:
    from eval.verdicts import Difference, Verdict

TESTS_NOTE = (
    "In brackets: 95 % interval over seeds and items (hierarchical bootstrap; of a loss or a time Student's t over "
    "seeds). Letters: rows that share one are not told apart, which is no proof that they are equal: with few seeds "
    "and many pairs even large differences are not. Every pair of a column is tested on the same items (exactly for "
    "right and wrong, by drawn signs for more than 16 ratings, by Student's t for a suite's mean) and over seeds and "
    "items (Welch's t); the larger p is corrected for the number of pairs (Holm). A difference counts at p <= 0.05 if "
    "its interval leaves out 0 and, of accuracies, it is larger than the noise floor. tables/differences.csv has all "
    "pairs."
)

Panel = tuple[str, str]  # model, data


@dataclass(frozen=True)
class Column:
    """A tested column of a panel.

    Args:
        key: as in the tables: a slot's, or `validation_loss`, `step_median_s`, `bits_per_byte`, `win_rate`.
        label, unit: for people; values times `factor` have the unit and, in words, `digits` decimals.
        sentence: the verdict in words.
    """

    key: str
    label: str
    unit: str
    factor: float
    digits: int
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Cell:
    """A row in a tested column, in the column's unit: its interval, and the letters of its groups of equals."""

    low: float
    high: float
    group: str | None


@dataclass(frozen=True)
class Verdicts:
    """All tested columns by panel and key."""

    panels: Mapping[Panel, Mapping[str, Column]]

    def have(self, keys: Iterable[str]) -> bool:
        """Whether any panel has any of these columns."""
        return any(key in columns for columns in self.panels.values() for key in keys)

    def of(self, row: Row, key: str) -> Cell | None:
        """A row's interval and letters in a column; letters only where something was tested."""
        column = self.panels.get(row.key[:2], {}).get(key) if row.runs else None
        interval = column.verdict.intervals.get(row.label) if column else None
        if column is None or interval is None:
            return None
        low, high = (column.factor * end for end in interval)
        return Cell(low, high, self._group(row, key))

    def _group(self, row: Row, key: str) -> str | None:
        """Letters, also of a row whose seeds are all alike and give no interval."""
        column = self.panels.get(row.key[:2], {}).get(key) if row.runs else None
        return column.verdict.groups.get(row.label) if column and column.verdict.tested else None

    def columns(self, row: Row, key: str, name: str, unit: str = "") -> dict[str, float | str | None]:
        """A row's interval as `<name>_low_<unit>` and `<name>_high_<unit>`, and its letters as `<name>_group`."""
        cell, end = self.of(row, key), f"_{unit}" if unit else ""
        ends = {f"{name}_{side}{end}": getattr(cell, side) if cell else None for side in ("low", "high")}
        return {**ends, f"{name}_group": self._group(row, key)}

    def sentences(self, keys: Iterable[str]) -> list[str]:
        """The verdicts of these columns, panel by panel; the panel is named where there are several."""
        keys = list(keys)
        return [
            (f"{' on '.join(panel)}, " if len(self.panels) > 1 else "") + columns[key].sentence
            for panel, columns in self.panels.items()
            for key in keys
            if key in columns and len(columns[key].verdict.order) > 1
        ]

    def differences(self) -> Iterator[tuple[Panel, Column, Difference]]:
        """Every pair of every column."""
        for panel, columns in self.panels.items():
            for column in columns.values():
                for difference in column.verdict.differences:
                    yield panel, column, difference


UNTESTED = Verdicts({})


def is_category(key: str) -> bool:
    """Whether a column is a part of MT-Bench, which stands in a table of its own."""
    return key.startswith("mt_bench_") and not key.endswith("_without_coding") and not key.rpartition("_")[2].isdigit()
