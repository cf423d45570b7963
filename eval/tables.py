"""The tables of an experiment as plain rows: methods, comparison, memory, speed. Reads result files; never trains.

    rows = group(collect(experiment, results), experiment)
    write_csv(comparison(rows, experiment), results / "tables" / "comparison.csv")

Each function returns a list of dicts, one a row, all with the same keys in the same order; units stand in the keys,
None is an empty cell. Every row repeats its conditions, so that a table can be joined and mailed alone. A row stands
for all seeds of (model, data, method, variant); one that failed keeps its row. With `verdicts` (`eval/tested.py`) it
has 95 % intervals and the letters of its groups of equals. A column holds scores of one protocol
(`eval/protocols.py`): `mmlu_percent` those of the protocol of most rows, `mmlu_2_percent` those of the next; a row
whose seeds differ in it has in each column the mean of those that `mmlu_seeds`, `mmlu_2_seeds` name. A difference to a
published value stands only where ours measured the same thing; `..._not_compared` says why it does not.
`eval/present.py` makes them readable.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks import BENCHMARKS, SUITES
from eval.collect import Row, Run, dig, panels
from eval.conditions import conditions
from eval.mt_bench_tables import mt_bench_columns
from eval.protocols import MT_BENCH, Slot, cut_words, described, extent_words, metrics, slots
from eval.published import Cell, find, load
from eval.rounding import floor_of
from eval.tested import UNTESTED, Verdicts
from eval.text import GB

PHASES = ("load", "train", "forward", "backward", "step", "evaluate")  # forward, backward and step: of train
METERED = ("allocated", "reserved", "process")
COMPONENTS = ("weights", "gradients", "optimizer_state", "activations", "temporaries", "other")
TRAINABLE = ("always", "sampled", "total")

TableRow = dict[str, Any]


FASTCHAT_ANSWER_TOKENS = 1024  # FastChat's gen_model_answer.py, --max-new-token
STEADY_SPREAD = 1.2  # seeds whose median steps differ by more were not measured under the same load
UNSTEADY = "since their seeds differ by more than 20 %"


def write_csv(rows: list[TableRow], file: Path) -> None:
    """Write rows as CSV; booleans are true or false, None is empty."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: str(cell).lower() if isinstance(cell, bool) else cell for key, cell in row.items()})


def published_cells(experiment: Mapping[str, Any]) -> list[Cell]:
    """All cells of the published tables that the experiment names."""
    return [cell for name in experiment.get("report", {}).get("published", []) for cell in load(name)]


