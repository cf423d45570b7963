"""`python -m workflow.stages.report` writes tables and page, and ends as a stage should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.planned import planned_settings
from tests.report import fixture_tree
from workflow.experiment import load, resolve
from workflow.report.page import document
from workflow.stages.report import report

ROOT = Path(__file__).parents[2]
TABLES = ("methods", "comparison", "memory", "speed", "mt_bench_categories", "differences", "seeds", "tasks", "limits")
SCORES = ("mt_bench", "mmlu", "agieval", "winogrande", "gsm8k", "validation_loss")
FIGURES = (
    "memory",
    "speed",
    "training-loss",
    "validation-loss",
    "differences-validation_loss",
    "differences-step_time",
)
FIGURES += tuple(f"pareto-{score}_against_{cost}" for score in SCORES for cost in ("peak_memory", "step_time"))
ASKED = ("pairwise", "forgetting", "noise", "overlap", "published")


def files(*tables):
    return sorted(f"{table}.{kind}" for table in tables for kind in ("csv", "md", "tex"))


def stage(folder, *arguments):
    command = [sys.executable, "-m", "workflow.stages.report", "--experiment", str(folder / "experiment.json")]
    return subprocess.run([*command, "--results", str(folder), *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def plan(tmp_path):
    return fixture_tree.write_tree(tmp_path)


def test_a_finished_experiment_gives_all_tables_and_the_page(tmp_path, plan):
    done = stage(tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == files(*TABLES)
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")
    figures = sorted(file.name for file in (tmp_path / "figures").iterdir())
    assert figures == sorted(f"{name}.svg" for name in FIGURES)
    memory = (tmp_path / "figures/memory.svg").read_text()
    for words in ("Memory by component, tiny on world-chat", "cpu (Imaginary CPU)", "embedded world"):
        assert words in memory


def test_all_that_may_be_asked_for_has_its_table_and_what_is_not_asked_for_any_more_has_none(tmp_path, plan):
    fixture_tree.write_whole(tmp_path, plan)
    plan["report"]["published"] = ["table2_accuracy"]
    assert report(plan, tmp_path) == []
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == files(*TABLES, *ASKED)
    plan["evaluation"] |= {"noise_floor": None, "general_text": None}
    plan["mt_bench"]["pairwise_baseline"], plan["report"]["published"] = None, []
    (tmp_path / "leaks.json").unlink()
    report(plan, tmp_path)
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == files(*TABLES)


def test_out_of_memory_and_divergence_are_results(tmp_path, plan):
    fixture_tree.write_stopped(tmp_path, fixture_tree.run_of(plan, "full", 0), "oom", "train", "too large")
    fixture_tree.write_stopped(tmp_path, fixture_tree.run_of(plan, "lora", 0), "diverged", "train", "loss is nan")
    assert stage(tmp_path).returncode == 0


def test_a_failed_run_is_named_and_everything_is_written_all_the_same(tmp_path, plan):
    run = fixture_tree.run_of(plan, "lora", 1)
    fixture_tree.write_stopped(tmp_path, run, "failed", "train", "no such file")
    done = stage(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1 of 12 runs") and run["path"] in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no such file" in (tmp_path / "report.html").read_text()
    assert stage(tmp_path, "--partial").returncode == 0


def test_a_record_without_its_field_is_one_line(tmp_path, plan):
    file = tmp_path / plan["runs"][2]["path"] / "run.json"
    record = json.loads(file.read_text())
    del record["memory"]
    fixture_tree.write(file, record)
    done = stage(tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"error: {file}: field 'memory' is missing. Delete the file and run the pipeline again, which writes it anew."
    )


def test_the_fixture_has_the_form_of_real_records(plan):
    from workflow.engine.records import check_record

    for run in plan["runs"]:
        check_record(fixture_tree.record(run))


@pytest.mark.parametrize("name", ["smoke.yaml", "tuned.yaml"])
def test_the_experiment_on_the_page_is_the_experiment(name):
    """What the page tells to save as reproduce.json resolves to the very same runs and trials."""
    experiment = load(ROOT / "config" / name)
    assert resolve(json.loads(document(experiment))) == experiment


def test_where_people_look_is_no_difference_of_experiments():
    """Neither the page nor the runs' plans know of trackers."""
    experiment = load(ROOT / "config" / "smoke.yaml")
    tracked = experiment | {"tracking": ["tensorboard", "wandb"]}
    assert document(tracked) == document(experiment)
    for run in experiment["runs"]:
        assert planned_settings(run, tracked) == planned_settings(run, experiment)
