"""Every published cell beside ours: which were reproduced, by how much ours differs, why it is not compared, which were
not run.

versus(rows, experiment) -> list of rows for `tables/published.csv`; empty if the experiment names no published table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.benchmarks import BENCHMARKS, SUITES
from eval.collect import Row
from eval.conditions import judges
from eval.protocols import MT_BENCH, Slot, slots
from eval.published import Cell, find, rounding
from eval.rounding import floor_of
from eval.statistics import Estimate
from eval.tables import TableRow, not_compared, published_cells, speed, times
from eval.tested import UNTESTED, Verdicts
from eval.text import GB

INTERVAL = ("ours_low", "ours_high", "ours_group")
REPRODUCES_NOTE = (
    "Reproduces: yes where the published value, give or take its rounding, lies within our 95 % interval over seeds "
    "and items, no where it does not. A wide interval takes in much: look at its width. The published value's own "
    "spread is not known."
)


def versus(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> list[TableRow]:
    """Each cell of the named tables, once for every row of ours that answers to it, once alone where none does.

    A row whose seeds were scored under several protocols answers once with each of them.
    """
    rows = list(rows)
    speedups = {row.key: line["speedup_over_full"] for row, line in zip(rows, speed(rows, experiment), strict=True)}
    table = []
    for cell in published_cells(experiment):
        answers = [row for row in rows if _answers(row, cell)]
        for row in answers:
            parts = _parts(cell.metric, row, rows)
            speedup = speedups[row.key]
            table += [_beside(cell, row, part, slot, speedup, experiment, verdicts) for part, slot in parts]
        table += [] if answers else [_beside(cell, None, None, None, None, experiment, verdicts)]
    return table


def _parts(metric: str, row: Row, rows: list[Row]) -> list[tuple[Row, Slot | None]]:
    """The row by protocol of the metric, as far as it has a score; all of it where there is no protocol or score."""
    scored = MT_BENCH if metric.startswith(MT_BENCH) else metric if metric in (*BENCHMARKS, *SUITES) else None
    parts = [(slot.part(row), slot) for slot in (slots(rows, scored) if scored else []) if slot.protocol]
    return [(part, slot) for part, slot in parts if part.runs] or [(row, None)]


def _answers(row: Row, cell: Cell) -> bool:
    return find([cell], row.published_as, row.first.method, row.first.hyperparameters, cell.metric) is not None


def _beside(
    cell: Cell,
    row: Row | None,
    part: Row | None,
    slot: Slot | None,
    speedup: float | None,
    experiment: Mapping[str, Any],
    verdicts: Verdicts,
) -> TableRow:
    ours = _ours(cell.metric, part, speedup) if part else Estimate()
    names = ("paper", "version", "table", "model", "method", "variant", "metric", "unit")
    both = cell.value is not None and ours.value is not None
    reason = not_compared(part, cell, experiment) if part and both else None
    difference = ours.value - cell.value if both and reason is None else None  # type: ignore[operator]
    interval = verdicts.columns(row, _key(cell.metric, slot), "ours") if row else dict.fromkeys(INTERVAL)
    return {
        **{name: getattr(cell, name) for name in names},
        "published": cell.printed,
        "ours": ours.value,
        "ours_stderr": ours.stderr,
        **interval,
        "ours_noise_floor": times(floor_of(row, cell.metric), 100) if row else None,
        "difference": difference,
        "reproduces": _reproduces(cell, ours, difference, interval),
        "not_compared": reason,
        "status": _status(row, ours),
        "our_model": row.first.model if row else None,
        "our_data": row.first.data if row else None,
        "our_variant": row.first.variant if row else None,
        "our_protocol": (slot.differs or None) if slot else None,
        "judge": judges(part.runs) if part and cell.metric.startswith("mt_bench") else None,
        "note": cell.note,
    }


def _key(metric: str, slot: Slot | None) -> str:
    """The tested column of a published metric: MT-Bench's parts under the judge of the slot."""
    return metric if slot is None else slot.key + metric.removeprefix(slot.metric)


def _reproduces(cell: Cell, ours: Estimate, difference: float | None, interval: Mapping[str, Any]) -> str:
    """yes, no, or why neither can be said."""
    if ours.value is None:
        return "not run"
    if cell.value is None:
        return "no published number"
    if difference is None:
        return "not compared"
    low, high = interval["ours_low"], interval["ours_high"]
    if low is None or high is None:
        return "no interval"
    half = rounding(cell.printed)
    return "yes" if low - half <= cell.value <= high + half else "no"


def _status(row: Row | None, ours: Estimate) -> str:
    """`not run`, `not measured` (ran well, but the experiment does not measure this), else the row's own status."""
    if row is None or all(run.never_ran for run in row.runs):
        return "not run"
    return "not measured" if ours.value is None and row.status == "ok" else row.status


def _ours(metric: str, row: Row, speedup: float | None) -> Estimate:
    """Our value of a published metric, in the published unit."""
    if metric in BENCHMARKS or metric in SUITES:
        return row.estimate(metric).scaled(100)
    if metric.startswith("mt_bench"):
        return row.estimate(metric)
    plain = {
        "peak_memory": times(row.largest("memory", "phases", "train"), 1 / GB),
        "iteration_s": row.mean("time", "step_median_s"),
        "speedup_over_full": speedup,
    }
    return Estimate(plain.get(metric))
