"""Tables as text: a `Table` from rows and columns, its Markdown, the formats of cells; for `eval/present.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

EMPTY = "–"
MB, GB = 1e6, 1e9  # bytes

Text = Callable[[dict[str, Any]], str]


@dataclass(frozen=True)
class Table:
    """A table as text.

    Args:
        numeric: per column, whether it is aligned to the right.
        failed: per row, whether a run of it is not ok.
        notes: how to read the table.
        conditions: under what conditions its numbers were made.
        verdicts: what tests say of its rows, a sentence a column; first of all notes.
        heading: what stands above it on a page.
        folded: whether a page shows it only to those who unfold it.
    """

    name: str
    title: str
    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    body: tuple[tuple[str, ...], ...]
    failed: tuple[bool, ...]
    notes: tuple[str, ...]
    conditions: tuple[str, ...]
    heading: str
    folded: bool = False
    verdicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """How the text of a column follows from a row."""

    title: str
    text: Text
    numeric: bool = True


def build(
    name: str,
    title: str,
    columns: Iterable[Column],
    rows: list[dict[str, Any]],
    notes: Iterable[str],
    conditions: Iterable[str],
    heading: str | None = None,
    folded: bool = False,
    verdicts: Iterable[str] = (),
) -> Table:
    """Apply the columns to the rows; a column without a single value is dropped. A row without a status is ok."""
    kept = [column for column in columns if any(column.text(row) != EMPTY for row in rows)]
    return Table(
        name=name,
        title=title,
        header=tuple(column.title for column in kept),
        numeric=tuple(column.numeric for column in kept),
        body=tuple(tuple(column.text(row) for column in kept) for row in rows),
        failed=tuple(row.get("status", "ok") not in ("ok", "not run", "not measured") for row in rows),
        notes=tuple(notes),
        conditions=tuple(conditions),
        heading=heading or name.capitalize(),
        folded=folded,
        verdicts=tuple(verdicts),
    )


def to_markdown(table: Table) -> str:
    """A Markdown document: title, pipe table, verdicts, notes and conditions."""
    rule = line("---:" if numeric else "---" for numeric in table.numeric)
    lines = [f"# {table.title}", "", line(table.header), rule, *map(line, table.body)]
    verdicts = ["", *(f"- **{verdict}**" for verdict in table.verdicts)] if table.verdicts else []
    notes = (f"- {note}" for note in (*table.notes, *table.conditions))
    return "\n".join([*lines, *verdicts, "", *notes]) + "\n"


def line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


# --- cells


def plain(key: str) -> Text:
    """The value as it is."""
    return lambda row: EMPTY if row.get(key) in (None, "") else str(row[key])


Digits = int | Callable[[dict[str, Any]], int]  # decimals; below zero tens, hundreds ... are rounded


def number(key: str, digits: Digits, factor: float = 1, unit: str = "") -> Text:
    """A number, thousands separated; `factor` changes its unit."""

    def text(row: dict[str, Any]) -> str:
        if row.get(key) is None:
            return EMPTY
        return _rounded(row[key] * factor, digits if isinstance(digits, int) else digits(row)) + unit

    return text


def significant(key: str, figures: int) -> Digits:
    """The decimals with which a positive value has so many significant digits."""
    return lambda row: figures - 1 - math.floor(math.log10(row[key]))


def _rounded(value: float, places: int) -> str:
    return f"{round(value, places):,.{max(places, 0)}f}"


def plus_minus(key: str, stderr_key: str, digits: Digits) -> Text:
    """Value ± standard error; the value alone where the error is unknown. The digits may depend on the row."""

    def text(row: dict[str, Any]) -> str:
        if row.get(key) is None:
            return EMPTY
        places = digits if isinstance(digits, int) else digits(row)
        error = "" if row.get(stderr_key) is None else f" ± {_error(row[stderr_key], places)}"
        return _rounded(row[key], places) + error

    return text


def estimate(name: str, unit: str, digits: Digits, less: int = 0) -> Text:
    """A tested value with its 95 % interval, `less` decimals fewer, and its letters: `61.9 [55.1, 68.4] ab`; untested,
    with its standard error. The keys are those of `eval.tested.Verdicts.columns`.
    """
    end = f"_{unit}" if unit else ""
    untested = plus_minus(f"{name}{end}", f"{name}_stderr{end}", digits)

    def text(row: dict[str, Any]) -> str:
        low, high = row[f"{name}_low{end}"], row[f"{name}_high{end}"]
        letters = f" {row[f'{name}_group']}" if row[f"{name}_group"] else ""
        if row[f"{name}{end}"] is None or low is None or high is None:
            return untested(row) + letters
        places = digits if isinstance(digits, int) else digits(row)
        fewer = max(places - less, 0) if places > 0 else places
        value, low, high = (_rounded(number, fewer) for number in (row[f"{name}{end}"], low, high))
        return f"{value} [{low}, {high}]{letters}"

    return text


def _error(stderr: float, places: int) -> str:
    """Never a zero that is none."""
    return f"<{10.0**-places:g}" if stderr > 0 and round(stderr, places) == 0 else _rounded(stderr, places)


def megabytes(key: str) -> Text:
    """Bytes as MB (1e6)."""
    return number(key, 1, factor=1 / MB)


def gigabytes(key: str) -> Text:
    """Bytes as GB (1e9)."""
    return number(key, 2, factor=1 / GB)


def memory_unit(peaks_bytes: Iterable[float | None]) -> tuple[str, Callable[[str], Text]]:
    """The unit for a table's memory columns and its format: MB while nothing reaches 1 GB."""
    largest = max((peak for peak in peaks_bytes if peak is not None), default=0)
    return ("GB", gigabytes) if largest >= GB else ("MB", megabytes)


def signed(key: str, digits: Digits) -> Text:
    """A difference with its sign."""

    def text(row: dict[str, Any]) -> str:
        if row.get(key) is None:
            return EMPTY
        return f"{row[key]:+.{digits if isinstance(digits, int) else digits(row)}f}"

    return text
