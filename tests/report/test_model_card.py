"""The model card: what the hub reads of it is legal and this run's own, and so is what people read."""

from __future__ import annotations

import json
import math
import re
import socket

import pytest
import yaml
from huggingface_hub import ModelCard

from eval import present, tables
from eval.collect import Row, collect
from eval.conditions import WORLD_NOTE
from eval.present import RULE_BASED_NOTE
from tests.conftest import ROOT
from tests.report import fixture_tree
from workflow.experiment import load, resolve
from workflow.report.model_card import of_one_run, prompt, write_card
from workflow.report.page import document
from workflow.stages.report import report

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # of a model or a data set
PRETRAINED = {"name": "tiny", "pretrain": {"corpus": "corpus/world.txt.gz"}}
DOWNLOADED = {"name": "tiny", "hub_id": "org/tiny", "revision": "a" * 40}
DATA = {"name": "world-chat", "dataset": "org/chat", "config": None, "train_split": "train", "validation_split": None}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a card is made and read without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def plan(tmp_path):
    """Every run finished, each with the beginnings of a checkpoint; of the generated world."""
    plan = fixture_tree.write_tree(tmp_path)
    plan |= {"models": [PRETRAINED], "data": [DATA]}
    fixture_tree.write_whole(tmp_path, plan)
    for run in plan["runs"]:
        fixture_tree.write(tmp_path / run["path"] / "model/config.json", {})
        file = tmp_path / run["path"] / "run.json"
        record = json.loads(file.read_text())
        record["settings"] |= {"batch_size": 16, "accumulation_steps": 2, "sequence_length": 128}
        fixture_tree.write(file, record)
    return plan


def real(tmp_path, plan):
    """The same with a model and data of the hub, whole benchmarks and a language model as judge."""
    plan |= {"data_root": "hub", "models": [DOWNLOADED]}
    for run in plan["runs"]:
        judged = fixture_tree.mt_bench_1_1(run)
        judged["judge"] |= {"kind": "llm", "model": "judge-7b"}
        fixture_tree.write(tmp_path / run["path"] / "mt_bench.json", judged)
    return plan


def card_of(tmp_path, plan, method="lisa", seed=0):
    """The card of the first run of a method and seed, read back from its file, and the run."""
    run = next(run for run in collect(plan, tmp_path) if (run.method, run.seed) == (method, seed))
    write_card(plan, run)
    return ModelCard.load(run.folder / "model/README.md"), run


def scores_on(card):
    return {(result.dataset_config, result.metric_type): result.metric_value for result in card.data.eval_results}


def test_the_results_that_the_hub_reads_are_the_runs_own_with_their_errors(tmp_path, plan):
    card, run = card_of(tmp_path, plan, seed=1)
    found = scores_on(card)
    for name, entry in run.benchmarks.items():
        metric = "exact_match" if name == "gsm8k" else "acc"
        assert (found.pop((name, metric)), found.pop((name, f"{metric}_stderr"))) == (entry["value"], entry["stderr"])
    assert found.pop(("mt_bench", "mean_rating")) == run.judged["mean"]
    assert found.pop(("mt_bench", "mean_rating_stderr")) == run.judged["stderr"]
    assert found.pop(("world-chat", "loss")) == run.field("validation_loss")
    assert found == {}
    mmlu = next(result for result in card.data.eval_results if result.dataset_config == "mmlu")
    assert mmlu.dataset_args == {"num_few_shot": 5, "part": "3 of 57 tasks, first 40 items of each"}


def test_scores_on_generated_data_pass_for_nothing_else(tmp_path, plan):
    card, _ = card_of(tmp_path, plan)
    assert {result.dataset_type for result in card.data.eval_results} == {"lisa-bench-world"}
    assert card.data.base_model is None and card.data.datasets is None
    assert "generated-data" in card.data.tags
    assert WORLD_NOTE in card.text and RULE_BASED_NOTE in card.text
    assert "pretrained here from nothing on corpus/world.txt.gz" in card.text


