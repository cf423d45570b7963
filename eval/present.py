"""The tables for people: the rows of `eval/tables.py` and `eval/versus.py` as texts, with their conditions in notes.

table = comparison_table(tables.comparison(rows, experiment), experiment)
(folder / "comparison.md").write_text(text.to_markdown(table))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.benchmarks import BENCHMARKS, SUITES
from eval.conditions import conditions_notes, distinct, thousands
from eval.mt_bench_tables import capped_words, interval_notes, usage_words
from eval.protocols import CUT_NOTE, label
from eval.rounding import NO_FLOOR_NOTE, ROUNDING_NOTE, decimals
from eval.statistics import STDERR_NOTE
from eval.tables import COMPONENTS, METERED, PHASES, TRAINABLE, TableRow
from eval.tested import TESTS_NOTE, UNTESTED, Verdicts
from eval.text import EMPTY, Column, Digits, Table, build, estimate, memory_unit, number, plain, signed
from eval.versus import REPRODUCES_NOTE

METERS = {
    "cpu-live-storage": "live tensor storage on the CPU (every tensor of the run; not the interpreter, not libraries)",
    "cuda-allocator": "PyTorch's CUDA allocator",
}
UNITS = {"MB": "1 MB = 1e6 bytes", "GB": "1 GB = 1e9 bytes"}
OLD_COMPONENTS_NOTE = (
    "Records of version 1.0 know no temporaries: their activations hold those of forward and backward too, their other "
    "those of the optimizer step."
)
SETTING_NOTE = (
    "Learning rates are the experiment's, one a method, and not swept: a row is one setting of a method, not its rank "
    "among them."
)
TUNED_NOTE = (
    "Learning rates were chosen for each row by {trials} trials, the same number for all, on records and seeds that no "
    "table but that of the tuning uses."
)
PRETRAINED = Column(
    "Continual pretraining (tokens)", lambda row: thousands(row.get("continual_pretraining_tokens") or EMPTY)
)
RULE_BASED_NOTE = (
    "MT-Bench was rated by a rule-based judge, a small program that uses no language model. "
    "Its ratings do not compare with published MT-Bench scores."
)


def methods_table(rows: list[TableRow], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> Table:
    """Everything that decides between methods, side by side; the other tables have the settings and the rest."""
    unit, memory = memory_unit(row["peak_memory_bytes"] for row in rows)
    columns = [
        Column("Method", lambda row: _row_name(row, rows), numeric=False),
        Column("Validation loss", estimate("validation_loss", "", 4)),
        *(_score_column(key, rows) for key in _accuracies(rows)),
        *(_mt_bench_column(key, rows) for key in _judgings(rows)),
        Column(f"Peak memory ({unit})", memory("peak_memory_bytes")),
        *(Column(f"{_words(part)} ({unit})", memory(f"peak_{part}_bytes")) for part in COMPONENTS),
        Column("Tokens/s", number("tokens_per_s", 0)),
        Column("Trained (parameters)", number("trainable_parameters", 0)),
        Column("Trained (% of model)", number("trainable_percent", 2)),
        Column(f"State at the end ({unit})", memory("optimizer_state_bytes")),
        PRETRAINED,
        Column("Status", _stopped, numeric=False),
    ]
    notes = [
        *_score_notes(rows, verdicts),
        f"Peak memory: allocated while training, largest of the seeds, {UNITS[unit]}; weights to other are its parts, "
        "at that moment. State at the end: all that the optimizer holds after the last step; the peak may hold another "
        "amount, as BAdam's does at a switch. Tokens: without padding.",
        "Trained: parameters that train at a time, also in % of the base model's.",
        TUNED_NOTE.format(trials=experiment["tuning"]["trials"]) if experiment.get("tuning") else SETTING_NOTE,
        *([OLD_COMPONENTS_NOTE] if any(_is_old(row, "peak_") for row in rows) else []),
        *_mt_bench_notes(rows, experiment, verdicts),
        *_reasons(rows),
    ]
    title, made = _title("methods", rows, experiment), conditions_notes(rows, experiment)
    return build("methods", title, columns, rows, notes, made, verdicts=verdicts.sentences(_tested(rows)))


def comparison_table(rows: list[TableRow], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> Table:
    """Scores with standard errors, trainable parameters, memory and speed."""
    unit, memory = memory_unit(row["peak_memory_bytes"] for row in rows)
    columns = [
        *_identity(rows),
        Column("Validation loss", estimate("validation_loss", "", 4)),
        *(column for key in _accuracies(rows) for column in _score_columns(key, rows)),
        *(column for key in _judgings(rows) for column in _mt_bench_columns(key, rows)),
        Column("Trainable parameters", number("trainable_parameters", 0)),
        Column(f"Peak memory ({unit})", memory("peak_memory_bytes")),
        Column("Tokens/s", number("tokens_per_s", 0)),
        PRETRAINED,
        Column("Status", plain("status"), numeric=False),
    ]
    notes = [
        *_score_notes(rows, verdicts),
        f"Peak memory: allocated while training, largest of the seeds, {UNITS[unit]}. Tokens: without padding.",
        *_mt_bench_notes(rows, experiment, verdicts),
        *_not_compared(rows),
        *_reasons(rows),
    ]
    title, made = _title("comparison", rows, experiment), conditions_notes(rows, experiment)
    return build("comparison", title, columns, rows, notes, made, verdicts=verdicts.sentences(_tested(rows)))


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
    return build("memory", _title("memory", rows, experiment), columns, rows, notes, conditions_notes(rows, experiment))


def speed_table(rows: list[TableRow], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> Table:
    """Step times, throughput and utilisation."""
    columns = [
        *_identity(rows),
        Column("Step, median (ms)", estimate("step_median", "ms", 1)),
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
        "medians differ by more than 20 %, since then the machine was busy with other work; such rows are not tested. "
        "MFU: share of the device's "
        "published peak; empty in the CSV where that peak is unknown.",
        *_reasons(rows),
    ]
    title, made = _title("speed", rows, experiment), conditions_notes(rows, experiment)
    return build("speed", title, columns, rows, notes, made, verdicts=verdicts.sentences(["step_median_s"]))


def versus_table(rows: list[TableRow], experiment: Mapping[str, Any], compared: list[TableRow]) -> Table:
    """Every published cell beside ours; `compared` are the rows of the comparison, for the conditions."""
    about = ("model", "method", "variant", "metric", "unit")
    columns = [
        Column("Published in", lambda row: f"{row['paper']} {row['version']}, {row['table']}", numeric=False),
        *(Column(name.capitalize(), plain(name), numeric=False) for name in about),
        Column("Published", plain("published")),
        Column("Ours", estimate("ours", "", _own_digits)),
        Column("Ours − published", signed("difference", _own_digits)),
        Column("Reproduces", plain("reproduces"), numeric=False),
        Column("Not compared", plain("not_compared"), numeric=False),
        Column("Our row", _our_row, numeric=False),
        Column("Our protocol", plain("our_protocol"), numeric=False),
        Column("Judge", plain("judge"), numeric=False),
        Column("Status", plain("status"), numeric=False),
        Column("Note", plain("note"), numeric=False),
    ]
    notes = [
        "A published cell and a row of ours meet when model, method and every hyper-parameter that the paper states "
        "agree; their difference is given only where both measured the same. The paper's G is compared with GB (1e9 "
        "bytes). " + REPRODUCES_NOTE,
        *([STDERR_NOTE] if any(row["ours_stderr"] is not None and row["ours_low"] is None for row in rows) else []),
        *([RULE_BASED_NOTE] if any(row["judge"] and "rule-based" in row["judge"] for row in rows) else []),
    ]
    title = _title("published and ours", compared, experiment)
    return build("published", title, columns, rows, notes, conditions_notes(compared, experiment))


def _title(what: str, rows: list[TableRow], experiment: Mapping[str, Any]) -> str:
    pairs = {(row["model"], row["data"]) for row in rows}
    alone = ", {} on {}".format(*pairs.pop()) if len(pairs) == 1 else ""
    return f"{experiment['name']}: {what}{alone}"


# --- columns


def _tested(rows: list[TableRow]) -> list[str]:
    """Keys of the columns whose verdicts stand under a table of scores."""
    judged = [f"{key}{part}" for key in _judgings(rows) for part in ("", "_without_coding")]
    return ["validation_loss", *_accuracies(rows), *judged]


def _identity(rows: list[TableRow]) -> list[Column]:
    """Model and data where there are several (else the title says them), the variant where one is named."""
    names = [name for name in ("model", "data") if len({row[name] for row in rows}) > 1]
    names += ["method", *(["variant"] if any(row["variant"] != "default" for row in rows) else [])]
    columns = [Column(name.capitalize(), plain(name), numeric=False) for name in names]
    return [*columns, Column("Learning rate", _learning_rate), Column("Seeds", _seeds)]


def _accuracies(rows: list[TableRow]) -> list[str]:
    """Keys of the benchmarks and suites: `mmlu`, and `mmlu_2` where there is a second protocol."""
    return [key.removesuffix("_protocol") for key in (rows[0] if rows else ()) if key.endswith("_protocol")]


def _judgings(rows: list[TableRow]) -> list[str]:
    """Keys of MT-Bench: `mt_bench`, and `mt_bench_2` where another judge rated too."""
    return [key.removesuffix("_judge") for key in (rows[0] if rows else ()) if key.endswith("_judge")]


def _label(key: str) -> str:
    return label(key if key in BENCHMARKS or key in SUITES else key.rpartition("_")[0])


def _digits(key: str, rows: list[TableRow]) -> int:
    """The decimals of a benchmark's column."""
    return decimals(row[f"{key}_noise_floor_percent"] for row in rows)


