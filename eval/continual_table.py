"""Continual pretraining in a table: on what text each row was trained before its fine-tuning, and how that went.

    lines = continued(rows, experiment)           # tables/continual_pretraining.csv, a line a row; empty without it
    table = continued_table(lines, experiment)

Reads what each run's record repeats of the phase's own (`continual_pretraining` of run.json). Losses are on documents
that were held out of the same text; memory and speed here are the phase's, those of the other tables the fine-tuning's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.collect import Row, Run, dig
from eval.conditions import conditions, conditions_notes, distinct
from eval.mt_bench_tables import several
from eval.statistics import combine_seeds
from eval.tables import TableRow, identity
from eval.text import EMPTY, Column, Table, build, memory_unit, number, plain, plus_minus

HEADING = "Continual pretraining, before the fine-tuning"


def continued(rows: Iterable[Row], experiment: Mapping[str, Any]) -> list[TableRow]:
    """A line for each row; one that trains nothing has it empty."""
    if not experiment.get("continual_pretraining"):
        return []
    return [_line(row, experiment) for row in rows]


def _line(row: Row, experiment: Mapping[str, Any]) -> TableRow:
    runs = [run for run in row.runs if run.continued]
    done = [run for run in runs if run.continued["status"] == "ok"]
    loss = combine_seeds(_values(done, "validation_loss"))
    return {
        **identity(row),
        "row": row.label,
        "pretraining_status": distinct(run.continued["status"] for run in runs),
        "pretraining_error": distinct(run.continued["error"] for run in runs),
        "text": distinct(dig(run.continued, ("data", "name")) for run in runs),
        "text_revision": distinct(dig(run.continued, ("data", "revision")) for run in runs),
        "text_sha256": distinct(dig(run.continued, ("data", "sha256")) for run in runs),
        "pretraining_learning_rate": distinct(run.continued["learning_rate"] for run in runs),
        "pretraining_steps": max(_values(runs, "steps"), default=None),
        "pretraining_tokens": max(_values(done, "data", "train_tokens"), default=None),
        "text_validation_loss": loss.value,
        "text_validation_loss_stderr": loss.stderr,
        "pretraining_peak_memory_bytes": max(_values(done, "memory", "phases", "train"), default=None),
        "pretraining_tokens_per_s": combine_seeds(_values(done, "throughput", "tokens_per_s")).value,
        "pretraining_train_s": combine_seeds(_values(done, "time", "train_s")).value,
        **conditions(row.runs, experiment),
    }


def _values(runs: Iterable[Run], *keys: str) -> list[Any]:
    return [value for run in runs if (value := dig(run.continued, keys)) is not None]


def continued_table(lines: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """The rows of `continued` for people."""
    unit, memory = memory_unit(line["pretraining_peak_memory_bytes"] for line in lines)
    columns = [
        *(Column(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Column("Method", plain("row"), numeric=False),
        Column("Learning rate", plain("pretraining_learning_rate")),
        Column("Steps", number("pretraining_steps", 0)),
        Column("Tokens", number("pretraining_tokens", 0)),
        Column("Loss on held-out text", plus_minus("text_validation_loss", "text_validation_loss_stderr", 4)),
        Column(f"Peak memory ({unit})", memory("pretraining_peak_memory_bytes")),
        Column("Tokens/s", number("pretraining_tokens_per_s", 0)),
        Column("Training (s)", number("pretraining_train_s", 1)),
        Column("Ended as", _ended, numeric=False),
    ]
    settings = experiment["continual_pretraining"]
    batch = settings["batch_size"] * settings["accumulation_steps"]
    notes = [
        f"Text: {distinct(line['text'] for line in lines) or 'none'}, packed into sequences of "
        f"{settings['sequence_length']} tokens, {batch} a step; every token is learned. Tokens: of one seed, as often "
        "as they were seen.",
        "Loss: mean over seeds, in nats a token, on documents held out of the same text.",
        *(f"{line['row']}: {line['pretraining_error']}." for line in lines if line["pretraining_error"]),
    ]
    title = f"{experiment['name']}: continual pretraining"
    about = conditions_notes(lines, experiment)
    return build("continual_pretraining", title, columns, lines, notes, about, heading=HEADING)


def _ended(line: TableRow) -> str:
    return EMPTY if line["pretraining_status"] in (None, "ok") else str(line["pretraining_status"])
