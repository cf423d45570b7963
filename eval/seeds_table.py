"""What seeds alone move: every score of every seed, the gap between the best and the worst, their standard deviation.

lines = seeds(rows, experiment)            # tables/seeds.csv, a line a row and score; empty with one seed
table = seeds_table(lines, experiment)
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from eval.collect import Row, score
from eval.conditions import SEED_PARTS, conditions, conditions_notes
from eval.mt_bench_tables import several
from eval.protocols import MT_BENCH, Slot, label, metrics, slots
from eval.text import Column, Table, build, plain

HEADING = "What seeds move"

Line = dict[str, Any]


def seeds(rows: Iterable[Row], experiment: Mapping[str, Any]) -> list[Line]:
    """A line for each row with several seeds and each score of one protocol; losses in nats, accuracies in %."""
    rows = list(rows)
    found = [(Slot("validation_loss", "validation_loss", None), "Validation loss", 1.0, 4)]
    found += [(slot, label(name), 100.0, 2) for name in metrics(rows, experiment) for slot in slots(rows, name)]
    found += [(slot, "MT-Bench", 1.0, 2) for slot in slots(rows, MT_BENCH)]
    lines = (_line(row, *shown, experiment) for row in rows for shown in found)
    return [line for line in lines if line]


def _line(row: Row, slot: Slot, name: str, factor: float, digits: int, experiment: Mapping[str, Any]) -> Line | None:
    part = slot.part(row)
    values = {run.seed: factor * value for run in part.runs if (value := score(run, slot.metric)[0]) is not None}
    if len(values) < 2:
        return None
    model, data, method, variant = row.key
    return {
        **{"model": model, "data": data, "method": method, "variant": variant, "row": row.label},
        "score": ", ".join(filter(None, (name, slot.told))),
        "unit": "%" if factor == 100 else "nats per token" if slot.metric == "validation_loss" else "points",
        "decimals": digits,
        "seeds": " ".join(map(str, values)),
        "values": " ".join(f"{value:.6g}" for value in values.values()),
        "gap": max(values.values()) - min(values.values()),
        "seed_deviation": statistics.stdev(values.values()),
        **conditions(part.runs, experiment),
    }


def seeds_table(lines: list[Line], experiment: Mapping[str, Any]) -> Table:
    """The lines of `seeds` for people; a page shows them folded."""

    def shown(key: str) -> Any:
        return lambda line: f"{line[key]:.{line['decimals']}f}"

    columns = [
        *(Column(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Column("Method", plain("row"), numeric=False),
        Column("Score", lambda line: f"{line['score']} ({line['unit']})", numeric=False),
        Column("Largest gap of seeds", shown("gap")),
        Column("Standard deviation of seeds", shown("seed_deviation")),
        Column("Each seed's value", plain("values"), numeric=False),
        Column("Seeds", plain("seeds"), numeric=False),
    ]
    fixed = experiment.get("training", {}).get("fixed_seeds") or {}
    moved = [text for part, text in SEED_PARTS.items() if part not in fixed]
    notes = [
        f"Runs of a row that differ in their seed only: {', '.join([*moved, 'sampled answers'])}. The gap grows with "
        "the number of seeds, the standard deviation does not. It holds the chance of single items too, since a seed "
        "answers each a little otherwise."
    ]
    title, made = f"{experiment['name']}: what seeds move", conditions_notes(lines, experiment)
    return build("seeds", title, columns, lines, notes, made, HEADING, folded=True)
