"""The experiments of config/paper/ and the published tables belong together: each table has its experiment, and each of
its cells that we measure a planned row that answers to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.benchmarks import SUITES
from eval.collect import collect, group
from eval.memory_cells import MemoryCell
from eval.memory_tables import TIMES, published_cell
from eval.published import Cell, find, load, published_tables
from eval.reproduction import PARTS
from eval.versus import versus
from tests.conftest import ROOT
from workflow.kinds import resolve

FILES = sorted((ROOT / "config/paper").glob("*.yaml"))
BRANCHES = {"main", "refs/convert/parquet"}  # resolved when they are downloaded
UNANSWERED = {  # (table, model): why no run of ours answers to its cells
    ("dora_commonsense", "ChatGPT"): "a service, without weights that could be run",
}
UNMEASURED = {  # metrics that stand in a table and that nothing here measures
    "numglue": "NumGLUE is not in lm-eval 0.4.13",
    "average_of_six": "over six tasks, NumGLUE among them; ours is over five",
}


def resolved(file: Path) -> dict[str, Any]:
    return resolve(yaml.safe_load(file.read_text()))


def measured(experiment: dict[str, Any]) -> set[str]:
    """The published metrics that an experiment measures."""
    if experiment["kind"] == "memory":
        return {"peak_memory", *PARTS, *TIMES}
    names = {entry["name"] for entry in experiment["evaluation"]["benchmarks"]}
    names |= {name for name, suite in SUITES.items() if names.issuperset(suite.members)}
    return names | {
        cell.metric for cell in cells_of(experiment) if cell.metric.startswith("mt_bench") if judged(experiment)
    }


def judged(experiment: dict[str, Any]) -> bool:
    return experiment["mt_bench"] is not None


def cells_of(experiment: dict[str, Any]) -> list[Cell]:
    return [cell for table in experiment["report"]["published"] for cell in load(table)]


def answered(cell: Cell, experiment: dict[str, Any]) -> bool:
    """Whether a planned row of the experiment answers to the cell."""
    if experiment["kind"] == "memory":
        return any(published_cell(MemoryCell(planned, Path()), [cell], cell.metric) for planned in experiment["cells"])
    names = {model["name"]: model["published_as"] for model in experiment["models"]}
    return any(
        find([cell], names[run["model"]], run["method"], run["hyperparameters"], cell.metric)
        for run in experiment["runs"]
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_cell_that_is_measured_is_answered_or_explained(file: Path) -> None:
    experiment = resolved(file)
    ours = measured(experiment)
    for table in experiment["report"]["published"]:
        open_cells = [cell for cell in load(table) if cell.metric in ours and not answered(cell, experiment)]
        assert {(table, cell.model) for cell in open_cells} <= UNANSWERED.keys(), open_cells
        assert {cell.metric for cell in load(table)} - ours <= UNMEASURED.keys()


def test_what_is_explained_is_there_and_is_not_answered() -> None:
    experiments = [resolved(file) for file in FILES]
    every = {metric for experiment in experiments for metric in measured(experiment)}
    named = [(table, cell) for table in published_tables() for cell in load(table)]
    assert UNMEASURED.keys() == {cell.metric for _, cell in named} - every
    assert UNANSWERED.keys() <= {(table, cell.model) for table, cell in named}


def test_every_published_table_has_an_experiment() -> None:
    assert sorted({table for file in FILES for table in resolved(file)["report"]["published"]}) == published_tables()


TRAINING = [file for file in FILES if resolved(file)["kind"] == "training"]


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_models_are_pinned_to_commits_and_data_to_commits_or_known_branches(file: Path) -> None:
    experiment = resolved(file)
    assert all(re.fullmatch("[0-9a-f]{40}", model["revision"]) for model in experiment["models"])
    revisions = experiment["dataset_revisions"].values()
    assert all(re.fullmatch("[0-9a-f]{40}", revision) or revision in BRANCHES for revision in revisions)


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_they_run_on_three_seeds_from_the_hub_on_a_gpu(file: Path) -> None:
    experiment = resolved(file)
    assert (experiment["seeds"], experiment["data_root"], experiment["device"]) == ([0, 1, 2], "hub", "cuda")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_they_say_what_is_the_papers(file: Path) -> None:
    assert "(paper)" in file.read_text()


@pytest.mark.parametrize("name", ["llama2_70b", "llama2_70b_gsm8k", "llama2_70b_pubmedqa", "continual_pretraining"])
def test_numbers_that_are_not_at_hand_are_rows_that_were_not_run(name: str, tmp_path: Path) -> None:
    experiment = resolved(ROOT / f"config/paper/{name}.yaml")
    lines = versus(group(collect(experiment, tmp_path), experiment), experiment)
    assert {(line["published"], line["status"], line["difference"]) for line in lines} == {
        ("not at hand", "not run", None)
    }
    assert all(line["our_model"] for line in lines)


def test_no_two_experiments_share_a_name_and_with_it_a_folder() -> None:
    names = [yaml.safe_load(file.read_text())["name"] for file in (ROOT / "config").rglob("*.yaml")]
    assert len(names) > 15 and len(set(names)) == len(names)
