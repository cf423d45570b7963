"""The stage `select` writes what a row's trials chose, and refuses to choose before all of them have ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.chosen import as_chosen, row_path
from tests.conftest import ROOT
from tests.report import fixture_tree, tuned_tree
from workflow.engine.errors import InputError
from workflow.stages.select import select

LORA = "tiny/world-chat/lora/r128"


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, Any]:
    """Trials that ended, of which nothing is chosen yet."""
    plan = tuned_tree.write_tree(tmp_path)
    for file in tmp_path.rglob("chosen.json"):
        file.unlink()
    return plan


def test_the_file_says_what_was_tried_what_was_chosen_and_by_which_rule(tmp_path: Path, plan: dict[str, Any]) -> None:
    select(plan, LORA, tmp_path)
    found = json.loads((tmp_path / LORA / "tuning/chosen.json").read_text())
    assert "/".join(found[key] for key in ("model", "data", "method", "variant")) == LORA
    assert "smallest loss wins" in found["rule"]
    assert [trial["learning_rate"] for trial in found["trials"]] == [1e-4, 1e-3, 1e-2]
    assert [trial["losses"] for trial in found["trials"]] == [[1.4, 1.41], [1.1, 1.11], [1.3, 1.31]]
    assert {(*trial["seeds"], trial["status"], trial["reason"]) for trial in found["trials"]} == {(7, 8, "ok", None)}
    assert found["chosen"] == found["trials"][1]
    assert (found["at_edge"], found["note"], found["tuning_items"]) == (None, None, 16)


def test_a_final_run_takes_rate_and_hyperparameters_from_the_file(tmp_path: Path, plan: dict[str, Any]) -> None:
    select(plan, LORA, tmp_path)
    run = fixture_tree.run_of(plan, "lora", 0)
    assert run["learning_rate"] is None
    assert as_chosen(run, plan, tmp_path) == {**run, "learning_rate": 1e-3}
    vanilla = fixture_tree.run_of(plan, "vanilla", 0)
    assert as_chosen(vanilla, plan, tmp_path) == vanilla


def test_nothing_is_chosen_while_a_trial_is_missing(tmp_path: Path, plan: dict[str, Any]) -> None:
    trial = tuned_tree.trials_of(plan, "lora")[3]
    (tmp_path / trial["path"] / "run.json").unlink()
    with pytest.raises(InputError, match=r"lora/r128: trial1 \(seed 8: neither run.json nor failure.json.*Train all"):
        select(plan, LORA, tmp_path)
    assert not (tmp_path / LORA / "tuning/chosen.json").exists()


def test_an_unknown_row_is_answered_with_the_tuned_ones(tmp_path: Path, plan: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"fixture tunes no row .*vanilla.*Known: .*lora/r128"):
        select(plan, "tiny/world-chat/vanilla/default", tmp_path)
    with pytest.raises(InputError, match=r"Known: none"):
        select(fixture_tree.experiment(), LORA, tmp_path)


def test_the_command_chooses_for_every_row(tmp_path: Path, plan: dict[str, Any]) -> None:
    rows = {row_path(trial) for trial in plan["trials"]}
    row = sorted(rows)[0]
    command = [sys.executable, "-m", "workflow.stages.select", "--experiment", str(tmp_path / "experiment.json")]
    command += ["--row", row, "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / row / "tuning/chosen.json").is_file()
