"""The leaks stage: what it checks and counts, what stops it, and that it needs no benchmark to pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval import EvaluationError
from eval.benchmarks import BENCHMARKS as REGISTERED
from eval.benchmarks import read_split
from eval.harness import evaluate
from tests.eval.benchmark_data import (
    agieval_record,
    write_checkpoint,
    write_data_root,
    write_dataset,
    write_few_shot_prompts,
    write_mt_bench,
)
from workflow.engine.errors import InputError
from workflow.stages.leaks import check

AGIEVAL = REGISTERED["agieval"].tasks
BENCHMARKS = [
    {"name": "mmlu", "tasks": ["mmlu_virology"], "limit": 2},
    {"name": "gsm8k", "shots": 0, "max_new_tokens": 2},
]
QUESTION = "Write a letter to your neighbour about the dog that barks all night long."


@pytest.fixture
def experiment(tmp_path: Path) -> dict[str, Any]:
    """Prepared benchmarks, MT-Bench's one question, and two data sets: one repeats it, the other an item of GSM8K."""
    root = write_data_root(tmp_path / "root")
    question = {"question_id": 81, "category": "writing", "turns": [QUESTION, "Shorter, please."]}
    write_mt_bench(root, question)
    (root / "manifest.json").write_text(json.dumps({"root": str(root)}))
    for name, request in (("letters", QUESTION), ("sums", "Say: test 3: what is 3 + 2?")):
        messages = [{"role": "user", "content": request}, {"role": "assistant", "content": "Yes."}]
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "train.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    (tmp_path / "data/manifest.json").write_text("{}")
    return {
        "prepared": {"benchmarks": str(root), "data": str(tmp_path / "data")},
        "evaluation": {"benchmarks": BENCHMARKS},
        "mt_bench": {"limit": None},
        "data": [{"name": "letters"}, {"name": "sums"}],
        "continual_pretraining": None,
    }


def test_prompts_are_checked_and_overlap_is_counted_for_every_data_set(
    experiment: dict[str, Any], tmp_path: Path
) -> None:
    check(experiment, tmp_path / "leaks.json")
    found = json.loads((tmp_path / "leaks.json").read_text())
    assert (found["schema_version"], found["status"], found["ngram"]) == ("1.0", "ok", 13)
    assert found["prompts"] == {
        "mmlu": {"mmlu_virology": {"shots": 5, "items": 2, "demonstrations": "dev", "shared_passages": 0}},
        "gsm8k": {"gsm8k": {"shots": 0, "items": 8, "demonstrations": None, "shared_passages": 0}},
    }
    counts = {
        data: {
            group: tuple(counted[key] for key in ("items", "overlapping", "short_overlapping"))
            for group, counted in groups.items()
        }
        for data, groups in found["overlap"].items()
    }
    assert counts == {
        "letters": {"mmlu": (2, 0, 0), "gsm8k": (8, 0, 0), "mt_bench": (1, 1, 0)},
        "sums": {"mmlu": (2, 0, 0), "gsm8k": (8, 0, 1), "mt_bench": (1, 0, 0)},
    }
    assert found["overlap"]["letters"]["mt_bench"]["examples"] == [
        {"item_id": "mt_bench/81", "text": "write a letter to your neighbour about the dog that barks all night"}
    ]


def test_the_text_of_continual_pretraining_is_training_data_too(experiment: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data/_text").mkdir()
    (tmp_path / "data/_text/train.jsonl").write_text(json.dumps({"text": f"A page. {QUESTION}"}) + "\n")
    check({**experiment, "continual_pretraining": {"dataset": "org/text"}}, tmp_path / "leaks.json")
    found = json.loads((tmp_path / "leaks.json").read_text())["overlap"]
    assert list(found) == ["letters", "sums", "org/text (continual pretraining)"]
    counted = {name: found["org/text (continual pretraining)"][name]["overlapping"] for name in ("mmlu", "mt_bench")}
    assert counted == {"mmlu": 0, "mt_bench": 1}


def test_items_have_the_names_they_have_after_an_evaluation(experiment: dict[str, Any], tmp_path: Path) -> None:
    check(experiment, tmp_path / "leaks.json")
    (example,) = json.loads((tmp_path / "leaks.json").read_text())["overlap"]["sums"]["gsm8k"]["short_examples"]
    checkpoint = write_checkpoint(tmp_path / "model", context_tokens=512)
    _, rows = evaluate(checkpoint, Path(experiment["prepared"]["benchmarks"]), BENCHMARKS)
    assert [row["item"] for row in rows if row["item_id"] == example["item_id"]] == [3]


def test_items_whose_passage_stands_in_a_demonstration_are_counted_and_stop_nothing(
    experiment: dict[str, Any], tmp_path: Path
) -> None:
    root = Path(experiment["prepared"]["benchmarks"])
    passage = "The old mill by the river had stood empty since the last miller left for the coast."
    demonstration = agieval_record("sat-en", "demo", 0) | {"passage": f"Once. {passage.upper()}"}
    write_few_shot_prompts(root, {"sat-en": [demonstration]})
    items = read_split(root, next(task for task in AGIEVAL if task.name == "agieval_sat_en"), "test").to_pylist()
    items[1]["query"] = passage + items[1]["query"][items[1]["query"].index("Q: ") :]
    write_dataset(root / "hub", "hails/agieval-sat-en", {("default", "test"): items})
    asked = {"name": "agieval", "tasks": ["agieval_sat_en"], "shots": 1}
    check({**experiment, "evaluation": {"benchmarks": [asked]}}, tmp_path / "leaks.json")
    found = json.loads((tmp_path / "leaks.json").read_text())["prompts"]["agieval"]["agieval_sat_en"]
    assert (found["shared_passages"], found["items"]) == (1, len(items))


def test_a_leak_stops_it_and_leaves_no_former_result(experiment: dict[str, Any], tmp_path: Path) -> None:
    root, file = Path(experiment["prepared"]["benchmarks"]), tmp_path / "leaks.json"
    check(experiment, file)
    write_few_shot_prompts(root, {"lsat-ar": [agieval_record("lsat-ar", "test", 2)]})
    asked = {"name": "agieval", "tasks": ["agieval_lsat_ar"], "shots": 1}
    with pytest.raises(EvaluationError, match="agieval_lsat_ar: item 2 leaks into its own 1-shot prompt"):
        check({**experiment, "evaluation": {"benchmarks": [*BENCHMARKS, asked]}}, file)
    assert not file.exists()


def test_without_benchmarks_and_mt_bench_there_is_nothing_to_find(experiment: dict[str, Any], tmp_path: Path) -> None:
    check({**experiment, "evaluation": {"benchmarks": []}, "mt_bench": None}, tmp_path / "leaks.json")
    found = json.loads((tmp_path / "leaks.json").read_text())
    assert found["prompts"] == {}
    assert found["overlap"] == {"letters": {}, "sums": {}}


@pytest.mark.parametrize("part", ["data", "benchmarks"])
def test_what_is_not_prepared_is_said(part: str, experiment: dict[str, Any], tmp_path: Path) -> None:
    Path(experiment["prepared"][part], "manifest.json").unlink()
    with pytest.raises(InputError, match="does not exist: prepare first"):
        check(experiment, tmp_path / "leaks.json")
