"""Published values stand beside ours; the difference is given only where ours is the same measurement."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from eval import present, tables
from eval.benchmarks import SUITES
from eval.published import SEARCHED, WRITTEN, load
from eval.statistics import Estimate
from eval.text import to_markdown
from eval.versus import _reproduces, versus
from tests.report import fixture_tree
from tests.report.fixture_tree import row_of, rows_of


def change_entry(tree, plan, method, **changes):
    """Change how MMLU of one seed was run."""
    path = tree / fixture_tree.run_of(plan, method, 1)["path"] / "scores.json"
    content = json.loads(path.read_text())
    content["benchmarks"]["mmlu"] |= changes
    fixture_tree.write(path, content)


def difference_of(plan, tree, method, metric="mmlu", unit="percent", place=1):
    """Difference to the published value and why there is none, of one protocol (`place`, the most frequent first); the
    comparison and the published table say the same.
    """
    rows = rows_of(plan, tree)
    row = row_of(tables.comparison(rows, plan), method)
    scored = "mt_bench" if metric.startswith("mt_bench") else metric
    key = metric if place == 1 else metric.replace(scored, f"{scored}_{place}")
    keys = (f"{key}_published_{unit}", f"{key}_difference_{unit}", f"{key}_not_compared")
    lines = [line for line in versus(rows, plan) if (line["model"], line["method"]) == ("TinyLlama", method)]
    line = [line for line in lines if line["metric"] == metric][place - 1]
    assert (float(line["published"]), line["difference"], line["not_compared"]) == tuple(row[key] for key in keys)
    assert line["status"] == "ok" and line["ours"] is not None
    return row[keys[1]], row[keys[2]]


def test_published_columns_stand_beside_ours_only_when_named(plan, tree):
    fixture_tree.write_compared(tree, plan)
    rows = rows_of(plan, tree)
    assert "mmlu_published_percent" not in tables.comparison(rows, plan)[0]
    plan["report"]["published"] = ["table2_accuracy", "table1_memory"]
    row = row_of(tables.comparison(rows, plan), "lisa", "gamma2")
    assert row["mmlu_published_percent"] == 26.02
    assert row["mmlu_difference_percent"] == pytest.approx(row["mmlu_percent"] - 26.02)
    assert row_of(tables.comparison(rows, plan), "lisa", "gamma4")["mmlu_published_percent"] is None
    row = row_of(tables.memory(rows, plan), "lora")
    assert row["peak_memory_published_gb"] == 7.9
    assert row["peak_memory_difference_gb"] == pytest.approx(0.030001 - 7.9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"whole_benchmark": False, "limit": 40},
            "partial: 3 of 57 tasks, first 40 items of each",
        ),
        ({"whole_benchmark": False, "limit": 40, "tasks": {"mmlu_all": {}}}, "partial: 1 of 57 tasks, first 40 items"),
        ({"shots": 0}, "0-shot, published 5-shot"),
        ({"truncated_items": 7}, "7 of 80 prompts cut at the beginning, to the model's positions"),
        ({"max_new_tokens": 48}, "answers of at most 48 new tokens, not the task's own cap"),
        ({"shots": 0, "whole_benchmark": False, "tasks": {}}, "partial; 0-shot, published 5-shot"),
    ],
)
def test_no_difference_to_a_published_accuracy_of_another_measurement(plan, tree, changes, reason):
    plan["report"]["published"] = ["table2_accuracy"]
    fixture_tree.write_compared(tree, plan)
    change_entry(tree, plan, "full", **changes)
    if "truncated_items" in changes:  # of what the model is, not of how it is scored: no protocol of its own
        assert difference_of(plan, tree, "full") == (None, reason)
    else:
        assert difference_of(plan, tree, "full", place=2) == (None, reason)
        assert difference_of(plan, tree, "full") == (pytest.approx(100 * (0.25 + 0.4 * 0.9) - 25.62), None)
    difference, none = difference_of(plan, tree, "vanilla")
    assert difference == pytest.approx(25.5 - 25.5) and none is None
    rows = rows_of(plan, tree)
    compared = tables.comparison(rows, plan)
    assert reason in to_markdown(present.comparison_table(compared, plan))
    table = present.versus_table(versus(rows, plan), plan, compared)
    assert reason in {cells[table.header.index("Not compared")] for cells in table.body}


def test_the_embedded_world_is_never_compared_with_a_paper(plan, tree):
    plan["report"]["published"] = ["table2_accuracy", "mt_bench"]
    fixture_tree.write_compared(tree, plan)
    plan["data_root"] = "world"
    assert difference_of(plan, tree, "full") == (None, "embedded world")
    difference, reason = difference_of(plan, tree, "full", "mt_bench_without_coding", "points")
    assert difference is None and reason.startswith("embedded world; ")


JUDGE = "judge: ours judge-7b, the paper's not stated"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, JUDGE),
        ({"limit": 2}, f"partial: first 2 questions of each category; {JUDGE}"),
        ({"limit": 1}, f"partial: first question of each category; {JUDGE}"),
        ({"answers": {"max_new_tokens": 64}}, f"answers' cap 64 tokens, not 1024; {JUDGE}"),
        (
            {"judge": {"kind": "rule-based", "model": "rule-based-judge"}},
            "judge: ours rule-based-judge, the paper's not stated",
        ),
    ],
)
def test_mt_bench_is_not_compared_with_scores_whose_judge_is_unknown(plan, tree, changes, reason):
    plan["report"]["published"] = ["mt_bench"]
    fixture_tree.write_compared(tree, plan)
    path = tree / fixture_tree.run_of(plan, "full", 1)["path"] / "mt_bench.json"
    fixture_tree.write(path, json.loads(path.read_text()) | changes)
    difference, why = difference_of(plan, tree, "full", "mt_bench_without_coding", "points", place=2 if changes else 1)
    assert (difference, why) == (None, reason)
    lines = [line for line in versus(rows_of(plan, tree), plan) if line["our_model"]]
    assert {line["not_compared"] for line in lines if line["method"] == "lora"} == {JUDGE}


def test_mt_bench_results_without_a_limit_field_are_whole(plan, tree):
    plan["report"]["published"] = ["mt_bench"]
    fixture_tree.write_compared(tree, plan)
    path = tree / fixture_tree.run_of(plan, "full", 0)["path"] / "mt_bench.json"
    content = json.loads(path.read_text())
    del content["limit"]
    fixture_tree.write(path, content)
    difference, why = difference_of(plan, tree, "full", "mt_bench_without_coding", "points")
    assert (difference, why) == (None, JUDGE)


def test_the_score_without_coding_has_its_standard_error(plan, tree):
    plan["report"]["published"] = ["mt_bench"]
    lines = versus(rows_of(plan, tree), plan)
    line = next(
        x for x in lines if x["our_model"] and (x["method"], x["metric"]) == ("full", "mt_bench_without_coding")
    )
    assert line["ours_stderr"] == pytest.approx(math.sqrt(0.3**2 + 0.05**2))


# --- papers whose models write their answers


def written_plan(folder, published_as, table):
    """The fixture's runs as ones of that paper: LoRA of rank 32, every commonsense benchmark beside the four."""
    plan = fixture_tree.experiment()
    plan |= {"data_root": "hub", "report": {"published": [table]}}
    plan["models"][0]["published_as"] = published_as
    for run in plan["runs"]:
        run["hyperparameters"] = {"rank": 32} if run["method"] == "lora" else run["hyperparameters"]
    fixture_tree.write_tree(folder, plan)
    for run in plan["runs"]:
        content = fixture_tree.scores(run)
        whole = {
            "value": 0.5,
            "stderr": 0.1,
            "shots": 0,
            "limit": None,
            "items": 80,
            "tasks": {},
            "whole_benchmark": True,
        }
        content["benchmarks"] = {"gsm8k": whole} | dict.fromkeys(SUITES["commonsense"].members, whole)
        fixture_tree.write(folder / run["path"] / "scores.json", content)
    return plan