def _own_digits(row: TableRow) -> int:
    """The decimals of a line of the published table, whose lines are of many metrics."""
    return decimals([row["ours_noise_floor"]])


def _score_column(key: str, rows: list[TableRow]) -> Column:
    protocol = distinct(row[f"{key}_protocol"] for row in rows)
    return Column(f"{_label(key)} ({protocol})", estimate(key, "percent", _digits(key, rows), less=1))


def _score_columns(key: str, rows: list[TableRow]) -> list[Column]:
    return [_score_column(key, rows), *_published_columns(key, _label(key), "percent", _digits(key, rows))]


def _mt_bench_column(key: str, rows: list[TableRow]) -> Column:
    judge = distinct(row[f"{key}_judge"] for row in rows)
    judging = distinct(row[f"{key}_judging"] for row in rows)
    title = f"MT-Bench ({', '.join(filter(None, (_judge_words(judge), judging)))})"
    return Column(title, estimate(key, "points", 2))


def _judge_words(judge: str | None) -> str:
    """Of `rule-based` or `llm: gpt-4` what fits a title."""
    return "rule-based judge" if judge == "rule-based" else f"judge {judge.partition(': ')[2]}" if judge else ""


def _mt_bench_columns(key: str, rows: list[TableRow]) -> list[Column]:
    bare = f"{key}_without_coding"
    return [
        _mt_bench_column(key, rows),
        Column("MT-Bench without coding", _unless_same(bare, key)),
        *_published_columns(bare, "MT-Bench without coding", "points"),
        *([Column("Unparsable ratings", number(f"{key}_unparsable", 0))] if _unparsable(rows) else []),
    ]


