"""Forgetting: perplexity on general text before and after fine-tuning, and their ratio.

    lines = forgetting(rows, experiment)          # tables/forgetting.csv, a line a row; empty if no text was measured
    table = forgetting_table(lines, experiment)

After: `general_text` of each run's scores.json. Before: `results/<experiment>/<model>/general_text.json`. The two are
compared only where they measured the same text in the same windows, by the same backend in the same precision.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from eval.collect import PERPLEXITIES, Row, Run
from eval.conditions import conditions, conditions_notes, distinct
from eval.mt_bench_tables import several
from eval.protocols import NOT_RECORDED
from eval.tables import TableRow, identity
from eval.tested import UNTESTED, Verdicts
from eval.text import Column, Digits, Table, build, number, plain, plus_minus, significant

HEADING = "Forgetting"
SHOWN = (  # key, title, decimals; a perplexity may be of any size
    ("word_perplexity", "Word perplexity", None),
    ("bits_per_byte", "Bits per byte", 4),
    ("token_perplexity", "Token perplexity", None),
)
SIGNIFICANT_DIGITS = 4
SAME = ("file_sha256", "first_character", "characters", "tokens", "sequence_length", "backend", "dtype")


def forgetting(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> list[TableRow]:
    """Before, after (mean over seeds, with their spread) and after over before, for each row; empty without a text."""
    rows = list(rows)
    asked = experiment.get("evaluation", {}).get("general_text")
    if not asked or not any(run.forgetting for row in rows for run in row.runs):
        return []
    return [_line(row, experiment, verdicts) for row in rows]


def _line(row: Row, experiment: Mapping[str, Any], verdicts: Verdicts) -> TableRow:
    scored = [run for run in row.runs if run.forgetting]
    compared = [run for run in scored if other_text(run) is None]
    shown = compared if row.first.general_text.get("status") == "ok" else scored  # a column holds one text
    columns = {**identity(row), "row": row.label, "text": distinct(_text(run.forgetting) for run in scored)}
    columns |= {"seeds_measured": " ".join(str(run.seed) for run in shown) or None}
    columns |= {"not_compared": distinct(other_text(run) for run in scored)}
    for key in PERPLEXITIES:
        before = row.first.general_text.get(key) if compared else None
        columns |= {f"{key}_before": before, **_spread(f"{key}_after", [run.forgetting[key] for run in shown])}
        columns |= _spread(f"{key}_ratio", [_ratio(run, key) for run in compared])
    tested = verdicts.columns(row, "bits_per_byte", "bits_per_byte_after")
    return {**columns, **tested, **conditions(row.runs, experiment)}


def _ratio(run: Run, key: str) -> float | None:
    before, after = run.general_text[key], run.forgetting[key]
    return None if before is None or after is None else after / before


def _spread(name: str, values: list[float | None]) -> TableRow:
    """Mean and standard deviation over seeds; the latter needs two. None where a seed's is no finite number."""
    known = [value for value in values if value is not None]
    known = known if len(known) == len(values) else []
    return {
        name: statistics.fmean(known) if known else None,
        f"{name}_seed_deviation": statistics.stdev(known) if len(known) > 1 else None,
    }


def other_text(run: Run) -> str | None:
    """Why a run's perplexity does not compare with its base model's; None where it does."""
    before, after = run.general_text, run.forgetting
    if before.get("status") != "ok":
        return ": ".join(filter(None, ("base model not measured", before.get("reason"))))
    other = next((key for key in SAME if before.get(key) != after.get(key)), None)
    if other is None:
        return None
    return f"another {other}: {after.get(other, NOT_RECORDED)}, before {before.get(other, NOT_RECORDED)}"


def _text(measured: Mapping[str, Any]) -> str:
    words = f"{measured['characters']:,} characters from {measured['first_character']:,} on"
    return f"{measured['file']}, {words}, windows of {measured['sequence_length']} tokens"


def forgetting_table(lines: list[TableRow], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> Table:
    """The rows of `forgetting` for people."""
    columns = [
        *(Column(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Column("Method", plain("row"), numeric=False),
        *(column for shown in SHOWN for column in _columns(*shown)),
        Column("Not compared", plain("not_compared"), numeric=False),
    ]
    notes = [
        f"Perplexity on general text: {distinct(line['text'] for line in lines)}. Lower is better; a "
        "ratio above 1 is what fine-tuning forgot. Before: the base model.",
        "Means over seeds; ± here is the standard deviation of the seeds, not a standard error. Words are what white "
        "space separates: word perplexity and bits per byte compare across tokenizers, token perplexity does not. "
        f"Perplexities are shown with {SIGNIFICANT_DIGITS} significant digits; the CSV has all.",
    ]
    title = f"{experiment['name']}: forgetting"
    made, told = conditions_notes(lines, experiment), verdicts.sentences(["bits_per_byte"])
    return build("forgetting", title, columns, lines, notes, made, heading=HEADING, verdicts=told)


def _columns(key: str, title: str, decimals: int | None) -> list[Column]:
    def digits(name: str) -> Digits:
        return significant(name, SIGNIFICANT_DIGITS) if decimals is None else decimals

    ratio = plus_minus(f"{key}_ratio", f"{key}_ratio_seed_deviation", digits(f"{key}_ratio"))
    return [
        Column(f"{title}, before", number(f"{key}_before", digits(f"{key}_before"))),
        Column(f"{title}, after", plus_minus(f"{key}_after", f"{key}_after_seed_deviation", digits(f"{key}_after"))),
        *([Column("After / before", ratio)] if key == "word_perplexity" else []),
    ]
