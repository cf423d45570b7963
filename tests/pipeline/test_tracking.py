"""The pipeline with both trackers, asked for by a profile, offline; and the model card beside each checkpoint."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.pipeline.mini import ROOT, mini, snakemake, stage
from tests.pipeline.wandb_file import items, read

RUN = "tiny/world/{}/default/seed0"
METHODS = ("lora", "series_adapter")
KEY = "planted0123456789abcdef0123456789abcdef012"
SMALL = {
    "methods": [*METHODS],
    "evaluation": {"batch_size": 8, "benchmarks": [{"name": "winogrande", "limit": 2}]},
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished experiment that knows nothing of trackers, under a profile that asks for both."""
    folder = tmp_path_factory.mktemp("tracked")
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    (folder / "profile").mkdir()
    profile["config"] = ["tracking=[tensorboard,wandb]"]
    (folder / "profile/config.yaml").write_text(yaml.safe_dump(profile))
    chosen = ("--workflow-profile", str(folder / "profile"))
    environment = {"HOME": str(folder / "home"), "WANDB_MODE": "offline", "WANDB_API_KEY": KEY}
    return folder, snakemake(folder, mini(folder / "prepared", **SMALL), *chosen, **environment)


def log_of(folder: Path) -> dict[int, float]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_wandb_has_the_run_with_its_settings_and_every_loss(tracked: tuple[Path, Any]) -> None:
    folder, done = tracked
    assert done.returncode == 0, done.stderr
    run = folder / "results/mini" / RUN.format("lora")
    (file,) = run.glob("tracking/wandb/offline-run-*/run-*.wandb")
    records = {name: [] for name in ("run", "config", "history", "stats")}
    for record in read(file):
        kind = record.WhichOneof("record_type")
        records.setdefault(kind, []).append(getattr(record, kind))
    (opened,), (config,) = records["run"], records["config"]
    assert (opened.project, opened.run_group) == ("lisa-bench", "mini")
    assert (opened.display_name, opened.run_id) == (RUN.format("lora"), (run / "tracking/run_id").read_text())
    shown = items(config.update)
    assert (shown["method.name"], shown["method.hyperparameters.rank"], shown["settings.steps"]) == ("lora", 128, 8)
    history = [items(line.item) for line in records["history"]]
    losses = {line["_step"]: line["train/loss_nats"] for line in history}
    assert losses == pytest.approx(log_of(run))
    peak = json.loads((run / "run.json").read_text())["memory"]["allocated_peak_bytes"]
    assert (history[-1]["status"], history[-1]["memory/allocated_peak_bytes"]) == ("ok", peak)
    assert records["stats"] == []  # nothing sampled the machine beside what was timed


def test_tensorboard_has_every_loss_and_the_validation_loss(tracked: tuple[Path, Any]) -> None:
    folder, _ = tracked
    run = folder / "results/mini" / RUN.format("lora")
    events = EventAccumulator(str(run / "tracking/tensorboard/lisa-bench"))
    events.Reload()
    assert {event.step: event.value for event in events.Scalars("train/loss_nats")} == pytest.approx(log_of(run))
    (final,) = events.Scalars("validation/loss_nats")
    assert final.value == pytest.approx(json.loads((run / "run.json").read_text())["validation_loss"])


def test_the_losses_are_those_of_a_run_that_nobody_watches(tracked: tuple[Path, Any]) -> None:
    folder, _ = tracked
    watched, alone = folder / "results/mini", folder / "alone"
    alone.mkdir()
    experiment = json.loads((watched / "experiment.json").read_text())
    assert experiment["tracking"] == ["tensorboard", "wandb"]
    (alone / "experiment.json").write_text(json.dumps(experiment | {"tracking": []}))
    run = RUN.format("lora")
    given = ("--experiment", str(alone / "experiment.json"), "--run", run, "--results", str(alone))
    done = stage(folder, "train", *given)
    assert done.returncode == 0, done.stderr
    assert log_of(alone / run) == log_of(watched / run)
    records = [json.loads((results / run / "run.json").read_text()) for results in (watched, alone)]
    assert records[0]["validation_loss"] == records[1]["validation_loss"]
    peaks = [record["memory"] | {"process_peak_bytes": None} for record in records]
    assert peaks[0] == peaks[1]
    assert not (alone / run / "tracking").exists()


def test_switching_tracking_off_makes_nothing_again(tracked: tuple[Path, Any]) -> None:
    folder, _ = tracked
    done = snakemake(folder, mini(folder / "prepared", **SMALL))
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr


def test_the_key_is_in_nothing_that_the_pipeline_leaves(tracked: tuple[Path, Any]) -> None:
    folder, done = tracked
    assert KEY not in done.stdout + done.stderr
    assert [file for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()] == []


def test_wandb_without_a_key_is_one_error_before_the_first_job(tracked: tuple[Path, Any]) -> None:
    folder, _ = tracked
    experiment = mini(folder / "prepared", name="keyless", tracking=["wandb"], **SMALL)
    keyless = {"HOME": str(folder / "nobody"), "WANDB_MODE": "online", "WANDB_API_KEY": ""}
    done = snakemake(folder, experiment, **keyless)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "tracking: wandb: has no key. Legal: a key in WANDB_API_KEY" in output and "WANDB_MODE=offline" in output
    assert not (folder / "results/keyless").exists()


@pytest.mark.parametrize("method", METHODS)
def test_each_checkpoint_has_one_card_with_the_scores_of_its_run(tracked: tuple[Path, Any], method: str) -> None:
    folder, _ = tracked
    run = folder / "results/mini" / RUN.format(method)
    (file,) = (run / "model").rglob("README.md")  # peft's own, of the adapter, is gone
    card = ModelCard.load(file)
    shown = {result.metric_type: result.metric_value for result in card.data.eval_results}
    scores = json.loads((run / "scores.json").read_text())["benchmarks"]["winogrande"]
    assert (shown["acc"], shown["acc_stderr"]) == (scores["value"], scores["stderr"])
    assert shown["mean_rating"] == json.loads((run / "mt_bench.json").read_text())["mean"]
    assert shown["loss"] == json.loads((run / "run.json").read_text())["validation_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_the_cards_own_lines_load_the_checkpoint_and_answer(
    tracked: tuple[Path, Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = tracked
    model = folder / "results/mini" / RUN.format(method) / "model"
    (lines,) = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.DOTALL)
    assert ("trust_remote_code=True" in lines) == (method == "series_adapter")
    monkeypatch.chdir(model)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(lines, "model card", "exec"), {})
    assert printed.getvalue().endswith("\n")
