"""Tracking shows what the loop writes to log.jsonl, in TensorBoard's files here, and moves nothing that is measured.

Weights & Biases is tested in processes of their own (tests/pipeline/test_tracking.py): it keeps its settings for good.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import accelerator
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.engine.small_loop import STEPS, assert_same_weights, kill_at_step, losses, make_loop
from workflow.engine import training
from workflow.engine.errors import InputError
from workflow.engine.tracking import STEP_METRICS, Tracking, check_installed, check_login, final_metrics, flat

ABOUT = {"method": {"name": "lisa", "hyperparameters": {"gamma": 2, "layers": [1, 3], "seed": None}}, "seed": 0}
RECORD = {
    "status": "ok",
    "validation_loss": 1.5,
    "time": {"train_s": 9.0, "step_median_s": 0.4, "warmup_steps": 2},
    "throughput": {"tokens_per_s": 50.0},
    "memory": {
        "allocated_peak_bytes": 700,
        "reserved_peak_bytes": None,
        "process_peak_bytes": 900,
        "meter": "cpu-live-storage",
        "phases": {"train": 700},
        "components": {"weights": 400, "other": 300},
    },
}


def tracking(folder: Path, kind: type[Tracking] = Tracking) -> Tracking:
    return kind(["tensorboard"], folder, experiment="small", run="a/b", about=ABOUT)


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a run: each metric by step. A step that it would show twice fails."""
    events = EventAccumulator(str(folder / "tracking/tensorboard/lisa-bench"))
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert len(dict(points)) == len(points), f"{name}: a step stands twice"
        found[name] = dict(points)
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["full", "lisa"])
def test_training_is_the_same_with_and_without_tracking(tmp_path: Path, method: str) -> None:
    results, peaks = [], []
    for name, tracked in (("off", None), ("on", tracking(tmp_path / "on"))):
        loop = make_loop(tmp_path / name, method, evaluate_every_steps=5, tracking=tracked)
        results.append(loop.run())
        peaks.append(loop.meter.record() | {"process_peak_bytes": None})  # the resident set, all libraries included
    assert losses(tmp_path / "on") == losses(tmp_path / "off")
    assert results[0].validation_loss == results[1].validation_loss
    assert_same_weights(*results)
    assert peaks[0] == peaks[1]


def test_every_line_of_the_log_is_shown_but_the_time_of_steps_that_tracing_slowed(tmp_path: Path) -> None:
    make_loop(tmp_path, evaluate_every_steps=5, tracking=tracking(tmp_path)).run()
    found, log = shown(tmp_path), rows(tmp_path)
    for key, name in STEP_METRICS.items():
        wanted = {row["step"]: row[key] for row in log if key in row and not (key == "step_s" and row["metered"])}
        assert found.pop(name) == pytest.approx(wanted), name
    assert found == {}


def test_the_end_shows_peaks_of_memory_speed_and_how_the_run_ended(tmp_path: Path) -> None:
    made = tracking(tmp_path)
    make_loop(tmp_path, tracking=made).run()
    made.finish(RECORD)
    found = shown(tmp_path)
    final = final_metrics(RECORD)
    assert {name: found[name] for name in final if name != "status"} == {
        name: {STEPS - 1: pytest.approx(value)} for name, value in final.items() if name != "status"
    }
    assert final["memory/allocated_peak_bytes"] == 700 and final["memory_components/other_bytes"] == 300
    assert not [name for name, value in final.items() if value is None or name.endswith("meter")]


def test_a_resumed_run_goes_on_where_it_was_shown_and_no_step_stands_twice(tmp_path: Path) -> None:
    kill_at_step(make_loop(tmp_path, checkpoint_every_steps=7, tracking=tracking(tmp_path)), 16)
    files = set(tmp_path.glob("tracking/tensorboard/**/*tfevents*"))
    run_id = (tmp_path / "tracking/run_id").read_text()
    make_loop(tmp_path, checkpoint_every_steps=7, tracking=tracking(tmp_path)).run()
    assert list(shown(tmp_path)["train/loss_nats"].values()) == pytest.approx(losses(tmp_path))
    assert (tmp_path / "tracking/run_id").read_text() == run_id
    assert not files & set(tmp_path.glob("tracking/tensorboard/**/*tfevents*"))  # a killed process leaves parts


@pytest.mark.parametrize("again", [True, False])
def test_a_training_from_the_start_leaves_nothing_of_the_former_one(tmp_path: Path, again: bool) -> None:
    make_loop(tmp_path, tracking=tracking(tmp_path)).run()
    run_id = (tmp_path / "tracking/run_id").read_text()
    make_loop(tmp_path, steps=4, tracking=tracking(tmp_path) if again else None).run()
    if again:
        assert len(shown(tmp_path)["train/loss_nats"]) == 4
        assert (tmp_path / "tracking/run_id").read_text() != run_id  # wandb would go on in the other training's run
    else:
        assert not (tmp_path / "tracking").exists()


def test_without_tracking_there_is_no_tracker(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run()
    assert loop.accelerator.log_with == loop.accelerator.trackers == []
    assert not (tmp_path / "tracking").exists()


def test_what_trackers_take_is_no_time_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = [0.0]
    clock = time.perf_counter
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock() + spent[0])

    class Slow(Tracking):
        def log(self, row: Any) -> None:
            spent[0] += 1000

    result = make_loop(tmp_path, tracking=tracking(tmp_path, Slow)).run()
    assert spent[0] == 1000 * STEPS
    assert result.train_s < 1000
    assert max(row["step_s"] for row in rows(tmp_path)) < 1000


class Server(GeneralTracker):
    """In place of accelerate's tracker of wandb: its server has the first 3 steps of the run, and takes none twice."""

    name, requires_logging_directory, tracker = "wandb", False, SimpleNamespace(step=3)

    def __init__(self, project: str, **arguments: Any) -> None:
        super().__init__()
        self.arguments, self.taken = arguments, []

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.taken.append((step, *values))


def test_wandbs_server_is_told_what_it_does_not_have_and_always_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(accelerator.LOGGER_TYPE_TO_CLASS, "wandb", Server)
    made = Tracking(["wandb"], tmp_path, experiment="small", run="a/b", about=ABOUT)
    loop = make_loop(tmp_path / "loop", tracking=made)
    made.start(loop.accelerator, [{"step": step, "loss": 1.0} for step in range(2)])
    made.finish(RECORD)
    (server,) = loop.accelerator.trackers
    assert server.taken == [(3, *final_metrics(RECORD))]  # killed after its last step, it lacked the end alone
    server.taken.clear()
    for step in (2, 3, 4):
        made.log({"step": step, "loss": 1.0})
    assert server.taken == [(3, "train/loss_nats"), (4, "train/loss_nats")]
    about = {"name": "a/b", "group": "small", "resume": "allow", "id": (tmp_path / "tracking/run_id").read_text()}
    assert about.items() <= server.arguments.items()


def test_settings_are_shown_flat() -> None:
    assert flat(ABOUT) == {
        "method.name": "lisa",
        "method.hyperparameters.gamma": 2,
        "method.hyperparameters.layers": "1, 3",
        "seed": 0,
    }


def test_a_package_that_is_not_there_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    check_installed(["tensorboard", "wandb"])

    def without_wandb(name: str) -> str:
        if name == "wandb":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_wandb)
    check_installed(["tensorboard"])
    with pytest.raises(InputError, match=r"'wandb' needs the package wandb.*pip install 'lisa-bench\[tracking\]'"):
        check_installed(["tensorboard", "wandb"])


def test_who_does_not_ask_for_wandb_needs_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    check_login(["tensorboard"])
    check_login([])