def _unparsable(rows: list[TableRow]) -> int:
    return sum(int(row[f"{key}_unparsable"] or 0) for row in rows for key in _judgings(rows))


def _published_columns(metric: str, title: str, unit: str, digits: Digits = 2) -> list[Column]:
    return [
        Column(f"{title}, published", number(f"{metric}_published_{unit}", 2)),
        Column(f"{title}, ours − published", signed(f"{metric}_difference_{unit}", digits)),
    ]


def _unless_same(key: str, other: str) -> Any:
    shown = estimate(key, "points", 2)
    return lambda row: EMPTY if row[f"{key}_points"] == row[f"{other}_points"] else shown(row)


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


def _score_notes(rows: list[TableRow], verdicts: Verdicts) -> list[str]:
    keys = _accuracies(rows)
    untested = any(
        row[f"{key}_percent"] is not None and row[f"{key}_low_percent"] is None for key in keys for row in rows
    )
    notes = ["Accuracies in %; scores and losses are means over the seeds that have them."]
    tested = any(verdicts.panels.values())
    notes += [TESTS_NOTE] if tested else []
    notes += [STDERR_NOTE] if untested or not tested else []
    scored = [row for row in rows if any(row[f"{key}_percent"] is not None for key in keys)]
    without = [row for row in scored if all(row[f"{key}_noise_floor_percent"] is None for key in keys)]
    notes += [ROUNDING_NOTE] if len(without) < len(scored) else []
    if without:
        models = distinct(row["model"] for row in without)
        notes.append(NO_FLOOR_NOTE.format(where="" if len(without) == len(scored) else f" for {models}"))
    notes += [CUT_NOTE] if any("prompts cut" in (row[f"{key}_protocol"] or "") for key in keys for row in rows) else []
    return [*notes, *_protocol_notes(rows)]


