"""What a folder holds counts for the planned run only if it is that run's: its settings, its training, its answers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from eval import tables
from eval.collect import collect, group
from eval.planned import difference, planned_settings
from eval.versus import versus
from tests.report import fixture_tree
from workflow.stages.report import report

EVERY = ("mmlu", "agieval", "winogrande", "gsm8k")


def read(tree, planned, name="run.json"):
    return json.loads((tree / planned["path"] / name).read_text())


def change(tree, planned, *keys, value, name="run.json"):
    """Set one value of a file of a run."""
    content = inner = read(tree, planned, name)
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    fixture_tree.write(tree / planned["path"] / name, content)


def collected(plan, tree, planned):
    return next(run for run in collect(plan, tree) if run.path == planned["path"])


def row(table, method):
    return next(row for row in table if row["method"] == method)


# --- settings


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("settings", "steps"), 120, "training.steps: 120, planned 60"),
        (("settings", "precision"), "bf16", "training.precision: bf16, planned fp32"),
        (("settings", "beta1"), None, "training.beta1: none, planned 0.9"),
        (("settings", "prompt_format"), "alpaca", "prompt_format: alpaca, planned chat"),
        (("method", "learning_rate"), 0.5, "learning_rate: 0.5, planned 0.002"),
        (("method", "hyperparameters", "rank"), 8, "hyperparameters.rank: 8, planned 128"),
        (("method", "hyperparameters", "more"), 8, "hyperparameters.more: 8, planned none"),
        (("method", "hyperparameters"), {"alpha": 256}, "hyperparameters.rank: none, planned 128"),
    ],
)
def test_results_of_other_settings_are_missing_and_give_no_number(plan, tree, keys, value, named):
    planned = fixture_tree.run_of(plan, "lora", 0)
    change(tree, planned, *keys, value=value)
    run = collected(plan, tree, planned)
    assert (run.status, run.foreign) == ("missing", True)
    assert run.reason == f"run.json is of other settings ({named}); run the pipeline again"
    assert (run.record, run.scores, run.mt_bench) == ({}, {}, {})
    others = [other.status for other in collect(plan, tree) if other.path != planned["path"]]
    assert set(others) == {"ok"}


@pytest.mark.parametrize("status", ["oom", "diverged", "failed"])
def test_a_stopped_run_of_other_settings_is_missing_too(plan, tree, status):
    planned = fixture_tree.run_of(plan, "lora", 0)
    fixture_tree.write_stopped(tree, planned, status, "train", "too large")
    assert collected(plan, tree, planned).status == status
    name = "failure.json" if status == "failed" else "run.json"
    change(tree, planned, "settings", "steps", value=7, name=name)
    run = collected(plan, tree, planned)
    assert run.status == "missing"
    assert run.reason.startswith(f"{name} is of other settings (training.steps: 7, planned 60)")


def test_a_failure_of_other_settings_says_nothing_about_results_of_these(plan, tree):
    planned = fixture_tree.run_of(plan, "lora", 0)
    failure = read(tree, planned) | {"status": "failed", "phase": "train", "error": "disk full"}
    failure["settings"]["steps"] = 7
    fixture_tree.write(tree / planned["path"] / "failure.json", failure)
    assert collected(plan, tree, planned).status == "ok"


def test_a_change_between_steps_and_epochs_is_seen(plan, tree):
    plan["training"]["epochs"] = 3
    del plan["training"]["steps"]
    run = collected(plan, tree, fixture_tree.run_of(plan, "full", 0))
    assert "(training.steps: 60, planned none)" in run.reason


def test_what_a_method_chooses_itself_and_what_json_writes_otherwise_is_no_difference(plan, tree):
    planned = fixture_tree.run_of(plan, "lora", 0)
    plan["training"] |= {"betas": (0.9, 0.95), "learning_rate": 9.0, "new_key": 1}
    planned["hyperparameters"] = planned["hyperparameters"] | {"alpha": 256, "targets": ("q", "v"), "layers": None}
    change(tree, planned, "settings", "betas", value=[0.9, 0.95])
    change(tree, planned, "settings", "learning_rate", value=1.0)
    change(tree, planned, "settings", "adamw_implementation", value="for-loop")
    change(tree, planned, "method", "hyperparameters", "targets", value=["q", "v"])
    assert collected(plan, tree, planned).status == "ok"


def test_the_plan_and_the_record_of_a_real_stage_agree():
    """Neither side may be empty by a change of names."""
    from workflow.stages.train import empty_record, settings_of

    plan = fixture_tree.experiment() | {"threads": 1}
    for planned in plan["runs"]:
        record = empty_record(plan, planned)
        record["settings"] = settings_of(plan, "cpu", SimpleNamespace(optimizer_name="another"))
        assert record["settings"]["adamw_implementation"] != plan["training"]["adamw_implementation"]
        assert difference(record, planned_settings(planned, plan)) is None
        record["settings"]["beta1"] = 0.5
        assert difference(record, planned_settings(planned, plan)) == "training.beta1: 0.5, planned 0.9"


def test_a_record_of_another_pretraining_is_not_of_the_plan(plan, tree):
    planned, phase = fixture_tree.run_of(plan, "lora", 0), {"file": "corpus/world.txt.gz", "steps": 3}
    plan["continual_pretraining"] = phase
    run = collected(plan, tree, planned)  # of before the key was known: it had no such phase
    assert run.status == "missing" and "continual_pretraining: none, planned" in run.reason
    change(tree, planned, "settings", "continual_pretraining", value=phase | {"steps": 4})
    assert "'steps': 4" in collected(plan, tree, planned).reason.replace('"', "'")
    change(tree, planned, "settings", "continual_pretraining", value=phase)
    assert collected(plan, tree, planned).status == "ok"
    del plan["continual_pretraining"]
    assert "planned none" in collected(plan, tree, planned).reason


# --- phases


@pytest.mark.parametrize("phase", ["load", "train", "export"])
def test_a_failed_training_shows_nothing_of_the_earlier_one(plan, tree, phase):
    for seed in (0, 1):
        planned = fixture_tree.run_of(plan, "lora", seed)
        failure = read(tree, planned) | {"status": "failed", "phase": phase, "error": "disk full"}
        fixture_tree.write(tree / planned["path"] / "failure.json", failure)
        run = collected(plan, tree, planned)
        assert (run.status, run.phase, run.reason) == ("failed", phase, "disk full")
    rows = group(collect(plan, tree), plan)
    compared = row(tables.comparison(rows, plan), "lora")
    shown = (*(f"{name}_percent" for name in EVERY), "mt_bench_points", "validation_loss", "peak_memory_bytes")
    assert [compared[key] for key in shown] == [None] * 7
    assert row(tables.speed(rows, plan), "lora")["step_median_ms"] is None
    assert row(tables.memory(rows, plan), "lora")["benchmarks_peak_bytes"] is None


@pytest.mark.parametrize("failed", [True, False])
def test_without_a_run_record_old_scores_are_not_shown(plan, tree, failed):
    planned = fixture_tree.run_of(plan, "lora", 0)
    if failed:
        failure = read(tree, planned) | {"status": "failed", "phase": "evaluate", "error": "disk full"}
        fixture_tree.write(tree / planned["path"] / "failure.json", failure)
    (tree / planned["path"] / "run.json").unlink()
    run = collected(plan, tree, planned)
    assert run.status == ("failed" if failed else "missing")
    assert not run.benchmarks and not run.judged


def test_old_scores_beside_a_run_that_now_ended_out_of_memory_are_not_shown(plan, tree):
    planned = fixture_tree.run_of(plan, "lora", 0)
    fixture_tree.write_stopped(tree, planned, "oom", "train", "too large")
    fixture_tree.write(tree / planned["path"] / "scores.json", fixture_tree.scores(planned))
    fixture_tree.write(tree / planned["path"] / "mt_bench.json", fixture_tree.mt_bench(planned))
    run = collected(plan, tree, planned)
    assert run.status == "oom" and not run.benchmarks and not run.judged


@pytest.mark.parametrize(("phase", "scored"), [("evaluate", False), ("judge", True)])
def test_a_failure_after_training_keeps_what_came_before_it(plan, tree, phase, scored):
    planned = fixture_tree.run_of(plan, "lora", 0)
    failure = read(tree, planned) | {"status": "failed", "phase": phase, "error": "disk full"}
    fixture_tree.write(tree / planned["path"] / "failure.json", failure)
    run = collected(plan, tree, planned)
    assert (run.status, run.phase) == ("failed", phase)
    assert run.trained and run.field("memory", "phases", "train") == 30_000_000
    assert (bool(run.benchmarks), bool(run.judged)) == (scored, False)


def test_ratings_without_the_scores_of_their_process_are_of_an_earlier_one(plan, tree):
    planned = fixture_tree.run_of(plan, "lora", 0)
    (tree / planned["path"] / "scores.json").unlink()
    assert not collected(plan, tree, planned).judged


def test_out_of_memory_while_evaluating_is_a_result(plan, tree):
    planned = fixture_tree.run_of(plan, "lora", 0)
    content = {"schema_version": "1.0", "status": "oom", "reason": "batch of 64 does not fit"}
    fixture_tree.write(tree / planned["path"] / "scores.json", content)
    run = collected(plan, tree, planned)
    assert (run.status, run.phase, run.reason) == ("oom", "evaluate", "batch of 64 does not fit")
    assert run.trained and not run.benchmarks and not run.judged
    assert report(plan, tree) == []
    assert "batch of 64 does not fit" in (tree / "report.html").read_text()


# --- nothing crashes


@pytest.mark.parametrize("method", [name for name, *_ in fixture_tree.METHODS])
def test_missing_rows_make_every_table_and_the_page(plan, tree, method):
    plan["report"]["published"] = ["table1_memory", "table2_accuracy", "iteration_time", "mt_bench"]
    for seed in (0, 1):
        fixture_tree.write_killed(tree, fixture_tree.run_of(plan, method, seed))
    paths = report(plan, tree)
    first = fixture_tree.run_of(plan, method, 0)
    assert first["path"] in paths and first["path"] in (tree / "report.html").read_text()
    for name in ("comparison", "memory", "speed", "published"):
        assert (tree / "tables" / f"{name}.md").stat().st_size


def test_missing_vanilla_alone_makes_every_table(tmp_path, plan):
    plan["runs"] = [run for run in plan["runs"] if run["method"] == "vanilla"]
    plan["report"]["published"] = ["table2_accuracy", "mt_bench"]
    assert len(report(plan, tmp_path)) == 2
    rows = group(collect(plan, tmp_path), plan)
    assert row(tables.comparison(rows, plan), "vanilla")["validation_loss"] is None
    assert {line["ours"] for line in versus(rows, plan)} == {None}
