"""The table of the tuning: every trial of every row, and in words what decided."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from eval import present, tables
from eval.chosen import choice_file
from eval.text import to_markdown
from eval.tuning_table import tuning, tuning_table
from tests.report import fixture_tree, tuned_tree
from workflow.stages.report import report


@pytest.fixture
def plan() -> dict[str, Any]:
    return tuned_tree.experiment()


@pytest.fixture
def tree(tmp_path: Path, plan: dict[str, Any]) -> Path:
    tuned_tree.write_tree(tmp_path, plan)
    return tmp_path


def lines_of(plan: dict[str, Any], tree: Path) -> list[dict[str, Any]]:
    return tuning(fixture_tree.rows_of(plan, tree), plan)


def text_of(plan: dict[str, Any], tree: Path) -> str:
    return to_markdown(tuning_table(lines_of(plan, tree), plan))


def test_every_trial_of_every_row_that_trains_has_its_line(plan: dict[str, Any], tree: Path) -> None:
    lines = lines_of(plan, tree)
    rows = ["full", "lora r128", "galore", "lisa gamma2", "lisa gamma4"]
    assert [(line["row"], line["trial"]) for line in lines] == [(row, trial) for row in rows for trial in range(3)]
    chosen = {line["row"]: line["learning_rate"] for line in lines if line["chosen"]}
    assert chosen == {row: tuned_tree.CHOSEN[row.split()[0]] for row in rows}
    first = lines[0]
    assert (first["learning_rate"], first["seeds"], first["status"]) == (1e-4, "7 8", "ok")
    assert (first["tuning_loss_seed7"], first["tuning_loss_seed8"]) == (1.5, 1.51)
    assert first["tuning_loss"] == pytest.approx(1.505)


def test_a_trial_that_diverged_has_its_line_without_a_loss(plan: dict[str, Any], tree: Path) -> None:
    line = next(line for line in lines_of(plan, tree) if line["row"] == "galore" and line["trial"] == 2)
    assert (line["status"], line["tuning_loss"], line["chosen"]) == ("diverged", None, False)
    text = text_of(plan, tree)
    assert "| galore | 0.01 | – | – | – | diverged | – | seed 7: train: loss is nan at step 12" in text
    assert "| lora r128 | 0.001 | 1.1050 | 1.1000 | 1.1100 | ok | chosen |" in text


def test_the_notes_say_budget_rule_split_seeds_and_ranges(plan: dict[str, Any], tree: Path) -> None:
    text = text_of(plan, tree)
    assert "Equal budget: 3 trials of every row that trains" in text
    assert "on seeds 7, 8; the final runs with the chosen settings are on seeds 0, 1." in text
    assert "16 records held out from the train split for tuning" in text
    assert "The trial with the smallest loss wins" in text and "the lower learning rate wins" in text
    assert "Learning rates, log-spaced: full 3 from 0.0001 to 0.01 (the experiment's range); lora 3 from" in text
    assert "lora 3 from 0.0001 to 0.01 (the published range, as baselines/lora.py cites it)" in text
    assert "Imaginary CPU" in text


def test_rows_whose_best_rate_is_an_end_of_the_range_are_named(plan: dict[str, Any], tree: Path) -> None:
    assert "a rate beyond it may be better still: full (highest)." in text_of(plan, tree)
    for trial in tuned_tree.trials_of(plan, "full"):
        tuned_tree.write_trial(tree, trial, (1.2, 1.1, 1.2)[trial["trial"]])
    tuned_tree.write_choice(tree, plan, tuned_tree.trials_of(plan, "full")[0])
    assert "at an end of the range" not in text_of(plan, tree)


def test_a_row_of_which_no_trial_finished_and_one_that_is_not_chosen_yet_are_named(
    plan: dict[str, Any], tree: Path
) -> None:
    for trial in tuned_tree.trials_of(plan, "full"):
        tuned_tree.write_trial(tree, trial, None)
    tuned_tree.write_choice(tree, plan, tuned_tree.trials_of(plan, "full")[0])
    choice_file(fixture_tree.run_of(plan, "lora", 0), tree).unlink()
    (tree / tuned_tree.trials_of(plan, "lora")[0]["path"] / "run.json").unlink()
    text = text_of(plan, tree)
    assert "full: no trial finished; the lowest rate is taken" in text
    assert "at an end of the range" not in text
    assert "Nothing is chosen yet for lora r128: not all of its trials have ended." in text
    assert "| lora r128 | 0.0001 | – | – | 1.4100 | missing 1 of 2, ok 1 of 2 |" in text


def test_swept_values_have_their_column(tmp_path: Path) -> None:
    plan = tuned_tree.write_tree(tmp_path, tuned_tree.experiment(rank=(64, 128, 256)))
    text = text_of(plan, tmp_path)
    assert "| lora r128 | 0.001 | rank 128 | 1.1050 |" in text
    assert "lora 0.001 alone (the middle of the published range, as" in text
    assert [line["swept"] for line in lines_of(plan, tmp_path)][3:5] == ['{"rank": 64}', '{"rank": 128}']


def test_one_seed_has_no_column_beside_the_mean(tmp_path: Path) -> None:
    plan = tuned_tree.experiment()
    plan["trials"] = [trial for trial in plan["trials"] if trial["seed"] == 7]
    plan["tuning"]["seeds"] = [7]
    tuned_tree.write_tree(tmp_path, plan)
    text = text_of(plan, tmp_path)
    assert "Seed 7" not in text and "training on seed 7;" in text


def test_several_models_are_told_apart(tmp_path: Path) -> None:
    plan = tuned_tree.write_tree(tmp_path, tuned_tree.experiment(models=2))
    text = text_of(plan, tmp_path)
    assert "| tiny1 | full | 0.01 |" in text
    assert "may be better still: tiny full (highest), tiny1 full (highest)." in text


def test_the_table_is_written_where_an_experiment_tunes_and_the_page_shows_it(plan: dict[str, Any], tree: Path) -> None:
    assert report(plan, tree) == []
    with (tree / "tables/tuning.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 15
    assert [row["chosen"] for row in rows[:3]] == ["false", "false", "true"]
    assert rows[2]["at_edge"] == "highest" and rows[2]["device"] == "cpu (Imaginary CPU)"
    assert '<section id="tuning">' in (tree / "report.html").read_text()
    plan |= {"tuning": None, "trials": []}
    report(plan, tree)
    assert not (tree / "tables/tuning.csv").exists()


def test_what_is_said_of_learning_rates_under_the_methods_is_true_with_tuning_and_without(
    plan: dict[str, Any], tree: Path, tmp_path: Path
) -> None:
    def notes(plan: dict[str, Any], tree: Path) -> str:
        rows = tables.methods(fixture_tree.rows_of(plan, tree), plan)
        return " ".join(present.methods_table(rows, plan).notes)

    assert "chosen for each row by 3 trials, the same number for all" in notes(plan, tree)
    assert "not swept" not in notes(plan, tree)
    given = fixture_tree.write_tree(tmp_path / "given")
    assert "not swept" in notes(given, tmp_path / "given") and "trials" not in notes(given, tmp_path / "given")
