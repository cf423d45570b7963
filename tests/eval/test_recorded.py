"""Records alone tell an experiment that is read like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval import EvaluationError, memory_cells
from eval.collect import collect, group
from eval.recorded import recorded
from tests.eval.test_collect import change
from tests.report import fixture_tree, memory_tree

REFERENCE = memory_cells.REFERENCE
COMMITTED = sorted({REFERENCE.joinpath(*file.relative_to(REFERENCE).parts[:2]) for file in REFERENCE.rglob("run.json")})


@pytest.fixture
def records(plan, tree):
    """The tree without its experiment.json."""
    (tree / "experiment.json").unlink()
    return tree


def test_the_same_rows_are_read_with_and_without_an_experiment(plan, records):
    fixture_tree.write_stopped(records, fixture_tree.run_of(plan, "galore", 1), "oom", "train", "too large")
    fixture_tree.write_stopped(records, fixture_tree.run_of(plan, "galore", 0), "failed", "train", "disk full")
    told = recorded(records)
    read = {run.path: (run.status, run.record, run.scores, run.mt_bench) for run in collect(told, records)}
    assert read == {run.path: (run.status, run.record, run.scores, run.mt_bench) for run in collect(plan, records)}
    assert {row.key for row in group(collect(told, records), told)} == {
        row.key for row in fixture_tree.rows_of(plan, records)
    }
    assert told["name"] == "fixture"


def test_trials_and_continued_pretraining_are_no_runs(plan, records):
    run = records / fixture_tree.run_of(plan, "lora", 0)["path"]
    before = recorded(records)
    shutil.copytree(run, run.parent / "tuning/trial0/seed0")
    shutil.copytree(run, run.parent / "tuning/trial1/seed100")
    shutil.copytree(run, run / "continued")
    assert recorded(records) == before


def test_records_of_different_settings_are_all_read(plan, records):
    change(records, fixture_tree.run_of(plan, "lora", 0), "settings", "steps", value=7)
    assert {run.status for run in collect(recorded(records), records)} == {"ok"}


def test_measured_cells_are_told_by_their_records(tmp_path):
    plan = memory_tree.experiment()
    cells = [memory_tree.cell_of(plan, f"llama-2-7b/lora/r128/{setting}") for setting in ("default", "eager")]
    for cell in cells:
        memory_tree.measure(tmp_path, cell)
    found = memory_cells.collect(recorded(tmp_path), tmp_path, None)
    assert [(cell.row, cell.planned["setting"]) for cell in found] == [
        (("llama-2-7b", "lora", "r128"), "default"),
        (("llama-2-7b", "lora", "r128"), "eager"),
    ]
    peaks = [cell.allocated_bytes(memory_tree.DEVICE) for cell in found]
    assert peaks == [round(memory_tree.peak_bytes(cell) * 1.02) for cell in cells]


def test_a_cell_that_failed_before_it_had_settings_is_a_cell(tmp_path):
    cell = memory_tree.cell_of(memory_tree.experiment(), "llama-2-7b/lora/r128/default")
    failure = memory_tree.measured(cell, 0.0, memory_tree.DEVICE, "failed") | {"settings": {}, "environment": {}}
    fixture_tree.write(tmp_path / cell["path"] / "failure.json", failure)
    (planned,) = recorded(tmp_path)["cells"]
    assert (planned["path"], planned["setting"]) == (cell["path"], "default")


def test_a_folder_without_records_tells_nothing(tmp_path):
    assert recorded(tmp_path) is None


def test_records_of_one_run_twice_are_named(plan, records):
    shutil.copytree(records / "tiny", records / "again")
    with pytest.raises(
        EvaluationError, match="again/world-chat/full/default/seed0 and .*tiny/world-chat/full/.* same run"
    ):
        recorded(records)


def test_runs_and_cells_in_one_folder_are_named(records):
    cell = memory_tree.cell_of(memory_tree.experiment(), "llama-2-7b/lora/r128/default")
    memory_tree.measure(records, cell)
    with pytest.raises(EvaluationError, match="lora/r128/default holds a memory cell, .*tiny/.* a trained run"):
        recorded(records)


@pytest.mark.parametrize("content", ["{", "\xff\xfe", "[]", "{}", '{"model": {}}'])
def test_a_damaged_record_is_named(plan, records, content):
    file = records / fixture_tree.run_of(plan, "lora", 1)["path"] / "run.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(EvaluationError, match="lora/r128/seed1/run.json"):
        recorded(records)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_references_are_read_whole(folder: Path):
    told = recorded(folder)
    files = sorted(folder.rglob("run.json"))
    if "cells" in told:
        found = memory_cells.collect(told, folder, None)
        read = [record for cell in found for record in cell.measured.values()]
    else:
        read = [run.record for run in collect(told, folder)]
    assert files and read == [json.loads(file.read_text()) for file in files]
