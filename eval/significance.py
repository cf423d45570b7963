"""The verdicts of an experiment: every score, loss and time of a panel's rows tested against each other.

    verdicts = significance(rows, experiment)          # rows: eval.collect.group(...); see eval/tested.py

Only rows of one model on one data set compare, and only scores of one protocol. Benchmarks are compared item by item,
MT-Bench question by question, losses, perplexities and step times over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.benchmarks import BENCHMARKS
from eval.collect import Row, Run, is_paired, panels
from eval.forgetting_table import other_text
from eval.item_values import Aligned, Store, of_seeds
from eval.protocols import MT_BENCH, Slot, label, metrics, slots
from eval.rounding import floor_of
from eval.tables import steady_s
from eval.tested import Column, Verdicts
from eval.values import Values
from eval.verdicts import compare, listed, sentence, unpaired

PLAIN = ("%", "points")  # units that need no word in a sentence
SHARES, RATINGS = (0, 1), (1, 10)  # what items can be
LOSS, FORGETTING, STEP, WIN_RATE = "validation_loss", "bits_per_byte", "step_median_s", "win_rate"


def significance(rows: Iterable[Row], experiment: Mapping[str, Any]) -> Verdicts:
    """Test all columns of all panels.

    Raises:
        EvaluationError: a file of item-level results is damaged.
    """
    rows, store = list(rows), Store()
    scored = [slot for metric in (*metrics(rows, experiment), MT_BENCH) for slot in slots(rows, metric)]
    found = {}
    for panel, members in panels(rows):
        columns = [*_scores(members, scored, store), *_win_rates(members, experiment, store)]
        columns += [*_losses(members), *_times(members)]
        found[panel] = {column.key: column for column in columns}
    return Verdicts(found)


def _scores(rows: Sequence[Row], scored: Iterable[Slot], store: Store) -> Iterator[Column]:
    for slot in scored:
        for key, metric, name in _parts(slot, rows):
            aligned = store.aligned(rows, Slot(metric, key, slot.protocol))
            judged = metric.startswith(MT_BENCH)
            yield from _column(
                key,
                ", ".join(filter(None, (name, slot.told))),
                *(("points", 1.0, 2) if judged else ("%", 100.0, 1)),
                rows,
                aligned,
                accuracy=metric in BENCHMARKS,
                bounds=RATINGS if judged else SHARES,
                floor=0.0 if judged else max(floor_of(row, metric) or 0.0 for row in rows),
            )


def _parts(slot: Slot, rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """A metric under its key, with its name; MT-Bench without coding and by category too."""
    if slot.metric != MT_BENCH:
        return [(slot.key, slot.metric, label(slot.metric))]
    categories = dict.fromkeys(name for row in rows for run in row.runs for name in run.judged.get("categories", {}))
    bare = [("_without_coding", "without coding")] if "coding" in categories else []
    parts = [("", ""), *bare, *((f"_{name}", name) for name in categories)]
    return [(slot.key + end, MT_BENCH + end, ", ".join(filter(None, ("MT-Bench", words)))) for end, words in parts]


def _losses(rows: Sequence[Row]) -> Iterator[Column]:
    loss = of_seeds(rows, lambda run: run.field("validation_loss"))
    yield from _column(LOSS, "Validation loss", "nats per token", 1.0, 4, rows, loss, lower_is_better=True)
    text = of_seeds(rows, _bits_per_byte)
    yield from _column(FORGETTING, "General text", "bits per byte", 1.0, 4, rows, text, lower_is_better=True)


def _bits_per_byte(run: Run) -> float | None:
    return run.forgetting.get("bits_per_byte") if run.forgetting and other_text(run) is None else None


def _times(rows: Sequence[Row]) -> Iterator[Column]:
    steady = [row for row in rows if steady_s(row) is not None]
    times = of_seeds(steady, lambda run: run.field("time", "step_median_s"))
    yield from _column(STEP, "Step time", "ms", 1e3, 1, steady, times, lower_is_better=True)


def _win_rates(rows: Sequence[Row], experiment: Mapping[str, Any], store: Store) -> Iterator[Column]:
    """Beside the rows stands the baseline that their answers were compared with, which wins half the time by itself."""
    compared = store.compared(rows)
    if not compared.values:
        return
    baseline = next(row for row in rows if not is_paired(row.first, experiment))
    half = Values((np.full((max(values.seeds for values in compared.values.values()), compared.items), 0.5),))
    beside = replace(compared, values={**compared.values, baseline.key: half})
    yield from _column(WIN_RATE, f"Win rate against {baseline.label}", "%", 100.0, 1, rows, beside, bounds=SHARES)


def _column(
    key: str,
    name: str,
    unit: str,
    factor: float,
    digits: int,
    rows: Sequence[Row],
    aligned: Aligned,
    **options: Any,
) -> Iterator[Column]:
    """The column if any row has values."""
    values = {row.label: aligned.values[row.key] for row in rows if row.key in aligned.values}
    alone = {row.label: aligned.alone[row.key] for row in rows if row.key in aligned.alone}
    if not values and not alone:
        return
    verdict = compare(values, alone=alone, **options) if values else unpaired(alone, options.get("bounds"))
    plain = unit in PLAIN
    told = sentence(verdict, name if plain else f"{name} ({unit})", factor, digits, "points" if plain else unit)
    told += f" {aligned.left_out} items that not all rows have are left out." if aligned.left_out and values else ""
    without = [row.label for row in rows if row.key in aligned.without]
    told += f" Not compared, without the items of every seed: {listed(without)}." if without else ""
    yield Column(key, name, unit, factor, digits, verdict, told)