def methods(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> list[TableRow]:
    """All of a method in one row: scores, peak memory and its components, speed, what trains, optimizer state."""
    rows = list(rows)
    scored = _slots(rows, experiment)
    return [
        {
            **identity(row),
            **_loss(row, verdicts),
            **_scores(row, scored, verdicts),
            **_peak(row),
            "tokens_per_s": row.mean("throughput", "tokens_per_s"),
            "trainable_parameters": row.largest("trainable_parameters", "total"),
            "trainable_percent": times(_trainable_share(row), 100),
            "optimizer_state_bytes": row.largest("optimizer_state_bytes"),
            **conditions(row.runs, experiment),
        }
        for row in rows
    ]


def comparison(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> list[TableRow]:
    """Scores, trainable parameters, peak memory and speed; published values where the experiment names a table."""
    rows, cells = list(rows), published_cells(experiment)
    scored = _slots(rows, experiment)
    return [
        {
            **identity(row),
            **_loss(row, verdicts),
            **_scores(row, scored, verdicts),
            **_published_scores(row, scored, cells, experiment),
            "trainable_parameters": row.largest("trainable_parameters", "total"),
            "peak_memory_bytes": row.largest("memory", "phases", "train"),
            "tokens_per_s": row.mean("throughput", "tokens_per_s"),
            **conditions(row.runs, experiment),
        }
        for row in rows
    ]


def memory(rows: Iterable[Row], experiment: Mapping[str, Any]) -> list[TableRow]:
    """Peak memory by meter, phase and component: the largest over the seeds, since a peak is what must fit."""
    cells = published_cells(experiment)
    return [
        {
            **identity(row),
            "meter": row.shared("memory", "meter"),
            **{f"peak_{kind}_bytes": row.largest("memory", f"{kind}_peak_bytes") for kind in METERED},
            **{f"{phase}_peak_bytes": row.largest("memory", "phases", phase) for phase in PHASES},
            "benchmarks_peak_bytes": _benchmarks_peak(row),
            **_components(row),
            **{f"trainable_parameters_{part}": row.largest("trainable_parameters", part) for part in TRAINABLE},
            "optimizer_state_dtype": row.shared("settings", "optimizer_state_dtype"),
            "adamw_implementation": row.shared("settings", "adamw_implementation"),
            **_published_memory(row, cells),
            **conditions(row.runs, experiment),
        }
        for row in rows
    ]


def speed(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> list[TableRow]:
    """Step time, throughput and FLOPs: means over seeds; speed-up is full fine-tuning's median step over the row's."""
    table = []
    for _, members in panels(rows):
        full = [steady_s(row) for row in members if row.first.method == "full"]
        full_s = next(filter(None, full), None)
        table += [_speed_row(row, full_s, experiment, verdicts) for row in members]
    return table


def _speed_row(row: Row, full_s: float | None, experiment: Mapping[str, Any], verdicts: Verdicts) -> TableRow:
    own_s = steady_s(row)
    return {
        **identity(row),
        "step_median_ms": times(row.mean("time", "step_median_s"), 1e3),
        **verdicts.columns(row, "step_median_s", "step_median", "ms"),
        "step_median_spread": _spread(row),
        "step_p90_ms": times(row.mean("time", "step_p90_s"), 1e3),
        "speedup_over_full": full_s / own_s if full_s and own_s else None,
        "tokens_per_s": row.mean("throughput", "tokens_per_s"),
        "padded_tokens_per_s": row.mean("throughput", "padded_tokens_per_s"),
        "flops_per_step": row.mean("flops_per_step"),
        "mfu": row.mean("mfu"),
        "train_s": row.mean("time", "train_s"),
        "untimed_steps": row.largest("time", "warmup_steps"),
        **conditions(row.runs, experiment),
    }


def steady_s(row: Row) -> float | None:
    """Mean of the seeds' median step times; None where they disagree, since other work on the machine slowed some."""
    spread = _spread(row)
    return row.mean("time", "step_median_s") if spread is not None and spread <= STEADY_SPREAD else None


def unsteady(rows: Iterable[Row]) -> list[str]:
    """Labels of the rows whose seeds disagree about the time of a step."""
    return [row.label for row in rows if row.mean("time", "step_median_s") and steady_s(row) is None]


def _spread(row: Row) -> float | None:
    """Slowest over fastest of the seeds' median step times."""
    medians = row.fields("time", "step_median_s")
    return max(medians) / min(medians) if medians else None


# --- parts of a row


def times(value: float | None, factor: float) -> float | None:
    """A value in another unit; None stays None."""
    return None if value is None else value * factor


def identity(row: Row) -> TableRow:
    """What opens every row: which runs it stands for, how they ended."""
    first = row.first
    return {
        "model": first.model,
        "data": first.data,
        "method": first.method,
        "variant": first.variant,
        "hyperparameters": json.dumps(dict(first.hyperparameters), sort_keys=True),
        "learning_rate": first.learning_rate,
        "seeds": " ".join(str(run.seed) for run in row.runs),
        "runs": len(row.runs),
        "runs_ok": sum(run.status == "ok" for run in row.runs),
        "status": row.status,
        "reason": row.reason or None,
    }


def _loss(row: Row, verdicts: Verdicts) -> TableRow:
    loss = row.estimate("validation_loss")
    interval = verdicts.columns(row, "validation_loss", "validation_loss")
    return {"validation_loss": loss.value, "validation_loss_stderr": loss.stderr, **interval}


def _slots(rows: Sequence[Row], experiment: Mapping[str, Any]) -> list[Slot]:
    """The columns of scores: benchmarks, suites, MT-Bench, each once for every protocol among the rows."""
    return [slot for metric in (*metrics(rows, experiment), MT_BENCH) for slot in slots(rows, metric)]


def _scores(row: Row, scored: Iterable[Slot], verdicts: Verdicts) -> TableRow:
    columns: TableRow = {}
    for slot in scored:
        part = slot.part(row)
        judged = slot.metric == MT_BENCH
        columns |= mt_bench_columns(part, slot, verdicts) if judged else _accuracy(row, part, slot, verdicts)
    return columns


def _accuracy(row: Row, part: Row, slot: Slot, verdicts: Verdicts) -> TableRow:
    score, key = part.estimate(slot.metric).scaled(100), slot.key
    words = described(part.runs, slot.metric) or ""
    told = [part for part in slot.differs.split(", ") if part not in words] if score.count else []
    return {
        f"{key}_percent": score.value,
        f"{key}_stderr_percent": score.stderr,
        **verdicts.columns(row, key, key, "percent"),
        f"{key}_noise_floor_percent": times(floor_of(row, slot.metric), 100),
        f"{key}_protocol": ", ".join(filter(None, (words, *told))) or None,
        f"{key}_seeds": " ".join(str(run.seed) for run in part.runs) if score.count else None,
    }


def _components(row: Row) -> TableRow:
    """The components of the seed with the largest peak, so that they add up to it."""
    metered = [run for run in row.runs if run.trained and run.field("memory", "components") is not None]
    largest = max(metered, key=lambda run: run.field("memory", "allocated_peak_bytes"), default=None)
    return {f"{part}_bytes": largest.field("memory", "components", part) if largest else None for part in COMPONENTS}


def _peak(row: Row) -> TableRow:
    """The peak of training and its components; all None where nothing was trained."""
    peak, parts = row.largest("memory", "phases", "train"), _components(row)
    return {
        "peak_memory_bytes": peak,
        **{f"peak_{name}": None if peak is None else part for name, part in parts.items()},
    }


def _trainable_share(row: Row) -> float | None:
    """Parameters that train at a time over those of the base model; adapters are none of the latter."""
    trained, all_of_it = row.largest("trainable_parameters", "total"), row.largest("model", "parameters")
    return trained / all_of_it if trained is not None and all_of_it else None


def _benchmarks_peak(row: Row) -> int | None:
    peaks: list[int | None] = [dig(_scored(run), ("memory", "evaluate_peak_bytes")) for run in row.runs]
    return max((peak for peak in peaks if peak is not None), default=None)


def _scored(run: Run) -> Mapping[str, Any]:
    return run.scores if run.benchmarks else {}


# --- published values in the columns of a row


def _published_scores(row: Row, scored: Iterable[Slot], cells: list[Cell], experiment: Mapping[str, Any]) -> TableRow:
    """Published value and difference, or why there is none, for each score that the named tables hold."""
    columns: TableRow = {}
    for slot in scored:
        judged = slot.metric == MT_BENCH
        metric = "mt_bench_without_coding" if judged else slot.metric
        unit, factor = ("points", 1) if judged else ("percent", 100)
        part, key = slot.part(row), slot.key + metric.removeprefix(slot.metric)
        cell = _cell(row, cells, metric)
        reason = not_compared(part, cell, experiment) if cell and cell.value is not None else None
        pair = _pair(cell, part.estimate(metric).scaled(factor).value, reason)
        if any(cell.metric == metric for cell in cells):
            columns |= {f"{key}_{name}_{unit}": value for name, value in pair.items()}
            columns[f"{key}_not_compared"] = reason
    return columns


def _published_memory(row: Row, cells: list[Cell]) -> TableRow:
    if not any(cell.metric == "peak_memory" for cell in cells):
        return {}
    peak_gb = times(row.largest("memory", "phases", "train"), 1 / GB)
    pair = _pair(_cell(row, cells, "peak_memory"), peak_gb)
    return {f"peak_memory_{name}_gb": value for name, value in pair.items()}


def _cell(row: Row, cells: list[Cell], metric: str) -> Cell | None:
    return find(cells, row.published_as, row.first.method, row.first.hyperparameters, metric)


def _pair(cell: Cell | None, ours: float | None, reason: str | None = None) -> TableRow:
    """`published` and `difference`; no difference with a reason against."""
    value = cell.value if cell else None
    compared = ours is not None and value is not None and reason is None
    difference = ours - value if compared else None  # type: ignore[operator]
    return {"published": value, "difference": difference}


def not_compared(row: Row, cell: Cell, experiment: Mapping[str, Any]) -> str | None:
    """Why our score is not the published measurement, e.g. `partial: first 40 items`; None if it is, or is absent."""
    if cell.metric.startswith(MT_BENCH):
        scored = [run for run in row.runs if run.judged]
        reasons = [reason for run in scored for reason in _mt_bench_deviations(run)]
    else:
        members = SUITES[cell.metric].members if cell.metric in SUITES else (cell.metric,)
        scored = [run for run in row.runs if run.benchmarks.keys() >= {*members}]
        reasons = [reason for run in scored for member in members for reason in _accuracy_deviations(run, member, cell)]
    generated = ["embedded world"] if scored and experiment.get("data_root") == "world" else []
    return "; ".join(dict.fromkeys([*generated, *reasons])) or None


def _accuracy_deviations(run: Run, name: str, cell: Cell) -> list[str]:
    entry, benchmark = run.benchmarks[name], BENCHMARKS[name]
    published_shots = benchmark.shots if cell.shots is None else cell.shots
    otherwise = cell.asked_otherwise(writes=benchmark.metric == "exact_match")
    shots, extent = entry.get("shots"), extent_words(name, entry)
    partial = [] if entry.get("whole_benchmark") is True else [f"partial: {extent}" if extent else "partial"]
    cut, cap = cut_words(entry), entry.get("max_new_tokens")
    return [
        *([otherwise] if otherwise else []),
        *partial,
        *([f"{cut} at the beginning, to the model's positions"] if cut else []),
        *([f"answers of at most {cap} new tokens, not the task's own cap"] if cap is not None else []),
        *([] if shots == published_shots else [f"{shots}-shot, published {published_shots}-shot"]),
    ]


def _mt_bench_deviations(run: Run) -> list[str]:
    """Never empty: no published table that we have names its judge, and judges differ by points."""
    judged = run.judged
    limit, cap = judged.get("limit"), judged.get("answers", {}).get("max_new_tokens")
    first = "question" if limit == 1 else f"{limit} questions"
    return [
        *([] if limit is None else [f"partial: first {first} of each category"]),
        *(
            []
            if cap in (None, FASTCHAT_ANSWER_TOKENS)
            else [f"answers' cap {cap} tokens, not {FASTCHAT_ANSWER_TOKENS}"]
        ),
        f"judge: ours {judged['judge']['model']}, the paper's not stated",
    ]
