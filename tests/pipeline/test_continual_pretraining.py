"""Two phases through the whole pipeline: text, then instructions; killed, diverged, and called a second time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.mini import ROOT, mini, snakemake, stage
from workflow.engine.models import load_model, sha256_folder
from workflow.experiment import resolve

RUN = "results/mini/tiny/world"
TEXT = {
    "file": "corpus/world.txt.gz",
    "steps": 6,
    "batch_size": 4,
    "sequence_length": 64,
    "max_train_items": 300,
    "validation_items": 20,
}
METHODS = [
    "vanilla",
    "lisa",
    {"method": "full", "variant": "hot", "learning_rate": 1e30},  # diverges on the text already
]
EVALUATION = {"batch_size": 8, "benchmarks": [{"name": "winogrande", "limit": 2}]}


def asked(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {"continual_pretraining": TEXT, "methods": METHODS, "evaluation": EVALUATION, "mt_bench": None}
    return mini(folder / "prepared", **own | changes)


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of three rows: untrained, LISA in both phases, one that diverges in the first."""
    folder = tmp_path_factory.mktemp("continual")
    return folder, snakemake(folder, asked(folder))


def test_a_method_that_trains_has_both_phases_and_vanilla_has_none(first: tuple[Path, Any]) -> None:
    folder, done = first
    assert done.returncode == 0, done.stderr
    run = folder / f"{RUN}/lisa/default/seed0"
    phase, record = read(run, "continued/run.json"), read(run, "run.json")
    assert (phase["status"], record["status"]) == ("ok", "ok")
    assert (phase["data"]["name"], record["data"]["name"]) == ("corpus/world.txt.gz", "world")
    assert (phase["steps"], record["steps"]) == (6, 8)
    assert phase["data"]["train_tokens"] == 6 * 4 * 64
    losses = [row["loss"] for row in lines(run / "continued/log.jsonl") if "loss" in row]
    assert len(losses) == 6
    assert not (folder / f"{RUN}/vanilla/default/seed0/continued").exists()
    assert read(folder, f"{RUN}/vanilla/default/seed0/run.json")["continual_pretraining"] is None


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded = load_model(folder, precision="fp32", attention="sdpa", device=torch.device("cpu"), training=False)
    return loaded.state_dict()


def test_the_fine_tuning_starts_from_the_pretrained_checkpoint_with_a_fresh_method(first: tuple[Path, Any]) -> None:
    folder, _ = first
    run = folder / f"{RUN}/lisa/default/seed0"
    record = read(run, "run.json")
    assert record["continual_pretraining"]["checkpoint_sha256"] == sha256_folder(run / "continued/model")
    base, middle, end = (weights(path) for path in (base_model(folder), run / "continued/model", run / "model"))
    key = "model.embed_tokens.weight"  # LISA trains it always
    assert not torch.equal(base[key], middle[key]) and not torch.equal(middle[key], end[key])
    assert record["model"]["sha256"] == sha256_folder(base_model(folder))
    rates = [row["learning_rate"] for row in lines(run / "log.jsonl") if "loss" in row]
    assert len(rates) == 8 and rates[0] == max(rates)  # a schedule of its own


def base_model(folder: Path) -> Path:
    (manifest,) = (folder / "prepared/models").glob("tiny-*/manifest.json")
    return Path(json.loads(manifest.read_text())["folder"])


def test_a_divergence_on_the_text_skips_the_fine_tuning_and_is_a_row(first: tuple[Path, Any]) -> None:
    folder, _ = first
    run = folder / f"{RUN}/full/hot/seed0"
    record = read(run, "run.json")
    assert read(run, "continued/run.json")["status"] == "diverged"
    assert (record["status"], record["phase"], record["steps"]) == ("diverged", "continual_pretraining", None)
    assert record["error"].startswith("nothing to fine-tune: ended as diverged (train: Diverged: loss ")
    for checkpoint in (run / "continued/model", run / "model"):
        assert [file.name for file in checkpoint.iterdir() if not file.name.startswith(".")] == []
    assert "diverged" in read(run, "scores.json")["reason"]
    table = (folder / "results/mini/tables/methods.md").read_text()
    assert "full hot: diverged; seed 0: continual_pretraining: nothing to fine-tune" in table


