"""Faults: each ends with one clear line, a non-zero code and every finished result kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import baselines
from tests.pipeline.mini import ROOT, mini, stage
from workflow.experiment import resolve
from workflow.places import benchmarks_folder, data_folder
from workflow.stages import prepare_benchmarks, prepare_data, prepare_model, train

PATH = "tiny/world/lisa/default/seed0"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and model of the mini experiment."""
    folder = tmp_path_factory.mktemp("faults")
    experiment = resolve(mini(folder / "prepared"))
    prepare_data.prepare(experiment, data_folder(experiment))
    prepare_benchmarks.prepare(experiment, benchmarks_folder(experiment))
    prepare_model.prepare(experiment, "tiny")
    return folder


def document(folder: Path, **changes: Any) -> Path:
    """experiment.json of the mini experiment with these changes, in a results folder of its own."""
    experiment = resolve(mini(folder / "prepared", **changes))
    file = folder / "results" / experiment["name"] / "experiment.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(experiment))
    return file


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error line of a stage that failed as it should."""
    assert done.returncode != 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_killed_training_resumes_and_equals_an_uninterrupted_one(prepared: Path) -> None:
    logs = {}
    for name in ("whole", "killed"):
        file = document(prepared, name=name, training=mini(prepared)["training"] | {"steps": 40})
        log = prepared / "results" / name / PATH / "log.jsonl"
        command = [sys.executable, "-m", "workflow.stages.train", "--experiment", str(file), "--run", PATH]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=prepared, env=environment, stderr=subprocess.PIPE, text=True)
        if name == "killed":
            deadline = time.monotonic() + 120
            while not (log.exists() and len(log.read_text().splitlines()) > 7) and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (log.parent / "run.json").exists()
            log.unlink()  # Snakemake removes a job's outputs before it starts the job again
            process = subprocess.Popen(command, cwd=prepared, env=environment, stderr=subprocess.PIPE, text=True)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        logs[name] = [
            {key: row.get(key) for key in ("step", "loss")} for row in map(json.loads, log.read_text().splitlines())
        ]
    record = json.loads((prepared / "results" / "killed" / PATH / "run.json").read_text())
    assert record["resumed_at_step"] >= 6
    assert logs["killed"] == logs["whole"]


def test_training_again_removes_what_the_former_training_led_to(prepared: Path) -> None:
    file = document(prepared, name="again")
    run = prepared / "results/again" / PATH
    (run / "model").mkdir(parents=True)
    for name in train.RESULTS_OF_TRAINING:
        (run / name).write_text("{}")
    done = stage(prepared, "train", "--experiment", str(file), "--run", PATH)
    assert done.returncode == 0, done.stderr
    assert not [name for name in train.RESULTS_OF_TRAINING if (run / name).exists()]
    assert not [path for path in run.iterdir() if path.is_dir() and path.name != "model"]  # no checkpoint stays


def test_a_checkpoint_of_other_settings_is_not_resumed(prepared: Path) -> None:
    file = document(prepared, name="changed")
    run = prepared / "results/changed" / PATH
    (run / "checkpoint").mkdir(parents=True)
    (run / "checkpoint.settings.json").write_text("{}")
    done = stage(prepared, "train", "--experiment", str(file), "--run", PATH)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "run.json").read_text())["resumed_at_step"] is None


def test_a_full_disk_is_one_line_and_keeps_finished_results(prepared: Path) -> None:
    file = document(prepared, name="full-disk")
    run = prepared / "results/full-disk" / PATH
    run.mkdir(parents=True)
    (run / "run.json.partial").symlink_to("/dev/full")  # every write there: no space left on device
    other = run.parents[2] / "vanilla/default/seed0/run.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    done = stage(prepared, "train", "--experiment", str(file), "--run", PATH)
    assert "No space left on device" in one_line(done)
    assert not (run / "run.json").exists()
    assert other.exists()


def test_a_judge_that_is_down_is_one_line_and_keeps_the_answers(prepared: Path) -> None:
    file = document(prepared, name="no-judge", mt_bench={"judge": "openai", "max_new_tokens": 6, "limit": 1})
    run = prepared / "results/no-judge" / PATH
    run.mkdir(parents=True)
    manifest = benchmarks_folder(resolve(mini(prepared / "prepared"))) / "manifest.json"
    assert benchmarks_folder(json.loads(file.read_text())) == manifest.parent  # another judge prepares nothing again
    root = Path(json.loads(manifest.read_text())["root"])
    question = json.loads((root / "mt_bench/question.jsonl").read_text().splitlines()[0])
    answer = {"question_id": question["question_id"], "category": question["category"], "turns": ["a", "b"]}
    (run / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    judge = {"JUDGE_BASE_URL": "http://127.0.0.1:9/v1", "JUDGE_MODEL": "gpt-4", "JUDGE_API_KEY": "sk-planted-secret"}
    done = stage(prepared, "judge", "--experiment", str(file), "--run", PATH, **judge)
    line = one_line(done)
    assert "127.0.0.1:9" in line
    assert "sk-planted-secret" not in done.stderr
    assert (run / "answers.jsonl").exists()


def test_an_unprepared_run_says_what_to_do(tmp_path: Path) -> None:
    file = document(tmp_path)
    assert "prepare first" in one_line(stage(tmp_path, "train", "--experiment", str(file), "--run", PATH))


def test_an_unknown_run_lists_the_known_ones(prepared: Path) -> None:
    file = document(prepared)
    line = one_line(stage(prepared, "train", "--experiment", str(file), "--run", "tiny/world/lisb/default/seed0"))
    assert PATH in line


def test_out_of_memory_is_a_result_with_its_phase(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(baselines.method_class("lisa"), "optimizer", no_memory)
    experiment = json.loads(document(prepared, name="oom").read_text())
    folder = prepared / "results/oom" / PATH
    train.train_run(experiment, next(run for run in experiment["runs"] if run["path"] == PATH), folder)
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["phase"]) == ("oom", "train")
    assert "2.00 GiB" in record["error"]
    assert not any((folder / "model").iterdir())


def test_an_unexpected_error_keeps_its_traceback_and_leaves_a_failure_record(prepared: Path) -> None:
    broken = [{"method": "lora", "variant": "x", "hyperparameters": {"target_modules": ["input_layernorm"]}}]
    file = document(prepared, name="broken", methods=broken)
    done = stage(prepared, "train", "--experiment", str(file), "--run", "tiny/world/lora/x/seed0")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    failure = json.loads((prepared / "results/broken/tiny/world/lora/x/seed0/failure.json").read_text())
    assert failure["status"] == "failed"
    assert "LlamaRMSNorm" in failure["error"]
