"""The page to read MT-Bench answers and their judgments side by side (protocol: Zheng et al. 2023, arXiv 2306.05685).

    html = render(experiment, rows)     # rows: eval.collect.group(...)

It needs nothing beside it: questions, answers and judgments stand in it as JSON, a piece a run, and its script draws
one question at a time. What models and judges wrote reaches the page as text only: `tojson` escapes all that could end
a script, and the script (templates/answers.js) makes text nodes of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.collect import Row, Run
from eval.conditions import judges
from eval.mt_bench import MtBench, load_mt_bench, select_questions
from eval.protocols import MT_BENCH, Slot, slots
from workflow.places import benchmarks_folder
from workflow.report.answers import Json, read_answers
from workflow.report.page import TEMPLATES, fill, listed, notices

COUNTED = {  # fields of mt_bench.json
    "unparsable": "unparsable judgments",
    "empty_answers": "empty answers",
    "truncated_contexts": "cut contexts",
}
UNPREPARED = "The benchmarks are not prepared, so no question is known and no answer can be shown."


def render(experiment: Mapping[str, Any], rows: list[Row]) -> str:
    """The page.

    Raises:
        EvaluationError: a file that exists cannot be read, or lacks a field.
    """
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup

    bench = _bench(experiment)
    questions = _questions(experiment, bench)
    asked = [question["id"] for question in questions]
    runs, answered = [], []
    for row in rows:
        for run in row.runs:
            answers, reason = read_answers(run, asked) if bench else ([], "its questions are not prepared here")
            runs.append(_about(row, run, reason, alone=len({row.key[:2] for row in rows}) == 1))
            answered += [(run.path, htmlsafe_json_dumps(answers))] if answers else []
    return fill(
        "answers.html.j2",
        name=f"{experiment['name']}: MT-Bench answers",
        summary=_summary(questions, runs, [run for row in rows for run in row.runs], answered),
        notices=[*([] if bench else [UNPREPARED]), *notices(experiment, rows)],
        index={"questions": questions, "runs": runs},
        rows=_choices(rows, runs),
        seeds=sorted({run["seed"] for run in runs}),
        categories=list(dict.fromkeys(question["category"] for question in questions)),
        islands=answered,
        lacking=[run for run in runs if run["reason"]],
        answers_style=Markup((TEMPLATES / "answers.css").read_text()),
        answers_script=Markup((TEMPLATES / "answers.js").read_text()),
    )


# --- questions


def _bench(experiment: Mapping[str, Any]) -> MtBench | None:
    """Questions and references that the runs were asked; None if nothing is prepared (any more)."""
    manifest = benchmarks_folder(dict(experiment)) / "manifest.json"
    return load_mt_bench(Path(json.loads(manifest.read_text())["root"])) if manifest.is_file() else None


def _questions(experiment: Mapping[str, Any], bench: MtBench | None) -> list[Json]:
    if bench is None:
        return []
    return [
        {
            "id": question["question_id"],
            "category": question["category"],
            "turns": question["turns"],
            "reference": bench.references.get(question["question_id"]),
        }
        for question in select_questions(bench.questions, experiment["mt_bench"]["limit"])
    ]


# --- what is said of the runs


def _about(row: Row, run: Run, reason: str, *, alone: bool) -> Json:
    """A run as the page's script knows it.

    `alone`: all runs are of one model and data set; `reason`: why it is silent, or else what it lacks.
    """
    where = "" if alone else f"{run.model} on {run.data}"
    return {
        "path": run.path,
        "row": "/".join(row.key),
        "label": ", ".join([row.label, f"seed {run.seed}", *([where] if where else [])]),
        "method": row.label,
        "where": where,
        "seed": run.seed,
        "baseline": run.pairwise.get("baseline"),
        "silent": bool(reason),
        "reason": reason or (f"{run.status}: {run.reason}" if run.status != "ok" else ""),
    }


def _choices(rows: list[Row], runs: list[Json]) -> list[tuple[str, list[Json]]]:
    """The rows to choose from, by model and data set; the first two that have answers are chosen at first."""
    speaking = list(dict.fromkeys(run["row"] for run in runs if not run["silent"]))
    judgings = slots(rows, MT_BENCH)
    panels: dict[str, list[Json]] = {}
    for row in rows:
        key = "/".join(row.key)
        words = _means(row, judgings) if key in speaking else "no answers"
        choice = {"row": key, "label": row.label, "words": words, "silent": key not in speaking}
        panels.setdefault(" on ".join(row.key[:2]), []).append(choice | {"chosen": key in speaking[:2]})
    return list(panels.items())


def _means(row: Row, judgings: list[Slot]) -> str:
    """A row's mean, one for each way its seeds were judged: `5.20 (rule-based, judged once), 5.31 (...)`."""
    means = []
    for slot in judgings:
        part = slot.part(row)
        mean = part.estimate(MT_BENCH).value
        how = ", ".join(filter(None, (judges(part.runs), slot.differs))) if len(judgings) > 1 else ""
        means += [] if mean is None else [f"{mean:.2f}" + (f" ({how})" if how else "")]
    return ", ".join(means) or "not judged"


def _summary(
    questions: list[Json], runs: list[Json], collected: list[Run], answered: list[tuple[str, str]]
) -> list[str]:
    """What stands on the page, in a few sentences."""
    judges = list(dict.fromkeys(run.judged["judge"]["model"] for run in collected if run.judged))
    counts = [f"{sum(run.judged.get(key, 0) for run in collected)} {words}" for key, words in COUNTED.items()]
    categories = len({question["category"] for question in questions})
    megabytes = sum(len(island) for _, island in answered) / 1e6
    counts.append(_capped([run.judged for run in collected if run.judged]))
    return [
        f"{len(questions)} questions of two turns in {categories} categories;"
        f" answers of {len(answered)} of {len(runs)} runs ({megabytes:.1f} MB of this page).",
        f"Judged by {listed(judges)}: {listed(counts)}." if judges else "Not judged.",
    ]


def _capped(judged: list[Json]) -> str:
    """How many answers `max_new_tokens` cut off, and in how many runs that is not known."""
    counts = [entry.get("capped_answers") for entry in judged]
    known = [count for count in counts if count is not None]
    if not known:
        return "no record of answers cut off by max_new_tokens"
    lacking = f" (not recorded in {len(counts) - len(known)} of {len(counts)} runs)" if len(known) < len(counts) else ""
    return f"{sum(known)} answers cut off by max_new_tokens{lacking}"