def test_tables_and_page_say_what_the_rows_were_pretrained_on(first: tuple[Path, Any]) -> None:
    folder, _ = first
    for name in ("methods", "comparison", "continual_pretraining"):
        text = (folder / f"results/mini/tables/{name}.md").read_text()
        assert "first trained on corpus/world.txt.gz (1,536 tokens)" in text
    assert "Continual pretraining, before the fine-tuning" in (folder / "results/mini/report.html").read_text()
    assert "corpus/world.txt.gz (continual pretraining)" in (folder / "results/mini/tables/overlap.md").read_text()


def planned(folder: Path, **changes: Any) -> dict[str, int]:
    done = snakemake(folder, asked(folder, **changes), "--dry-run")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE)
    return {rule: int(count) for rule, count in found if rule not in ("all", "total")}


def test_a_second_call_does_nothing(first: tuple[Path, Any]) -> None:
    folder, _ = first
    again = snakemake(folder, asked(folder))
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_another_fine_tuning_pretrains_nothing_again(first: tuple[Path, Any]) -> None:
    folder, _ = first
    longer = mini(folder)["training"] | {"steps": 9}
    found = planned(folder, training=longer)
    assert "continue_pretraining" not in found and found["train"] == 3
    found = planned(folder, continual_pretraining=TEXT | {"steps": 7})
    assert found["continue_pretraining"] == 2 and "prepare_data" not in found


def test_a_killed_pretraining_resumes_and_equals_an_uninterrupted_one(first: tuple[Path, Any]) -> None:
    folder, _ = first
    logs, sums = {}, {}
    for name in ("whole", "killed"):
        experiment = resolve(asked(folder, name=name, continual_pretraining=TEXT | {"steps": 40}, methods=["lisa"]))
        run = folder / "results" / name / "tiny/world/lisa/default/seed0"
        run.mkdir(parents=True)
        file = folder / "results" / name / "experiment.json"
        file.write_text(json.dumps(experiment))
        command = [sys.executable, "-m", "workflow.stages.continue_pretraining"]
        command += ["--experiment", str(file), "--run", "tiny/world/lisa/default/seed0"]
        log = run / "continued/log.jsonl"
        if name == "killed":
            kill_after(7, log, command, folder)
            assert not (run / "continued/run.json").exists()
            log.unlink()  # Snakemake removes a job's outputs before it starts the job again
        done = stage(folder, "continue_pretraining", *command[3:])
        assert done.returncode == 0, done.stderr
        logs[name] = [(row["step"], row["loss"]) for row in lines(log) if "loss" in row]
        sums[name] = sha256_folder(run / "continued/model")
    record = read(folder, "results/killed/tiny/world/lisa/default/seed0/continued/run.json")
    assert record["resumed_at_step"] >= 6
    assert logs["killed"] == logs["whole"] and sums["killed"] == sums["whole"]


def kill_after(steps: int, log: Path, command: list[str], folder: Path) -> None:
    """Run the command and kill it once its log has so many lines."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) > steps) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_fine_tuning_alone_is_told_to_pretrain_first(first: tuple[Path, Any]) -> None:
    folder, _ = first
    file = folder / "results/alone/experiment.json"
    file.parent.mkdir()
    file.write_text(json.dumps(resolve(asked(folder, name="alone"))))
    done = stage(folder, "train", "--experiment", str(file), "--run", "tiny/world/lisa/default/seed0")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "continued/run.json does not exist: run `python -m workflow.stages.continue_pretraining`" in done.stderr