def test_base_model_data_and_benchmarks_of_the_hub_are_named_by_their_ids(tmp_path, plan):
    card, _ = card_of(tmp_path, real(tmp_path, plan))
    assert (card.data.base_model, card.data.datasets) == ("org/tiny", ["org/chat"])
    assert "generated-data" not in card.data.tags
    types = {result.dataset_name: result.dataset_type for result in card.data.eval_results}
    assert types == {
        "MMLU": "cais/mmlu",
        "AGIEval": "agieval",  # several data sets
        "WinoGrande": "allenai/winogrande",
        "GSM8K": "openai/gsm8k",
        "MT-Bench": "mt_bench",
        "world-chat": "org/chat",
    }
    assert WORLD_NOTE not in card.text and RULE_BASED_NOTE not in card.text
    (judged,) = [result for result in card.data.eval_results if result.metric_type == "mean_rating"]
    assert judged.metric_name == "mean rating, 1 to 10, judge: llm: judge-7b"


@pytest.mark.parametrize("method", ["vanilla", "lisa", "lora"])
@pytest.mark.parametrize("make", [lambda tmp_path, plan: plan, real], ids=["generated", "real"])
def test_the_metadata_are_legal(tmp_path, plan, make, method):
    _, run = card_of(tmp_path, make(tmp_path, plan), method)
    _, header, _ = (run.folder / "model/README.md").read_text().split("---\n", 2)
    data = yaml.safe_load(header)
    ids = [*data.get("datasets", []), *([data["base_model"]] if "base_model" in data else [])]
    assert all(HUB_ID.fullmatch(name) for name in ids)
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    (index,) = data["model-index"]
    assert len(index["results"]) >= 5
    for result in index["results"]:
        assert result["task"]["type"] == "text-generation"
        assert isinstance(result["dataset"]["type"], str) and isinstance(result["dataset"]["name"], str)
        for metric in result["metrics"]:
            assert isinstance(metric["value"], float) and math.isfinite(metric["value"])


def test_the_numbers_that_people_read_are_those_of_the_tables(tmp_path, plan):
    card, run = card_of(tmp_path, plan)
    row = Row((run,), run.model)
    made = [
        present.comparison_table(tables.comparison([row], plan), plan),
        present.memory_table(tables.memory([row], plan), plan),
        present.speed_table(tables.speed([row], plan), plan),
    ]
    named = {title: cell for table in made for title, cell in zip(table.header, table.body[0], strict=True)}
    for title in ("Validation loss", "MMLU (5-shot, 3 of 57 tasks, first 40 items of each)", "Peak memory (MB)"):
        assert f"| {title} | {named[title]} |" in card.text
    for title in ("MT-Bench (rule-based judge)", "Step, median (ms)", "Activations (MB)", "Tokens/s"):
        assert f"| {title} | {named[title]} |" in card.text


def test_how_it_was_made_stands_there_and_nothing_unknown(tmp_path, plan):
    card, run = card_of(tmp_path, plan)
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.text, re.MULTILINE))
    assert (rows["`gamma`"], rows["Peak learning rate"], rows["Seed"]) == ("2", "0.001", "0")
    assert (rows["Steps"], rows["Batch"]) == ("60", "2 x 16 sequences of at most 128 tokens")
    assert rows["Data"].startswith("org/chat") and rows["Tokens trained on"] == "150,000"
    assert "Pan et al. 2024, arXiv 2403.17919" in card.text and run.field("environment", "git_commit") in card.text
    for nothing in ("None", "More Information Needed", "{{"):
        assert nothing not in card.text.split("<summary>reproduce.json")[0]


def test_what_trained_nothing_says_so(tmp_path, plan):
    card, _ = card_of(tmp_path, plan, "vanilla")
    assert "nothing was trained" in card.text
    assert "learning rate" not in card.text.split("## Results")[0]
    assert "loss" not in {result.metric_type for result in card.data.eval_results}


