"""Every pair of rows of every tested column: difference, interval, p-values, and whether the two are told apart.

lines = differences(verdicts, experiment)          # tables/differences.csv, a line a pair; empty if nothing was tested
table = differences_table(lines, experiment)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eval.mt_bench_tables import several
from eval.tables import times
from eval.tested import TESTS_NOTE, Column, Verdicts
from eval.text import Column as Shown
from eval.text import Table, build, plain

HEADING = "Differences of pairs"
MOST_DECIMALS = 6

Line = dict[str, Any]


def differences(verdicts: Verdicts, experiment: Mapping[str, Any]) -> list[Line]:
    """A line for each pair and column, in the column's unit."""
    return [
        {
            "experiment": experiment["name"],
            **{"model": model, "data": data, "column": column.key, "label": column.label, "unit": column.unit},
            **{"a": pair.a, "b": pair.b},
            **{key: times(getattr(pair, key), column.factor) for key in ("value", "low", "high")},
            **{key: getattr(pair, key) for key in ("p_items", "p_seeds_and_items")},
            "p_holm": pair.p_holm if column.verdict.too_few is None else None,
            "better": _better(column, pair),
        }
        for (model, data), column, pair in verdicts.differences()
    ]


def _better(column: Column, pair: Any) -> str | None:
    """The better row of a pair that is told apart; none where it is not, or was not tested."""
    if not pair.apart:
        return None
    return pair.a if (pair.value > 0) != column.verdict.lower_is_better else pair.b


def differences_table(lines: list[Line], experiment: Mapping[str, Any]) -> Table:
    """The lines of `differences` for people; a page shows them folded."""
    columns = [
        *(Shown(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Shown("Score", lambda line: f"{line['label']} ({line['unit']})", numeric=False),
        *(Shown(key, plain(key), numeric=False) for key in ("a", "b")),
        Shown("a − b [95 % interval]", _difference),
        *(Shown(title, _p(key)) for key, title in P_VALUES.items()),
        Shown("Better", _verdict, numeric=False),
    ]
    title = f"{experiment['name']}: differences of pairs"
    return build("differences", title, columns, lines, [TESTS_NOTE], (), HEADING, folded=True)


P_VALUES = {"p_items": "p, items", "p_seeds_and_items": "p, seeds and items", "p_holm": "p, corrected (Holm)"}


def _difference(line: Line) -> str:
    """All numbers with the decimals that give the largest four digits."""
    numbers = [line[key] for key in ("value", "low", "high") if line[key] is not None]
    largest = max(map(abs, numbers))
    places = min(max(3 - math.floor(math.log10(largest)), 0), MOST_DECIMALS) if largest else 0
    value, *ends = (f"{number:+z.{places}f}" for number in numbers)
    return f"{value} [{', '.join(ends)}]" if ends else value


def _verdict(line: Line) -> str:
    return line["better"] or ("untested" if line["p_holm"] is None else "not told apart")


def _p(key: str) -> Any:
    return lambda line: "–" if line[key] is None else "<0.0001" if line[key] < 1e-4 else f"{line[key]:.4f}"