def _protocol_notes(rows: list[TableRow]) -> list[str]:
    """What scores of several protocols mean for columns and rows."""
    metrics: dict[str, list[str]] = {}
    for key in _accuracies(rows):
        metrics.setdefault(_label(key), []).append(key)
    metrics["MT-Bench"] = _judgings(rows)
    several = {name: keys for name, keys in metrics.items() if len(keys) > 1}
    if not several:
        return []
    notes = [f"Scored in several ways, each with a column of its own, since they do not compare: {', '.join(several)}."]
    for row in rows:
        for name, keys in several.items():
            seeds = [row[f"{key}_seeds"] for key in keys if row[f"{key}_seeds"]]
            if len(seeds) > 1:
                columns = "; ".join(f"seed {own} in column {place}" for place, own in enumerate(seeds, start=1))
                notes.append(f"{_row_name(row, rows)}: its seeds were scored on {name} in several ways ({columns}).")
    return notes


def _mt_bench_notes(rows: list[TableRow], experiment: Mapping[str, Any], verdicts: Verdicts) -> list[str]:
    keys = _judgings(rows)
    judge = distinct(row[f"{key}_judge"] for key in keys for row in rows)
    if judge is None:
        return []
    limit = (experiment.get("mt_bench") or {}).get("limit")
    first = "question" if limit == 1 else f"{limit} questions"
    which = "all questions" if limit is None else f"the first {first} of each category"
    cap = distinct(row[f"{key}_answer_max_new_tokens"] for key in keys for row in rows)
    answers = f"two turns each, answers of at most {cap} tokens" if cap else "two turns each"
    notes = [
        f"MT-Bench: mean rating (1 to 10) over {which}, {answers}; judge: {judge}{_judged_when(rows, keys)};"
        f" unparsable ratings: {_unparsable(rows)}.{capped_words(rows, keys)}"
        f"{usage_words(rows, [f'{key}_' for key in keys])}"
    ]
    lows = (row[f"{key}_low_points"] for key in keys for row in rows)
    notes += [] if verdicts.have(keys) else interval_notes(False, lows)
    return [*notes, RULE_BASED_NOTE] if "rule-based" in judge else notes


def _judged_when(rows: list[TableRow], keys: list[str]) -> str:
    repeats = distinct(row[f"{key}_repeats"] for key in keys for row in rows)
    ends = [row[f"{key}_{end}_judged"] for key in keys for row in rows for end in ("first", "last")]
    dates = sorted(date for date in ends if date)
    often = "" if repeats in (None, "1") else f", every answer judged {repeats} times and the median taken"
    days = " to ".join(dict.fromkeys(date[:10] for date in (dates[0], dates[-1]))) if dates else ""
    return often + (f", asked {days}" if days else "")


def _is_old(row: TableRow, prefix: str = "") -> bool:
    return row[f"{prefix}activations_bytes"] is not None and row[f"{prefix}temporaries_bytes"] is None


def _not_compared(rows: list[TableRow]) -> list[str]:
    """Why differences to published values are empty."""
    keys = {key: _label(key) for key in _accuracies(rows)}
    keys |= {f"{key}_without_coding": "MT-Bench" for key in _judgings(rows)}
    reasons = {key: distinct(row.get(f"{key}_not_compared") for row in rows) for key in keys}
    notes = [
        f"{keys[key]}: no difference to the published value, which is of another measurement ({reason})."
        for key, reason in reasons.items()
        if reason
    ]
    return list(dict.fromkeys(notes))


def _reasons(rows: list[TableRow]) -> list[str]:
    """Why rows are not ok."""
    stopped = [row for row in rows if row["reason"]]
    return [f"{_row_name(row, rows)}: {row['status']}; {row['reason']}." for row in stopped]


def _row_name(row: TableRow, rows: list[TableRow]) -> str:
    names = [name for name in ("model", "data") if len({row[name] for row in rows}) > 1]
    names += ["method", *(["variant"] if row["variant"] != "default" else [])]
    return " ".join(row[name] for name in names)
