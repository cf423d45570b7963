"""What the methods of an experiment declare they cannot do, as their run records say it.

limits(rows) -> list of rows for `tables/limits.csv`; empty if none declares any (records before 1.1.1 do not).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.collect import Row
from eval.tables import TableRow
from eval.text import Column, Table, build, plain

HEADING = "What methods declare they cannot do"
CANNOT = {  # the abilities of baselines/contract.py, as what a method cannot do
    "models": "train decoder-only transformers of every kind",
    "accumulation": "accumulate gradients over several batches",
    "clipping": "clip gradients by their common norm",
    "checkpointing": "recompute activations (gradient checkpointing) with the same result",
    "plain export": "export a checkpoint that loads as the base model's own architecture, without further code",
    "full limit": "tend to full fine-tuning as its size grows to the model's",
}
NOTES = (
    "A run that asks a method to accumulate, to clip by the common norm, to recompute activations or to train such a "
    "model is refused, with the reason. The others are properties: a checkpoint with further code loads with "
    "trust_remote_code=True. To all else in the contract of a method (baselines/contract.py) the tests hold every one.",
)


def limits(rows: Iterable[Row]) -> list[TableRow]:
    """One row for each method and ability that it lacks, in the experiment's order."""
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        for run in row.runs:
            declared = run.field("method", "limits") or {}
            found |= {(run.method, ability): reason for ability, reason in declared.items()}
    return [
        {"method": method, "ability": ability, "cannot": CANNOT.get(ability, ability), "reason": reason}
        for (method, ability), reason in found.items()
    ]


def limits_table(rows: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """The rows of `limits` for people."""
    columns = [Column(name.capitalize(), plain(name), numeric=False) for name in ("method", "cannot", "reason")]
    title = f"{experiment['name']}: {HEADING[0].lower()}{HEADING[1:]}"
    return build("limits", title, columns, rows, NOTES, (), heading=HEADING)