def line_of(rows, plan, method, metric):
    return next(x for x in versus(rows, plan) if x["our_model"] and (x["method"], x["metric"]) == (method, metric))


@pytest.mark.parametrize("metric", ["winogrande", "commonsense"])
def test_likelihoods_are_not_compared_with_options_searched_in_a_written_answer(tmp_path, metric):
    plan = written_plan(tmp_path, "LLaMA-7B", "dora_commonsense")
    rows = rows_of(plan, tmp_path)
    line = line_of(rows, plan, "lora", metric)
    assert (line["ours"], line["difference"], line["not_compared"]) == (pytest.approx(50), None, WRITTEN)
    compared = row_of(tables.comparison(rows, plan), "lora")
    assert compared[f"{metric}_difference_percent"] is None and compared[f"{metric}_not_compared"] == WRITTEN
    assert compared[f"{metric}_published_percent"] == {"winogrande": 78.8, "commonsense": 74.7}[metric]


def test_a_part_of_a_suite_is_a_reason_too(tmp_path):
    plan = written_plan(tmp_path, "LLaMA-7B", "dora_commonsense")
    for run in plan["runs"]:
        path = tmp_path / run["path"] / "scores.json"
        content = json.loads(path.read_text())
        content["benchmarks"]["piqa"] |= {"limit": 7, "whole_benchmark": False}
        fixture_tree.write(path, content)
    line = line_of(rows_of(plan, tmp_path), plan, "lora", "commonsense")
    assert line["not_compared"] == f"{WRITTEN}; partial: first 7 items"


