"""The tables for people: the rows of `eval/tables.py` and `eval/versus.py` as texts, with their conditions in notes.

table = comparison_table(tables.comparison(rows, experiment), experiment)
(folder / "comparison.md").write_text(text.to_markdown(table))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.benchmarks import BENCHMARKS
from eval.collect import ACCURACIES
from eval.conditions import distinct, distinct_packages
from eval.statistics import STDERR_NOTE
from eval.tables import COMPONENTS, METERED, PHASES, TRAINABLE, TableRow
from eval.text import EMPTY, Column, Table, build, memory_unit, number, plain, plus_minus, signed

METERS = {
    "cpu-live-storage": "live tensor storage on the CPU (every tensor of the run; not the interpreter, not libraries)",
    "cuda-allocator": "PyTorch's CUDA allocator",
}
UNITS = {"MB": "1 MB = 1e6 bytes", "GB": "1 GB = 1e9 bytes"}
WORLD_NOTE = (
    "The numbers are about the embedded world: generated facts, sums and requests in the official benchmarks' formats. "
    "They show the pipeline and the methods at work; they say nothing about the real benchmarks."
)
OLD_COMPONENTS_NOTE = (
    "Records of version 1.0 know no temporaries: their activations hold those of forward and backward too, their other "
    "those of the optimizer step."
)
SETTING_NOTE = (
    "Learning rates are the experiment's, one a method, and not swept: a row is one setting of a method, not its rank "
    "among them."
)
RULE_BASED_NOTE = (
    "MT-Bench was rated by a rule-based judge, a small program that uses no language model. "
    "Its ratings do not compare with published MT-Bench scores."
)


def methods_table(rows: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """Everything that decides between methods, side by side; the other tables have the settings and the rest."""
    unit, memory = memory_unit(row["peak_memory_bytes"] for row in rows)
    columns = [
        Column("Method", lambda row: _row_name(row, rows), numeric=False),
        Column("Validation loss", number("validation_loss", 4)),
        *(_score_column(name, rows) for name in ACCURACIES),
        _mt_bench_column(rows),
        Column(f"Peak memory ({unit})", memory("peak_memory_bytes")),
        *(Column(f"{_words(part)} ({unit})", memory(f"peak_{part}_bytes")) for part in COMPONENTS),
        Column("Tokens/s", number("tokens_per_s", 0)),
        Column("Trained (parameters)", number("trainable_parameters", 0)),
        Column("Trained (% of model)", number("trainable_percent", 2)),
        Column(f"State at the end ({unit})", memory("optimizer_state_bytes")),
        Column("Status", _stopped, numeric=False),
    ]
    notes = [
        "Accuracies in %; scores and losses are means over the seeds that have them. " + STDERR_NOTE,
        f"Peak memory: allocated while training, largest of the seeds, {UNITS[unit]}; weights to other are its parts, "
        "at that moment. State at the end: all that the optimizer holds after the last step; the peak may hold another "
        "amount, as BAdam's does at a switch. Tokens: without padding.",
        "Trained: parameters that train at a time, also in % of the base model's.",
        SETTING_NOTE,
        *([OLD_COMPONENTS_NOTE] if any(_is_old(row, "peak_") for row in rows) else []),
        *_mt_bench_notes(rows, experiment),
        *_reasons(rows),
    ]
    return build("methods", _title("methods", rows, experiment), columns, rows, notes, _conditions(rows, experiment))


def comparison_table(rows: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """Scores with standard errors, trainable parameters, memory and speed."""
    unit, memory = memory_unit(row["peak_memory_bytes"] for row in rows)
    columns = [
        *_identity(rows),
        Column("Validation loss", plus_minus("validation_loss", "validation_loss_stderr", 4)),
        *(column for name in ACCURACIES for column in _score_columns(name, rows)),
        *_mt_bench_columns(rows),
        Column("Trainable parameters", number("trainable_parameters", 0)),
        Column(f"Peak memory ({unit})", memory("peak_memory_bytes")),
        Column("Tokens/s", number("tokens_per_s", 0)),
        Column("Status", plain("status"), numeric=False),
    ]
    notes = [
        "Accuracies in %; scores and losses are means over the seeds that have them. " + STDERR_NOTE,
        f"Peak memory: allocated while training, largest of the seeds, {UNITS[unit]}. Tokens: without padding.",
        *_mt_bench_notes(rows, experiment),
        *_not_compared(rows),
        *_reasons(rows),
    ]
    return build(
        "comparison", _title("comparison", rows, experiment), columns, rows, notes, _conditions(rows, experiment)
    )


def memory_table(rows: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """Peaks by meter, phase and component."""
    unit, memory = memory_unit(row["peak_allocated_bytes"] for row in rows)
    columns = [
        *_identity(rows),
        *(Column(f"{kind.capitalize()} peak ({unit})", memory(f"peak_{kind}_bytes")) for kind in METERED),
        *(Column(f"{phase.capitalize()} phase ({unit})", memory(f"{phase}_peak_bytes")) for phase in PHASES),
        Column(f"Benchmarks ({unit})", memory("benchmarks_peak_bytes")),
        *(Column(f"{_words(part)} ({unit})", memory(f"{part}_bytes")) for part in COMPONENTS),
        *(Column(f"Parameters trained, {part}", number(f"trainable_parameters_{part}", 0)) for part in TRAINABLE),
        Column("Optimizer state", plain("optimizer_state_dtype"), numeric=False),
        Column("AdamW", plain("adamw_implementation"), numeric=False),
        *_published_columns("peak_memory", "Peak memory (GB)", "gb"),
        Column("Status", plain("status"), numeric=False),
    ]
    meters = (distinct(row["meter"] for row in rows) or "none").split(" / ")
    notes = [
        f"Meter: {', '.join(METERS.get(meter, meter) for meter in meters)}. Largest of the seeds; {UNITS[unit]}.",
        "Headline: the allocated peak of training, to which the components add up; of the largest phase where "
        "nothing was trained. Process peak: the whole process, interpreter and libraries included.",
        "Forward, backward and step are parts of the train phase. Activations: what backward needs; temporaries: all "
        "else that operators make on the way.",
        *([OLD_COMPONENTS_NOTE] if any(_is_old(row) for row in rows) else []),
        "Evaluate phase: the validation loss. Benchmarks: the process that runs lm-eval and answers MT-Bench.",
        "Parameters trained, sampled: those that train only while their layer is drawn.",
        *_reasons(rows),
    ]
    return build("memory", _title("memory", rows, experiment), columns, rows, notes, _conditions(rows, experiment))


def speed_table(rows: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """Step times, throughput and utilisation."""
    columns = [
        *_identity(rows),
        Column("Step, median (ms)", number("step_median_ms", 1)),
        Column("Step, p90 (ms)", number("step_p90_ms", 1)),
        Column("Slowest seed over fastest", number("step_median_spread", 2)),
        Column("Speed-up over full", number("speedup_over_full", 2, unit="x")),
        Column("Tokens/s", number("tokens_per_s", 0)),
        Column("Tokens/s with padding", number("padded_tokens_per_s", 0)),
        Column("GFLOPs a step", number("flops_per_step", 2, factor=1e-9)),
        Column("MFU", _mfu),
        Column("Training (s)", number("train_s", 1)),
        Column("Status", plain("status"), numeric=False),
    ]
    notes = [
        "Means over the seeds that trained. A step is one optimizer step, synchronised; the first steps (warm-up) and "
        "those whose memory or FLOPs were traced are left out.",
        "Speed-up: full fine-tuning's median step over the row's, same model and data; left out where the seeds' "
        "medians differ by more than 20 %, since then the machine was busy with other work. MFU: share of the device's "
        "published peak; empty in the CSV where that peak is unknown.",
        *_reasons(rows),
    ]
    return build("speed", _title("speed", rows, experiment), columns, rows, notes, _conditions(rows, experiment))


def versus_table(rows: list[TableRow], experiment: Mapping[str, Any], compared: list[TableRow]) -> Table:
    """Every published cell beside ours; `compared` are the rows of the comparison, for the conditions."""
    about = ("model", "method", "variant", "metric", "unit")
    columns = [
        Column("Published in", lambda row: f"{row['paper']} {row['version']}, {row['table']}", numeric=False),
        *(Column(name.capitalize(), plain(name), numeric=False) for name in about),
        Column("Published", plain("published")),
        Column("Ours", plus_minus("ours", "ours_stderr", 2)),
        Column("Ours − published", signed("difference", 2)),
        Column("Not compared", plain("not_compared"), numeric=False),
        Column("Our row", _our_row, numeric=False),
        Column("Judge", plain("judge"), numeric=False),
        Column("Status", plain("status"), numeric=False),
        Column("Note", plain("note"), numeric=False),
    ]
    notes = [
        "A published cell and a row of ours meet when model, method and every hyper-parameter that the paper states "
        "agree; their difference is given only where both measured the same. The paper's G is compared with GB (1e9 "
        "bytes). " + STDERR_NOTE,
        *([RULE_BASED_NOTE] if any(row["judge"] and "rule-based" in row["judge"] for row in rows) else []),
    ]
    title = _title("published and ours", compared, experiment)
    return build("published", title, columns, rows, notes, _conditions(compared, experiment))


def _title(what: str, rows: list[TableRow], experiment: Mapping[str, Any]) -> str:
    pairs = {(row["model"], row["data"]) for row in rows}
    alone = ", {} on {}".format(*pairs.pop()) if len(pairs) == 1 else ""
    return f"{experiment['name']}: {what}{alone}"


# --- columns


def _identity(rows: list[TableRow]) -> list[Column]:
    """Model and data where there are several (else the title says them), the variant where one is named."""
    names = [name for name in ("model", "data") if len({row[name] for row in rows}) > 1]
    names += ["method", *(["variant"] if any(row["variant"] != "default" for row in rows) else [])]
    columns = [Column(name.capitalize(), plain(name), numeric=False) for name in names]
    return [*columns, Column("Learning rate", _learning_rate), Column("Seeds", _seeds)]


def _score_column(name: str, rows: list[TableRow]) -> Column:
    protocol = distinct(row[f"{name}_protocol"] for row in rows)
    return Column(f"{BENCHMARKS[name].label} ({protocol})", plus_minus(f"{name}_percent", f"{name}_stderr_percent", 2))


def _score_columns(name: str, rows: list[TableRow]) -> list[Column]:
    return [_score_column(name, rows), *_published_columns(name, BENCHMARKS[name].label, "percent")]


def _mt_bench_column(rows: list[TableRow]) -> Column:
    judge = distinct(row["mt_bench_judge"] for row in rows)
    return Column(f"MT-Bench ({judge} judge)", plus_minus("mt_bench_points", "mt_bench_stderr_points", 2))


def _mt_bench_columns(rows: list[TableRow]) -> list[Column]:
    return [
        _mt_bench_column(rows),
        Column("MT-Bench without coding", _unless_same("mt_bench_without_coding_points", "mt_bench_points")),
        *_published_columns("mt_bench_without_coding", "MT-Bench without coding", "points"),
        *([Column("Unparsable ratings", number("mt_bench_unparsable", 0))] if _unparsable(rows) else []),
    ]


def _unparsable(rows: list[TableRow]) -> int:
    return sum(int(row["mt_bench_unparsable"] or 0) for row in rows)


def _published_columns(metric: str, title: str, unit: str) -> list[Column]:
    return [
        Column(f"{title}, published", number(f"{metric}_published_{unit}", 2)),
        Column(f"{title}, ours − published", signed(f"{metric}_difference_{unit}", 2)),
    ]


def _unless_same(key: str, other: str) -> Any:
    shown = number(key, 2)
    return lambda row: EMPTY if row[key] == row[other] else shown(row)


def _learning_rate(row: TableRow) -> str:
    return EMPTY if row["learning_rate"] is None else f"{row['learning_rate']:g}"


def _stopped(row: TableRow) -> str:
    return EMPTY if row["status"] == "ok" else str(row["status"])


def _seeds(row: TableRow) -> str:
    return str(row["runs"]) if row["runs_ok"] == row["runs"] else f"{row['runs_ok']} of {row['runs']}"


def _mfu(row: TableRow) -> str:
    if row["step_median_ms"] is None:
        return EMPTY
    return "peak unknown" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"


def _our_row(row: TableRow) -> str:
    return " / ".join([row["our_model"], row["our_data"], row["our_variant"]]) if row["our_model"] else EMPTY


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


# --- notes


def _mt_bench_notes(rows: list[TableRow], experiment: Mapping[str, Any]) -> list[str]:
    judge = distinct(row["mt_bench_judge"] for row in rows)
    if judge is None:
        return []
    limit = (experiment.get("mt_bench") or {}).get("limit")
    first = "question" if limit == 1 else f"{limit} questions"
    which = "all questions" if limit is None else f"the first {first} of each category"
    notes = [
        f"MT-Bench: mean rating (1 to 10) over {which}, two turns each; judge: {judge};"
        f" unparsable ratings: {_unparsable(rows)}."
    ]
    return [*notes, RULE_BASED_NOTE] if "rule-based" in judge else notes


def _is_old(row: TableRow, prefix: str = "") -> bool:
    return row[f"{prefix}activations_bytes"] is not None and row[f"{prefix}temporaries_bytes"] is None


def _not_compared(rows: list[TableRow]) -> list[str]:
    """Why differences to published values are empty."""
    labels = {name: BENCHMARKS[name].label for name in ACCURACIES} | {"mt_bench_without_coding": "MT-Bench"}
    reasons = {label: distinct(row.get(f"{name}_not_compared") for row in rows) for name, label in labels.items()}
    return [
        f"{label}: no difference to the published value, which is of another measurement ({reason})."
        for label, reason in reasons.items()
        if reason
    ]


def _reasons(rows: list[TableRow]) -> list[str]:
    """Why rows are not ok."""
    stopped = [row for row in rows if row["reason"]]
    return [f"{_row_name(row, rows)}: {row['status']}; {row['reason']}." for row in stopped]


def _row_name(row: TableRow, rows: list[TableRow]) -> str:
    names = [name for name in ("model", "data") if len({row[name] for row in rows}) > 1]
    names += ["method", *(["variant"] if row["variant"] != "default" else [])]
    return " ".join(row[name] for name in names)


def _conditions(rows: list[TableRow], experiment: Mapping[str, Any]) -> list[str]:
    """Experiment, device, precision, packages, commit and dates, as all the rows together have them."""
    found = {key: _joined(row[key] for row in rows) for key in ("device", "threads", "precision", "git_commit")}
    packages = distinct_packages(row["packages"] for row in rows) or "unknown"
    dirty = " with uncommitted changes" if any(row["git_dirty"] for row in rows) else ""
    dates = sorted(row[key] for row in rows for key in ("first_started", "last_started") if row[key])
    period = " to ".join(dict.fromkeys(_minute(date) for date in (dates[0], dates[-1]))) if dates else "never"
    world = [WORLD_NOTE] if experiment.get("data_root") == "world" else []
    return [
        *world,
        f"Experiment {experiment['name']}. Device: {found['device']}; CPU threads a run: {found['threads']}; "
        f"precision: {found['precision']}.",
        f"Packages: {packages}. Commit {found['git_commit']}{dirty}. Runs started: {period}.",
    ]


def _minute(date: str) -> str:
    """2030-01-02T03:04:05+00:00 as people read it; records are in UTC."""
    return f"{date[:16].replace('T', ' ')} UTC"


def _joined(values: Iterable[str | None]) -> str:
    """Distinct values in order; one that is itself a list of values counts each of them once."""
    return distinct(part for value in values if value for part in value.split(" / ")) or "unknown"
