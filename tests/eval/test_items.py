"""Items of runs: read from what the stages leave, paired by id, and never paired under different prompts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from eval import EvaluationError
from eval.collect import Run, collect
from eval.items import check_scored_alike, compare, differing, load_items, paired, read_samples, scored_items
from tests.report import fixture_tree


def row(number: int, correct: bool, task: str = "gsm8k", **changes: Any) -> dict[str, Any]:
    """A row of samples.jsonl.gz; items of one number are the same item."""
    about = {"benchmark": task, "task": task, "item": number, "item_id": f"{task}/{number:016x}"}
    about |= {"prompt_sha256": f"{number:016d}", "correct": correct, "metrics": {"acc,none": float(correct)}}
    return about | {"prediction": "7" if correct else "8", "target": "7"} | changes


def write_samples(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "samples.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)


def write_judgments(folder: Path, ratings: dict[tuple[int, int], float | None], **changes: Any) -> None:
    """Judgments by (question, turn), and the answers they are of."""
    questions = {question for question, _ in ratings}
    answers = [{"question_id": question, "turns": [f"one {question}", f"two {question}"]} for question in questions]
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    about = {"category": "math", "prompt_name": "single-v1", "prompt_sha256": "5" * 64} | changes
    rows = [about | {"question_id": q, "turn": turn, "rating": rating} for (q, turn), rating in ratings.items()]
    (folder / "judgments.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))


# --- reading


def test_a_row_becomes_an_item_with_nothing_lost(tmp_path: Path) -> None:
    choice = row(3, True, "mmlu_x", benchmark="mmlu", prediction=1, target=[0, 1], log_likelihoods=[-2.0, -1.0])
    write_samples(tmp_path, [row(1, False, prediction="Straße\u2028end"), choice])
    text, option = load_items(tmp_path)
    assert load_items(str(tmp_path)) == [text, option]
    assert (text.benchmark, text.item_id, text.index) == ("gsm8k", f"gsm8k/{1:016x}", 1)
    assert (text.value, text.prediction, text.target) == (0.0, "Straße\u2028end", "7")
    assert (option.benchmark, option.task, option.value) == ("mmlu", "mmlu_x", 1.0)
    assert (option.prediction, option.target, option.log_likelihoods) == (1, [0, 1], (-2.0, -1.0))
    assert option.metrics == {"acc,none": 1.0}


def test_ratings_are_items_of_their_turn_with_the_answer_that_was_rated(tmp_path: Path) -> None:
    write_samples(tmp_path, [row(1, True)])
    write_judgments(tmp_path, {(81, 1): 7.0, (81, 2): None})
    items = {item.item_id: item for item in load_items(tmp_path)}
    assert list(items) == [f"gsm8k/{1:016x}", "mt_bench/81/1", "mt_bench/81/2"]
    assert (items["mt_bench/81/1"].value, items["mt_bench/81/1"].prediction) == (7.0, "one 81")
    assert (items["mt_bench/81/2"].value, items["mt_bench/81/2"].prediction) == (None, "two 81")
    assert items["mt_bench/81/2"].task == "math"


def test_a_run_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"samples\.jsonl\.gz does not exist: the run is not evaluated"):
        load_items(tmp_path)


def test_rows_of_before_item_ids_are_refused_with_what_to_do(tmp_path: Path) -> None:
    old = row(1, True)
    del old["item_id"]
    write_samples(tmp_path, [row(0, True), old])
    with pytest.raises(EvaluationError, match=r"row 2: field 'item_id' is missing\. Run the pipeline again"):
        load_items(tmp_path)


def test_an_item_that_stands_twice_is_named(tmp_path: Path) -> None:
    write_samples(tmp_path, [row(1, True), row(1, False)])
    with pytest.raises(EvaluationError, match=f"item gsm8k/{1:016x} of gsm8k stands twice"):
        load_items(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [b"not gzip", gzip.compress(b'{"a": 1}\n')[:-9], gzip.compress(b"{half\n")],
    ids=["no gzip", "cut short", "no JSON"],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "samples.jsonl.gz").write_bytes(damage)
    with pytest.raises(EvaluationError, match=r"samples\.jsonl\.gz cannot be read: .*Delete it"):
        read_samples(tmp_path)


def test_a_judgment_without_its_answer_is_named(tmp_path: Path) -> None:
    write_samples(tmp_path, [])
    write_judgments(tmp_path, {(81, 1): 7.0})
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(EvaluationError, match=r"row 1: answers\.jsonl beside it has no question 81"):
        load_items(tmp_path)


# --- pairing


def test_items_pair_by_id_in_whatever_order_they_stand() -> None:
    a, b = scored_items([row(1, True), row(2, True), row(3, False)]), scored_items([row(3, True), row(1, False)])
    pairs = paired(a, b)
    assert [(one.index, other.index, one.value, other.value) for one, other in pairs.both] == [
        (1, 1, 1, 0),
        (3, 3, 0, 1),
    ]
    assert [item.index for item in pairs.only_a] == [2] and pairs.only_b == []
    assert [item.index for item in paired(b, a).only_b] == [2]


def test_a_task_of_two_benchmarks_is_two_items() -> None:
    """AQuA stands alone, zero-shot, and within AGIEval, 3-shot: the same records under other prompts."""
    shared = row(1, True, "agieval_aqua_rat", benchmark="agieval")
    items = scored_items([shared, shared | {"benchmark": "aqua", "prompt_sha256": "zero-shot", "correct": False}])
    found = compare(paired(items, items))
    assert {name: (each.both_right, each.both_wrong) for name, each in found.items()} == {
        "agieval": (1, 0),
        "aqua": (0, 1),
    }


def test_one_item_under_two_prompts_is_refused() -> None:
    a, b = scored_items([row(1, True)]), scored_items([row(1, True, prompt_sha256="other")])
    with pytest.raises(EvaluationError, match=f"Item gsm8k/{1:016x} of gsm8k: the prompts differ .*other.*do not pair"):
        paired(a, b)


def test_ratings_under_two_wordings_of_the_judge_are_refused(tmp_path: Path) -> None:
    for name, wording in (("a", "1" * 64), ("b", "2" * 64)):
        write_samples(tmp_path / name, [])
        write_judgments(tmp_path / name, {(81, 1): 7.0}, prompt_sha256=wording)
    with pytest.raises(EvaluationError, match="Item mt_bench/81/1 of mt_bench: the prompts differ"):
        paired(load_items(tmp_path / "a"), load_items(tmp_path / "b"))


def test_the_four_counts_and_the_difference_are_of_the_items_both_have() -> None:
    a = scored_items([row(i, i in (0, 1, 2, 9)) for i in range(10)])
    b = scored_items([row(i, i in (2, 3)) for i in range(9)])
    found = compare(paired(a, b))["gsm8k"]
    assert (found.a_higher, found.b_higher, found.both_right, found.both_wrong) == (2, 1, 1, 5)
    assert (found.items, found.equal, found.missing_in_a, found.missing_in_b) == (9, 6, 0, 1)
    assert (found.a_value, found.b_value) == (3 / 9, 2 / 9)
    assert found.difference == pytest.approx((found.a_higher - found.b_higher) / found.items)
    assert [item.index for item, _ in differing(paired(a, b))] == [0, 1, 3]


def test_benchmarks_are_counted_apart_and_one_that_only_one_run_has_is_there() -> None:
    a = scored_items([row(1, True), row(1, False, "mmlu")])
    found = compare(paired(a, scored_items([row(1, True)])))
    assert {name: (each.items, each.missing_in_b) for name, each in found.items()} == {"gsm8k": (1, 0), "mmlu": (0, 1)}
    assert found["mmlu"].difference is None


def test_an_unreadable_rating_is_counted_and_no_rating_of_zero(tmp_path: Path) -> None:
    ratings = {"a": {(81, 1): 7.0, (81, 2): None, (82, 1): 5.0}, "b": {(81, 1): 4.0, (81, 2): 3.0, (82, 1): 5.0}}
    for name, given in ratings.items():
        write_samples(tmp_path / name, [])
        write_judgments(tmp_path / name, given)
    found = compare(paired(load_items(tmp_path / "a"), load_items(tmp_path / "b")))["mt_bench"]
    assert (found.items, found.unrated, found.a_higher, found.b_higher, found.equal) == (2, 1, 1, 0, 1)
    assert (found.a_value, found.b_value, found.difference) == (6.0, 4.5, 1.5)
    assert found.both_right is None and found.both_wrong is None


# --- scored alike


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    """Two finished runs whose scores say how they were made."""
    plan = fixture_tree.write_tree(tmp_path)
    first, second = plan["runs"][:2]
    for run in (first, second):
        scores = fixture_tree.scores(run)
        scores["benchmarks"]["gsm8k"]["protocol"] = {"harness": "lm_eval 1", "limit": 5, "batch_size": 8}
        fixture_tree.write(tmp_path / run["path"] / "scores.json", scores)
    found = collect(plan, tmp_path)
    return found[0], found[1]


def test_runs_scored_alike_pass_whatever_their_limits(runs: tuple[Run, Run]) -> None:
    a, b = runs
    b.scores["benchmarks"]["gsm8k"]["protocol"]["limit"] = 3
    check_scored_alike(a, b, "gsm8k")


ANOTHER = [("harness", "lm_eval 2"), ("batch_size", 9), ("backend", "vllm"), ("dtype", "float16"), ("torch", "1.0")]


@pytest.mark.parametrize("key, value", ANOTHER)
def test_runs_scored_differently_are_refused(runs: tuple[Run, Run], key: str, value: Any) -> None:
    a, b = runs
    b.scores["benchmarks"]["gsm8k"]["protocol"][key] = value
    with pytest.raises(EvaluationError, match=f"gsm8k: {a.path} was scored with {key} .*{b.path} with {value}"):
        check_scored_alike(a, b, "gsm8k")


def test_ratings_pair_whatever_their_limits_and_not_if_judged_otherwise(runs: tuple[Run, Run]) -> None:
    a, b = runs
    b.mt_bench["limit"] = 3
    check_scored_alike(a, b, "mt_bench")
    b.mt_bench["repeats"] = 5
    with pytest.raises(EvaluationError, match="mt_bench: .* was scored with repeats .*with 5"):
        check_scored_alike(a, b, "mt_bench")


def test_ratings_of_two_judges_are_refused(runs: tuple[Run, Run]) -> None:
    a, b = runs
    b.mt_bench["judge"]["model"] = "another"
    with pytest.raises(EvaluationError, match="mt_bench: .*another"):
        check_scored_alike(a, b, "mt_bench")
