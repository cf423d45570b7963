"""MT-Bench's pairwise mode (Zheng et al. 2023, arXiv 2306.05685, section 3.1): which of two answers is better?

    rows = compare_answers(answers, baseline_answers, bench.questions, bench.references, bench.prompts, settings)
    result = summarise_comparisons(rows, judge_model=settings.model, baseline="tiny/world/vanilla/default/seed0")

FastChat's `pairwise-baseline` with its prompts pair-v2 and pair-math-v1: the judge sees the answer of a run and that of
the baseline twice, in both orders, since judges prefer the place an answer stands at. A turn is won or lost only if
both verdicts name the same answer. Two that disagree count as a tie in the win rate, as in FastChat, and are shown
apart; what cannot be read is asked again by the client, then counted and left out of the rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval import EvaluationError
from eval.judge_client import Reply, ask
from eval.judge_cost import Usage
from eval.judge_settings import JudgeSettings
from eval.judging import place_of, question_of
from eval.mt_bench import INTERVAL_METHOD, REFERENCE_CATEGORIES, interval, judge_record

SCHEMA_VERSION = "1.0"
# FastChat looks for them in this order, whatever order the reply has them in.
_VERDICTS = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}
POINTS = {"win": 1.0, "loss": 0.0, "tie": 0.5, "inconsistent": 0.5}


def compare_answers(
    answers: list[dict[str, Any]],
    baseline_answers: list[dict[str, Any]],
    questions: list[dict[str, Any]],
    references: Mapping[Any, list[str]],
    prompts: Mapping[str, Mapping[str, str]],
    settings: JudgeSettings,
    *,
    store: Path | None = None,
    usage: Usage | None = None,
) -> list[dict[str, Any]]:
    """Comparisons in the answers' order, turn 1 before turn 2; two requests each.

    Returns {"question_id", "category", "turn", "prompt_name", "prompt_sha256", "verdicts": [of order 1, of order 2],
    "outcome", "replies", "tries", "first_asked_at", "asked_at" (the last one)} for each turn. The run's answer is A in
    order 1, the baseline's in order 2; a verdict is "A", "B", "tie" or None, the outcome "win", "loss", "tie",
    "inconsistent" or None.

    Raises:
        EvaluationError: the two answered different questions, or the judge cannot be used (the message says why).
    """
    _check_same_questions(answers, baseline_answers)
    by_id = {question["question_id"]: question for question in questions}
    others = {answer["question_id"]: answer["turns"] for answer in baseline_answers}
    places, requests, labels = [], [], []
    for answer in answers:
        question, own, other = question_of(answer, by_id), answer["turns"], others[answer["question_id"]]
        for turn in (1, 2):
            for order, pair in enumerate(((own, other), (other, own)), start=1):
                name, messages = build_pair_request(question, *pair, turn, references, prompts)
                requests.append(messages)
                labels.append(f"question {question['question_id']}, turn {turn}, {name}, order {order}")
            places.append(place_of(question, turn, name, prompts))
    replies = ask(requests, settings, store, accept=is_verdict, labels=labels, usage=usage)
    once = [reply for (reply,) in replies]
    return [
        {**place, **_comparison([first, second])}
        for place, first, second in zip(places, once[::2], once[1::2], strict=True)
    ]


def build_pair_request(
    question: Mapping[str, Any],
    turns_a: list[str],
    turns_b: list[str],
    turn: int,
    references: Mapping[Any, list[str]],
    prompts: Mapping[str, Mapping[str, str]],
) -> tuple[str, list[dict[str, str]]]:
    """(name of the judge prompt, messages) that ask which of two answers of one turn is better; FastChat's."""
    with_reference = question["category"] in REFERENCE_CATEGORIES
    name = ("pair-math-v1" if with_reference else "pair-v2") + ("-multi-turn" if turn == 2 else "")
    fields = {"question": question["turns"][0], "answer_a": turns_a[0], "answer_b": turns_b[0]}
    named = {"question": question["turns"], "answer_a": turns_a, "answer_b": turns_b}
    if with_reference:
        named["ref_answer"] = references[question["question_id"]]
    fields |= {f"{key}_{number}": text for key, texts in named.items() for number, text in enumerate(texts, start=1)}
    prompt = prompts[name]
    return name, [
        {"role": "system", "content": prompt["system_prompt"]},
        {"role": "user", "content": prompt["prompt_template"].format(**fields)},
    ]


