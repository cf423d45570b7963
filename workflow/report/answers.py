"""What a run answered to MT-Bench's questions and what the judge said of it, as the page of answers shows it.

    answers, reason = read_answers(run, [81, 82, ...])    # run: eval.collect.Run

Read from the run's answers.jsonl, judgments.jsonl and comparisons.jsonl (protocol: Zheng et al. 2023, arXiv
2306.05685).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval import EvaluationError
from eval.collect import Run
from eval.json_files import AGAIN, require
from eval.json_lines import parse_lines

Json = dict[str, Any]


def read_answers(run: Run, asked: list[Any]) -> tuple[list[Json | None], str]:
    """What the page shows of a run for each question asked (None: not answered), or why there is nothing to show.

    Args:
        asked: ids of the experiment's questions, in their order.

    Raises:
        EvaluationError: a file that exists cannot be read, or lacks a field.
    """
    if run.scores.get("status") != "ok":  # one process scores and answers
        return [], f"{run.status}: {run.reason or 'the evaluation did not finish'}"
    answers = {row["question_id"]: row for row in _read(run.folder / "answers.jsonl", ("question_id", "turns"))}
    if not answers:
        return [], "no answers.jsonl, or an empty one"
    foreign = [str(identity) for identity in answers if identity not in asked]
    if foreign:
        return [], f"answers to questions that the experiment does not ask ({', '.join(foreign[:3])}); run it again"
    judgments = _by_turn(run.folder / "judgments.jsonl", _judgment) if run.judged else {}
    comparisons = _by_turn(run.folder / "comparisons.jsonl", _comparison) if run.pairwise else {}
    return [
        {
            "turns": answers[identity]["turns"],
            "cut": answers[identity].get("truncated_tokens", [0, 0]),
            "ended": answers[identity].get("ended"),  # null: not recorded
            "judgments": [judgments.get((identity, turn)) for turn in (1, 2)],
            "comparisons": [comparisons.get((identity, turn)) for turn in (1, 2)],
        }
        if identity in answers
        else None
        for identity in asked
    ], ""


def _by_turn(file: Path, form: Callable[[Path, Json], Json]) -> dict[tuple[Any, int], Json]:
    return {(row["question_id"], row["turn"]): form(file, row) for row in _read(file, ("question_id", "turn"))}


def _judgment(file: Path, row: Json) -> Json:
    """A judgment with its repeats; rows of before there were repeats have one `reply`."""
    require(file, row, ("rating", "prompt_name"))
    if "replies" not in row:
        require(file, row, ("reply",))
        row = row | {"ratings": [row["rating"]], "replies": [row["reply"]]}
    require(file, row, ("ratings",))
    return {
        "rating": row["rating"],
        "ratings": row["ratings"],
        "replies": row["replies"],
        "prompt": row["prompt_name"],
        "tries": row.get("tries"),
        "asked_at": row.get("asked_at"),
    }


def _comparison(file: Path, row: Json) -> Json:
    require(file, row, ("outcome", "verdicts", "replies"))
    return {key: row[key] for key in ("outcome", "verdicts", "replies")}


def _read(file: Path, needed: tuple[str, ...]) -> list[Json]:
    """The rows of a file, none if it is absent."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    try:
        rows = [row for _, row in parse_lines(text, file)]
    except EvaluationError as error:
        raise EvaluationError(f"{error} {AGAIN}") from error
    for row in rows:
        require(file, row, needed)
    return rows