def test_the_shots_compared_are_those_of_the_table(tmp_path):
    plan = written_plan(tmp_path, "Llama-3-8B", "badam_math")
    line = line_of(rows_of(plan, tmp_path), plan, "vanilla", "gsm8k")
    assert line["not_compared"] == SEARCHED  # 0-shot, as the table's, though gsm8k's own are 5
    for seed in (0, 1):
        path = tmp_path / fixture_tree.run_of(plan, "vanilla", seed)["path"] / "scores.json"
        content = json.loads(path.read_text())
        content["benchmarks"]["gsm8k"]["shots"] = 5
        fixture_tree.write(path, content)
    line = line_of(rows_of(plan, tmp_path), plan, "vanilla", "gsm8k")
    assert line["not_compared"] == f"{SEARCHED}; 5-shot, published 0-shot"


def test_what_no_benchmark_measures_is_a_line_that_says_so(tmp_path):
    plan = written_plan(tmp_path, "Llama-3-8B", "badam_math")
    rows = rows_of(plan, tmp_path)
    for metric, why in (("numglue", "not in lm-eval"), ("average_of_six", "never compared: over six tasks")):
        line = line_of(rows, plan, "vanilla", metric)
        assert (line["ours"], line["difference"], line["status"]) == (None, None, "not measured")
        assert why in line["note"]


def test_an_experiment_that_never_ran_has_only_cells_that_were_not_run(plan, tmp_path):
    plan["report"]["published"] = ["table2_accuracy"]
    lines = versus(rows_of(plan, tmp_path / "nothing"), plan)
    assert {line["status"] for line in lines} == {"not run"}
    assert {line["our_model"] for line in lines if line["model"] == "TinyLlama"} == {"tiny"}
    fixture_tree.write_stopped(tmp_path, fixture_tree.run_of(plan, "full", 0), "failed", "train", "a bug")
    by_cell = {(line["model"], line["method"]): line["status"] for line in versus(rows_of(plan, tmp_path), plan)}
    assert by_cell["TinyLlama", "full"] == "failed 1 of 2, missing 1 of 2"
    assert by_cell["TinyLlama", "vanilla"] == "not run"


def test_every_published_cell_has_a_line_run_or_not(plan, tree):
    plan["report"]["published"] = ["table2_accuracy", "iteration_time"]
    fixture_tree.write_stopped(tree, fixture_tree.run_of(plan, "galore", 0), "oom", "train", "too large")
    fixture_tree.write_stopped(tree, fixture_tree.run_of(plan, "galore", 1), "oom", "train", "too large")
    lines = versus(rows_of(plan, tree), plan)
    assert len(lines) == 45 + 8
    by_cell = {(line["model"], line["method"], line["metric"]): line for line in lines}
    assert by_cell["TinyLlama", "full", "mmlu"]["status"] == "ok"
    assert by_cell["TinyLlama", "galore", "mmlu"]["status"] == "oom"
    assert by_cell["Mistral-7B", "full", "mmlu"]["status"] == "not run"
    assert by_cell["LLaMA-2-7B", "lisa", "forward_s"]["ours"] is None


def test_ours_stands_in_the_published_unit(plan, tree):
    plan["report"]["published"] = ["table1_memory", "table2_accuracy", "iteration_time", "mt_bench"]
    plan["models"][0]["published_as"] = "LLaMA-2-7B"
    rows = rows_of(plan, tree)
    lines = [line for line in versus(rows, plan) if line["model"] == "LLaMA-2-7B"]
    ours = {(line["method"], line["variant"], line["metric"]): line["ours"] for line in lines}
    assert ours["lora", "r128", "peak_memory"] == pytest.approx(0.030001)
    assert ours["lisa", "", "iteration_s"] == pytest.approx(0.1515)  # the last of two rows that answer to it
    assert ours["lora", "", "speedup_over_full"] == pytest.approx(0.21 / 0.17)
    assert ours["full", "", "mmlu"] == pytest.approx(61.5)
    assert ours["full", "", "mt_bench_math"] == pytest.approx(6.95)


@pytest.mark.parametrize(("low", "high", "word"), [(24.94, 26.0, "yes"), (24.96, 26.0, "no"), (23.0, 24.86, "yes")])
def test_a_published_value_reproduces_within_the_interval_give_or_take_its_rounding(low, high, word):
    cell = next(cell for cell in load("table2_accuracy") if cell.value is not None)
    cell = dataclasses.replace(cell, value=24.9, printed="24.9")
    interval = {"ours_low": low, "ours_high": high}
    assert _reproduces(cell, Estimate(25.0, None, 3), 0.1, interval) == word