def parse_verdict(reply: str) -> str | None:
    """The verdict "A", "B" or "tie" as FastChat reads [[A]], [[B]] and [[C]]; None without any of them."""
    return next((verdict for mark, verdict in _VERDICTS.items() if mark in reply), None)


def is_verdict(reply: str) -> bool:
    """Whether a reply can be read."""
    return parse_verdict(reply) is not None


def outcome(first: str | None, second: str | None) -> str | None:
    """What two verdicts say of the answer that was A in the first order and B in the second."""
    if first is None or second is None:
        return None
    swapped = {"A": "B", "B": "A", "tie": "tie"}[second]
    if first != swapped:
        return "inconsistent"
    return {"A": "win", "B": "loss", "tie": "tie"}[first]


def summarise_comparisons(
    rows: list[dict[str, Any]], *, judge_model: str, baseline: str, judge_server: str | None = None
) -> dict[str, Any]:
    """The content of pairwise.json; `baseline` names the run that `rows` compare with.

    The win rate is (wins + half of ties and inconsistent) / comparisons with two readable verdicts, FastChat's
    adjusted one; its interval draws questions, which hold two comparisons each. Without anything readable it is None.
    """
    if not rows:
        raise EvaluationError("There are no MT-Bench comparisons to sum up.")
    categories = dict.fromkeys(row["category"] for row in rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "ok",
        "reason": None,
        "baseline": baseline,
        "judge": judge_record(rows, judge_model, judge_server),
        **_counts(rows),
        "asked_again": sum(row["tries"] for row in rows) - 2 * len(rows),
        "interval_method": INTERVAL_METHOD,
        "categories": {name: _counts([row for row in rows if row["category"] == name]) for name in categories},
    }


def _check_same_questions(answers: list[dict[str, Any]], baseline_answers: list[dict[str, Any]]) -> None:
    asked, others = ({answer["question_id"] for answer in given} for given in (answers, baseline_answers))
    if asked != others:
        missing = ", ".join(map(str, sorted(asked ^ others)))
        raise EvaluationError(f"The run and its baseline answered different questions; only one of them has {missing}.")


def _comparison(replies: list[Reply]) -> dict[str, Any]:
    """What the two orders of one comparison say together."""
    verdicts = [parse_verdict(reply.text) for reply in replies]
    return {
        "verdicts": verdicts,
        "outcome": outcome(*verdicts),
        "replies": [reply.text for reply in replies],
        "tries": sum(reply.tries for reply in replies),
        "first_asked_at": min(reply.asked_at for reply in replies),
        "asked_at": max(reply.asked_at for reply in replies),
    }


def _counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How often each outcome occurred, and the win rate."""
    found, points = [row["outcome"] for row in rows], points_by_question(rows)
    sums, counts = [sum(own) for own in points.values()], [len(own) for own in points.values()]
    return {
        "questions": len({row["question_id"] for row in rows}),
        "comparisons": len(rows),
        "wins": found.count("win"),
        "losses": found.count("loss"),
        "ties": found.count("tie"),
        "inconsistent": found.count("inconsistent"),
        "unparsable": found.count(None),
        "win_rate": sum(sums) / sum(counts) if counts else None,
        "interval": interval(sums, counts),
    }


def points_by_question(rows: Iterable[Mapping[str, Any]]) -> dict[Any, list[float]]:
    """What each question earned, a point for each comparison that was won; those that cannot be read are left out."""
    points: dict[Any, list[float]] = {}
    for row in rows:
        if row["outcome"] is not None:
            points.setdefault(row["question_id"], []).append(POINTS[row["outcome"]])
    return points
