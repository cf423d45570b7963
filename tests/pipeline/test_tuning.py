"""Tuning through Snakemake, on the mini experiment: trials, the choice, final runs with it, and what is done again."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

import baselines
from tests.pipeline.mini import mini, snakemake
from workflow.experiment import find_training
from workflow.places import data_folder
from workflow.stages.train import train_run

WORLD = "results/mini/tiny/world"
RATES = {"full": [1e-6, 1e-2], "lisa": [3e-3, 1e30]}
BROKEN = {"method": "lora", "variant": "broken", "hyperparameters": {"target_modules": ["input_layernorm"]}}


def experiment(folder: Path, tuning: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Rows whose best rate is the highest (full) and the lowest (lisa, which diverges at the other), and vanilla."""
    plan = mini(folder / "prepared", methods=["vanilla", "full", "lisa"], mt_bench=None)
    plan["evaluation"] = {"benchmarks": [{"name": "winogrande", "limit": 2}]}
    del plan["training"]["learning_rate"]
    plan["training"]["evaluate_every_steps"] = 4
    plan["tuning"] = {"trials": 2, "items": 12, "learning_rates": RATES, **(tuning or {})}
    return plan | changes


def planned(folder: Path, **changes: Any) -> dict[str, int]:
    """How often the rules that train or choose would run."""
    done = snakemake(folder, experiment(folder, **changes), "--dry-run")
    assert done.returncode == 0, done.stderr
    return {name: int(n) for name, n in re.findall(r"^(trial|select|train|prepare_\w+) +(\d+)$", done.stdout, re.M)}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The pipeline, run once."""
    folder = tmp_path_factory.mktemp("tuning")
    return folder, snakemake(folder, experiment(folder))


def test_the_best_finished_trial_is_chosen_and_a_diverged_one_is_not(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = first
    assert done.returncode == 0, done.stderr
    for method, place, edge in (("full", 1, "highest"), ("lisa", 0, "lowest")):
        found = read(folder, f"{WORLD}/{method}/default/tuning/chosen.json")
        assert [trial["learning_rate"] for trial in found["trials"]] == RATES[method]
        assert (found["chosen"]["trial"], found["at_edge"]) == (place, edge)
        assert found["chosen"]["mean_loss"] == min(t["mean_loss"] for t in found["trials"] if t["mean_loss"])
    diverged = found["trials"][1]
    assert (diverged["status"], diverged["mean_loss"], diverged["losses"]) == ("diverged", None, [None])
    assert not (folder / f"{WORLD}/vanilla/default/tuning").exists()


def test_a_final_run_is_trained_with_the_chosen_rate_on_its_own_seed(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = first
    for method, rate in (("full", 1e-2), ("lisa", 3e-3), ("vanilla", None)):
        record = read(folder, f"{WORLD}/{method}/default/seed0/run.json")
        assert (record["status"], record["method"]["learning_rate"], record["seed"]) == ("ok", rate, 0)
        assert "trial" not in record
    log = (folder / f"{WORLD}/full/default/seed0/log.jsonl").read_text().splitlines()
    assert max(json.loads(line).get("learning_rate", 0) for line in log) == 1e-2


def test_a_trial_leaves_a_record_and_a_log_and_saw_the_tuning_records_only(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = first
    trial = folder / f"{WORLD}/full/default/tuning/trial1/seed1000"
    assert {file.name for file in trial.iterdir()} == {"run.json", "log.jsonl", "checkpoint.settings.json"}
    record = read(trial, "run.json")
    assert (record["status"], record["trial"], record["seed"], record["steps"]) == ("ok", 1, 1000, 8)
    assert record["validation_loss"] is None and 0 < record["tuning_loss"] < 10
    assert (record["data"]["tuning_items"], record["data"]["validation_items"]) == (12, None)
    assert not [line for line in (trial / "log.jsonl").read_text().splitlines() if "validation_loss" in line]
    final = read(folder, f"{WORLD}/full/default/seed0/run.json")
    assert final["data"]["train_items"] == record["data"]["train_items"] and final["validation_loss"] > 0


def test_the_held_out_records_are_in_no_training_and_no_validation(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = first
    home = folder / data_folder(read(folder, "results/mini/experiment.json")) / "world"
    splits = {name: {*(home / f"{name}.jsonl").read_text().splitlines()} for name in ("train", "validation", "tuning")}
    assert len(splits["tuning"]) == 12
    assert not splits["tuning"] & (splits["train"] | splits["validation"])


def test_every_trial_is_in_the_table_and_the_curves_on_the_page(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = first
    table = pandas.read_csv(folder / "results/mini/tables/tuning.csv")
    found = list(zip(table["method"], table["learning_rate"], table["status"], table["chosen"], strict=True))
    assert found == [
        ("full", 1e-6, "ok", False),
        ("full", 1e-2, "ok", True),
        ("lisa", 3e-3, "ok", True),
        ("lisa", 1e30, "diverged", False),
    ]
    compared = pandas.read_csv(folder / "results/mini/tables/comparison.csv")
    assert dict(zip(compared["method"], compared["learning_rate"], strict=True)) | {"vanilla": None} == {
        "vanilla": None,
        "full": 1e-2,
        "lisa": 3e-3,
    }
    page = (folder / "results/mini/report.html").read_text()
    assert 'id="figure-1-tuning"' in page and "loss is" in page


def test_a_second_call_does_nothing(first: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = first
    again = snakemake(folder, experiment(folder))
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        # the first rate of three is the first of two
        ({"tuning": {"trials": 3}}, {"trial": 4, "select": 2, "train": 2}),
        ({"tuning": {"learning_rates": {**RATES, "full": [1e-6, 1e-3]}}}, {"trial": 1, "select": 1, "train": 1}),
        ({"tuning": {"seeds": [1000, 1001]}}, {"trial": 4, "select": 2, "train": 2}),
        ({"seeds": [0, 1]}, {"train": 3}),
    ],
)
def test_a_change_trains_what_it_decides_and_nothing_else(
    first: tuple[Path, subprocess.CompletedProcess[str]], changes: dict[str, Any], jobs: dict[str, int]
) -> None:
    folder, _ = first
    assert planned(folder, **changes) == jobs


def test_how_often_final_runs_are_looked_at_decides_no_trial_and_how_long_they_train_does(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = first
    training = experiment(folder)["training"]
    assert planned(folder, training=training | {"evaluate_every_steps": 2}) == {"train": 3}
    assert planned(folder, training=training | {"steps": 9}) == {"trial": 4, "select": 2, "train": 3}


def test_out_of_memory_in_a_trial_is_a_result_without_a_checkpoint(
    first: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    folder, _ = first
    monkeypatch.chdir(folder)
    monkeypatch.setattr(baselines.method_class("full"), "optimizer", no_memory)
    plan = read(folder, "results/mini/experiment.json")
    trial = find_training(plan, "tiny/world/full/default/tuning/trial0/seed1000")
    train_run(plan, trial, tmp_path)
    record = read(tmp_path, "run.json")
    assert (record["status"], record["tuning_loss"], record["trial"]) == ("oom", None, 0)
    assert not (tmp_path / "model").exists()


def test_a_failed_trial_leaves_its_row_unchosen_and_the_others_whole(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = first
    done = snakemake(folder, experiment(folder, methods=["vanilla", "full", "lisa", BROKEN]))
    assert done.returncode != 0
    assert "LlamaRMSNorm" in done.stdout + done.stderr
    table = pandas.read_csv(folder / "results/mini/tables/comparison.csv")
    statuses = dict(zip(table["method"], table["status"], strict=True))
    assert statuses == {"vanilla": "ok", "full": "ok", "lisa": "ok", "lora": "missing"}
    page = (folder / "results/mini/report.html").read_text()
    assert "no tuning/chosen.json: not all trials of the row have ended" in page
    trials = pandas.read_csv(folder / "results/mini/tables/tuning.csv")
    assert set(trials[trials["method"] == "lora"]["status"]) == {"failed"}
