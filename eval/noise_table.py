"""The noise floor: how far scores move when one checkpoint is evaluated again, and with another batch size.

    lines = noise(rows, experiment)             # tables/noise.csv, a line a model and benchmark; empty if not measured
    table = noise_table(lines, experiment)

Reads `results/<experiment>/<model>/noise_floor.json`; `eval/rounding.py` says what follows for the decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.benchmarks import BENCHMARKS
from eval.collect import Row, dig
from eval.conditions import conditions, conditions_notes, distinct
from eval.rounding import ROUNDING_NOTE
from eval.text import EMPTY, Column, Table, Text, build, number, plain

HEADING = "Noise floor"
AGAIN = {"again": "again", "other_batch_size": "other"}  # of the file -> in the columns

Line = dict[str, Any]


def noise(rows: Iterable[Row], experiment: Mapping[str, Any]) -> list[Line]:
    """A line for each model and benchmark of it; one with the reason for a model whose floor was not measured."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        models.setdefault(row.first.model, []).append(row)
    lines = []
    for model, members in models.items():
        floor = members[0].first.noise_floor
        run = [run for row in members for run in row.runs if run.path == floor.get("run")]
        shared = {"model": model, "run": floor.get("run"), "status": floor.get("status"), "reason": floor.get("reason")}
        shared |= {"batch_size": floor.get("batch_size"), "other_batch_size": floor.get("other_batch_size")}
        benchmarks = floor.get("benchmarks") or {}
        for name in [name for name in BENCHMARKS if name in benchmarks] or ([None] if floor else []):
            entry = benchmarks.get(name, {})
            lines.append({**shared, "benchmark": name, **_columns(entry), **conditions(run, experiment)})
    return lines


def _columns(entry: Mapping[str, Any]) -> Line:
    columns: Line = {"items": entry.get("items"), "percent": _percent(entry, "value")}
    for key, name in AGAIN.items():
        columns |= {
            f"{name}_percent": _percent(entry, key, "value"),
            f"{name}_changed_items": dig(entry, (key, "changed_items")),
            f"{name}_largest_log_likelihood_difference_nats": dig(entry, (key, "largest_log_likelihood_difference")),
        }
    return {**columns, "floor_percent": _percent(entry, "floor")}


def _percent(entry: Mapping[str, Any], *keys: str) -> float | None:
    value = dig(entry, keys)
    return None if value is None else 100 * value


def noise_table(lines: list[Line], experiment: Mapping[str, Any]) -> Table:
    """The rows of `noise` for people."""
    models = len({line["model"] for line in lines}) > 1
    columns = [
        *([Column("Model", plain("model"), numeric=False)] if models else []),
        Column("Benchmark", lambda line: BENCHMARKS[line["benchmark"]].label if line["benchmark"] else EMPTY, False),
        Column("Items", number("items", 0)),
        Column("Score (%)", number("percent", 2)),
        Column("Again (%)", number("again_percent", 2)),
        Column("Items changed, again", number("again_changed_items", 0)),
        Column("Other batch size (%)", number("other_percent", 2)),
        Column("Items changed, other batch size", number("other_changed_items", 0)),
        Column("Largest log-likelihood difference (nats)", _largest("log_likelihood_difference_nats")),
        Column("Noise floor (%)", number("floor_percent", 2)),
        Column("Not measured", plain("reason"), numeric=False),
    ]
    measured = [line for line in lines if line["benchmark"]]
    sizes = dict.fromkeys((line["batch_size"], line["other_batch_size"]) for line in measured)
    batches = ", ".join(f"{own}, the other is {other}" for own, other in sizes)
    runs = ", ".join(dict.fromkeys(line["run"] for line in measured))
    three_times = (
        f"The same checkpoint ({runs}) evaluated three times: as in the tables, once more the same way, and "
        f"with another batch size (ours is {batches}). Noise floor: the largest difference of the three scores. Items "
        "changed: those whose answer came out otherwise. It is this checkpoint's floor; that of one trained otherwise "
        "may differ."
    )
    worth = (
        "A difference between two rows that is not larger than this floor says nothing, whatever its standard error. "
    )
    lacking = distinct(line["model"] for line in lines if not line["benchmark"])
    notes = [
        *([three_times, worth + ROUNDING_NOTE] if measured else []),
        *([f"Not measured for {lacking}: nothing says how far its scores move by themselves."] if lacking else []),
    ]
    return build(
        "noise",
        f"{experiment['name']}: noise floor",
        columns,
        lines,
        notes,
        conditions_notes(lines, experiment),
        heading=HEADING,
    )


def _largest(ending: str) -> Text:
    def text(line: Line) -> str:
        found = [line[f"{name}_largest_{ending}"] for name in AGAIN.values()]
        known = [value for value in found if value is not None]
        return f"{max(known):.2g}" if known else EMPTY

    return text
