"""What the trials of a row choose, and that final runs count only with what was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval import EvaluationError
from eval.chosen import choice_file
from eval.collect import collect
from eval.tuning import choose, read_trials
from tests.report import fixture_tree, tuned_tree
from workflow.engine.records import check_record
from workflow.stages.report import report


@pytest.fixture
def plan() -> dict[str, Any]:
    return tuned_tree.experiment()


@pytest.fixture
def tree(tmp_path: Path, plan: dict[str, Any]) -> Path:
    tuned_tree.write_tree(tmp_path, plan)
    return tmp_path


def choice(plan: dict[str, Any], tree: Path, method: str) -> dict[str, Any]:
    row = tuned_tree.trials_of(plan, method)[0]
    return choose(read_trials(row, plan, tree), row, plan)


def run_of(plan: dict[str, Any], tree: Path, method: str, seed: int = 0) -> Any:
    planned = fixture_tree.run_of(plan, method, seed)
    return next(run for run in collect(plan, tree) if run.path == planned["path"])


# --- the rule


def test_the_smallest_mean_loss_over_the_seeds_wins(plan: dict[str, Any], tree: Path) -> None:
    assert choice(plan, tree, "lora")["chosen"]["learning_rate"] == 1e-3
    for trial in tuned_tree.trials_of(plan, "lora"):
        # at 1e-4 the first seed is the best of all and the mean is not
        spread = {0: (0.5, 2.5), 1: (1.4, 1.4), 2: (1.3, 1.4)}[trial["trial"]]
        record = tuned_tree.record_of(trial) | {"tuning_loss": spread[tuned_tree.SEEDS.index(trial["seed"])]}
        fixture_tree.write(tree / trial["path"] / "run.json", record)
    found = choice(plan, tree, "lora")
    assert found["chosen"]["learning_rate"] == 1e-2
    assert [trial["mean_loss"] for trial in found["trials"]] == pytest.approx([1.5, 1.4, 1.35])
    assert [trial["losses"] for trial in found["trials"]] == [[0.5, 2.5], [1.4, 1.4], [1.3, 1.4]]


def test_of_equal_trials_the_lower_rate_wins(plan: dict[str, Any], tree: Path) -> None:
    found = choice(plan, tree, "lisa")
    assert found["trials"][1]["mean_loss"] == found["trials"][2]["mean_loss"]
    assert found["chosen"]["learning_rate"] == 1e-3


@pytest.mark.parametrize("status", ["oom", "diverged", "failed"])
def test_a_trial_of_which_one_seed_stopped_has_lost_however_good_the_other_is(
    plan: dict[str, Any], tree: Path, status: str
) -> None:
    first, second = (trial for trial in tuned_tree.trials_of(plan, "full") if trial["trial"] == 2)
    tuned_tree.write_trial(tree, first, 0.1)
    stopped = tuned_tree.record_of(second) | {"status": status, "phase": "train", "error": "too large"}
    (tree / second["path"] / "run.json").unlink()
    name = "failure.json" if status == "failed" else "run.json"
    fixture_tree.write(tree / second["path"] / name, stopped)
    found = choice(plan, tree, "full")
    assert found["chosen"]["learning_rate"] == 1e-3
    lost = found["trials"][2]
    assert (lost["mean_loss"], lost["losses"]) == (None, [0.1, None])
    assert lost["status"] == f"ok 1 of 2, {status} 1 of 2"
    assert lost["reason"] == "seed 8: train: too large"


def test_without_a_finished_trial_the_lowest_rate_is_taken_and_this_is_said(plan: dict[str, Any], tree: Path) -> None:
    for trial in tuned_tree.trials_of(plan, "full"):
        tuned_tree.write_trial(tree, trial, None)
    found = choice(plan, tree, "full")
    assert found["chosen"]["learning_rate"] == 1e-4
    assert "No trial finished" in found["note"]
    assert choice(plan, tree, "lora")["note"] is None


@pytest.mark.parametrize(("method", "edge"), [("full", "highest"), ("lora", None), ("galore", None)])
def test_a_choice_at_an_end_of_its_range_says_so(plan: dict[str, Any], tree: Path, method: str, edge: str) -> None:
    assert choice(plan, tree, method)["at_edge"] == edge
    for trial in tuned_tree.trials_of(plan, method):
        tuned_tree.write_trial(tree, trial, 1.0 + trial["trial"])
    assert choice(plan, tree, method)["at_edge"] == "lowest"


def test_swept_values_are_chosen_with_the_rate_and_one_rate_alone_has_no_edge(tmp_path: Path) -> None:
    plan = tuned_tree.write_tree(tmp_path, tuned_tree.experiment(rank=(64, 128, 256)))
    found = choice(plan, tmp_path, "lora")
    assert [trial["swept"] for trial in found["trials"]] == [{"rank": 64}, {"rank": 128}, {"rank": 256}]
    assert found["chosen"]["hyperparameters"] == {"rank": 128, "alpha": 256.0}
    assert found["at_edge"] is None
    run = run_of(plan, tmp_path, "lora")
    assert (run.status, run.hyperparameters["rank"], run.learning_rate) == ("ok", 128, 1e-3)
    assert choice(plan, tmp_path, "full")["trials"][0]["swept"] == {}


def test_a_finished_trial_without_its_loss_is_named(plan: dict[str, Any], tree: Path) -> None:
    file = tree / tuned_tree.trials_of(plan, "lora")[0]["path"] / "run.json"
    record = json.loads(file.read_text())
    del record["tuning_loss"]
    fixture_tree.write(file, record)
    with pytest.raises(EvaluationError, match=r"run.json: field 'tuning_loss' is missing"):
        choice(plan, tree, "lora")


@pytest.mark.parametrize(
    ("keys", "value"), [(("method", "learning_rate"), 0.5), (("settings", "steps"), 7), (("settings", "beta1"), 0.5)]
)
def test_a_trial_of_other_settings_does_not_count(
    plan: dict[str, Any], tree: Path, keys: tuple[str, str], value: Any
) -> None:
    trial = tuned_tree.trials_of(plan, "lora")[2]
    file = tree / trial["path"] / "run.json"
    record = json.loads(file.read_text())
    record[keys[0]][keys[1]] = value
    fixture_tree.write(file, record)
    found = read_trials(trial, plan, tree)[1]
    assert found.status == "missing 1 of 2, ok 1 of 2"
    assert "of other settings" in found.reason


def test_how_often_a_run_looks_at_its_validation_split_is_nothing_to_a_trial(plan: dict[str, Any], tree: Path) -> None:
    plan["training"] |= {"evaluate_every_steps": 40, "weight_norms_every_steps": 10}
    trial = tuned_tree.trials_of(plan, "lora")[0]
    file = tree / trial["path"] / "run.json"
    record = json.loads(file.read_text())
    record["settings"] |= {"evaluate_every_steps": None, "weight_norms_every_steps": None}
    fixture_tree.write(file, record)
    assert read_trials(trial, plan, tree)[0].status == "ok"


# --- final runs


def test_a_final_run_counts_with_the_chosen_rate(plan: dict[str, Any], tree: Path) -> None:
    for method, rate in tuned_tree.CHOSEN.items():
        run = run_of(plan, tree, method)
        assert (run.status, run.learning_rate) == ("ok", rate)
    vanilla = run_of(plan, tree, "vanilla")
    assert (vanilla.status, vanilla.learning_rate) == ("ok", None)


def test_a_final_run_of_another_rate_than_the_chosen_one_gives_no_number(plan: dict[str, Any], tree: Path) -> None:
    for trial in tuned_tree.trials_of(plan, "lora"):
        tuned_tree.write_trial(tree, trial, 2.0 - trial["trial"])
    tuned_tree.write_choice(tree, plan, tuned_tree.trials_of(plan, "lora")[0])
    run = run_of(plan, tree, "lora")
    assert (run.status, run.foreign, run.scores) == ("missing", True, {})
    assert "learning_rate: 0.001, planned 0.01" in run.reason


def test_without_a_choice_a_final_run_is_missing_and_the_report_is_made(plan: dict[str, Any], tree: Path) -> None:
    choice_file(fixture_tree.run_of(plan, "lora", 0), tree).unlink()
    run = run_of(plan, tree, "lora")
    assert (run.status, run.record, run.learning_rate) == ("missing", {}, None)
    assert "no tuning/chosen.json" in run.reason
    assert report(plan, tree) == [fixture_tree.run_of(plan, "lora", seed)["path"] for seed in (0, 1)]
    assert "no tuning/chosen.json" in (tree / "report.html").read_text()


@pytest.mark.parametrize("key", ["learning_rate", "hyperparameters", "seed"])
def test_a_choice_among_other_trials_than_the_planned_ones_does_not_count(
    plan: dict[str, Any], tree: Path, key: str
) -> None:
    changed = {"learning_rate": 0.5, "hyperparameters": {"rank": 1}, "seed": 9}[key]
    for trial in tuned_tree.trials_of(plan, "lora")[-2:]:
        trial[key] = changed
    run = run_of(plan, tree, "lora")
    assert run.status == "missing"
    assert "among other trials than the planned ones" in run.reason
    assert run_of(plan, tree, "full").status == "ok"


def test_one_trial_more_makes_the_choice_an_old_one(plan: dict[str, Any], tree: Path) -> None:
    last = tuned_tree.trials_of(plan, "lora")[-1]
    plan["trials"].append({**last, "trial": 3, "path": last["path"].replace("trial2", "trial3")})
    assert "among other trials" in run_of(plan, tree, "lora").reason


def test_a_choice_that_lacks_a_field_is_named(plan: dict[str, Any], tree: Path) -> None:
    file = choice_file(fixture_tree.run_of(plan, "lora", 0), tree)
    content = json.loads(file.read_text())
    del content["chosen"]["learning_rate"]
    fixture_tree.write(file, content)
    with pytest.raises(EvaluationError, match=r"chosen.json: field 'chosen.learning_rate' is missing"):
        collect(plan, tree)


def test_the_fixtures_trials_have_the_form_of_real_records(plan: dict[str, Any], tree: Path) -> None:
    for trial in plan["trials"]:
        check_record(json.loads((tree / trial["path"] / "run.json").read_text()))