def test_limits_that_the_method_declares_stand_there(tmp_path, plan):
    card, _ = card_of(tmp_path, plan, "galore")
    assert "does not clip gradients by their common norm: one gradient at a time." in card.text
    assert "trust_remote_code" not in card.text
    run = fixture_tree.run_of(plan, "lisa", 0)
    record = json.loads((tmp_path / run["path"] / "run.json").read_text())
    record["method"]["limits"] = {"plain export": "it brings a file"}
    fixture_tree.write(tmp_path / run["path"] / "run.json", record)
    card, _ = card_of(tmp_path, plan)
    assert "from_pretrained(folder, trust_remote_code=True)" in card.text and ": it brings a file." in card.text


@pytest.mark.parametrize(
    ("name", "text"),
    [("alpaca", "### Instruction:\nWho?\n\n### Response:\n"), ("question-answer", "Question: Who?\nAnswer:")],
)
def test_the_card_asks_in_the_words_that_were_trained_on(name, text):
    assert eval(prompt({"prompt_format": name}), {"question": "Who?"}).endswith(text)
    assert prompt({"prompt_format": "chat"}) is None


def test_no_checkpoint_no_card(tmp_path, plan):
    stopped, unsaved = fixture_tree.run_of(plan, "full", 0), fixture_tree.run_of(plan, "full", 1)
    fixture_tree.write_stopped(tmp_path, stopped, "oom", "train", "too large")
    (tmp_path / unsaved["path"] / "model/config.json").unlink()
    report(plan, tmp_path)
    for run in plan["runs"]:
        there = (tmp_path / run["path"] / "model/README.md").exists()
        assert there == (run not in (stopped, unsaved)), run["path"]


def test_what_was_not_evaluated_has_no_number_and_the_card_says_why(tmp_path, plan):
    run = fixture_tree.run_of(plan, "lisa", 0)
    for name in ("scores.json", "mt_bench.json"):
        (tmp_path / run["path"] / name).unlink()
    card, _ = card_of(tmp_path, plan)
    assert {result.metric_type for result in card.data.eval_results} == {"loss"}
    assert "Results are missing: evaluate: no scores.json" in card.text
    assert "MMLU" not in card.text.split("<summary>reproduce.json")[0]


def test_a_card_that_would_say_the_same_is_left_alone_and_another_is_not(tmp_path, plan):
    _, run = card_of(tmp_path, plan)
    file = run.folder / "model/README.md"
    before = file.stat().st_mtime_ns
    write_card(plan, run)
    assert file.stat().st_mtime_ns == before
    scores = fixture_tree.scores_1_1(fixture_tree.run_of(plan, "lisa", 0))
    scores["benchmarks"]["mmlu"]["value"] = 0.125
    fixture_tree.write(run.folder / "scores.json", scores)
    card, _ = card_of(tmp_path, plan)
    assert scores_on(card)["mmlu", "acc"] == 0.125


def test_the_experiment_on_the_card_of_a_tuned_run_has_its_trials(tmp_path):
    experiment = load(ROOT / "config/tuned.yaml")
    run = next(run for run in collect(experiment, tmp_path) if run.method == "lora")
    alone = resolve(json.loads(document(of_one_run(experiment, run))))
    assert alone["runs"] == [planned for planned in experiment["runs"] if planned["path"] == run.path]
    assert alone["trials"] == [trial for trial in experiment["trials"] if trial["method"] == "lora"]
    assert alone["prepared"]["data"] == experiment["prepared"]["data"], "the same records are held out"


def test_the_experiment_on_the_card_is_this_run_alone(tmp_path):
    experiment = load(ROOT / "config/smoke.yaml")
    for run in collect(experiment, tmp_path):
        (alone,) = resolve(json.loads(document(of_one_run(experiment, run))))["runs"]
        assert alone == next(planned for planned in experiment["runs"] if planned["path"] == run.path)


def test_the_experiment_on_the_card_does_not_ask_for_the_noise_floor_of_another_row():
    experiment = load(ROOT / "config/paper/badam_math.yaml")
    assert experiment["evaluation"]["noise_floor"]["row"] == "vanilla"
    run = next(run for run in collect(experiment, ROOT / "nowhere") if run.method == "badam")
    alone = resolve(json.loads(document(of_one_run(experiment, run))))
    assert alone["evaluation"]["noise_floor"] == {**experiment["evaluation"]["noise_floor"], "row": None}
