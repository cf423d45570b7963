"""The stage that measures: records of cells that end well, badly or out of memory, and campaigns that go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workflow.engine import measuring
from workflow.engine.errors import InputError
from workflow.engine.records import check_record
from workflow.engine.training_step import TrainingStep
from workflow.memory_experiment import resolve
from workflow.stages import measure
from workflow.stages.measure import campaign, cells_like, measure_cell

FULL, LISA = "tiny/full/default/default", "tiny/lisa/default/default"
SHAPE = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}


def experiment(**changes: Any) -> dict[str, Any]:
    """Two methods on a tiny Llama; every call makes it anew."""
    tiny = {"name": "tiny", "architecture": {**SHAPE, "num_hidden_layers": 3, "max_position_embeddings": 64}}
    return resolve(
        {
            "name": "small",
            "kind": "memory",
            "models": [tiny],
            "methods": ["full", "lisa"],
            "method_settings": {"lisa": {"hyperparameters": {"gamma": 1, "period_steps": 2}}},
            "training": {"precision": "fp32", "sequence_length": 32},
            "measure": {"device": "cpu", "warmup_steps": 1, "timed_steps": 3, "max_steps": 40},
            **changes,
        }
    )


def cell(plan: dict[str, Any], path: str) -> dict[str, Any]:
    return next(cell for cell in plan["cells"] if cell["path"] == path)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def run_out(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")


# --- one cell


def test_a_cell_leaves_a_whole_record_and_a_timeline(tmp_path: Path):
    plan = experiment()
    (tmp_path / "failure.json").write_text("{}")
    measure_cell(plan, cell(plan, LISA), tmp_path)
    record = read(tmp_path / "run.json")
    check_record(record)
    assert (record["status"], record["phase"], record["error"]) == ("ok", None, None)
    assert record["model"] == {"name": "tiny", "revision": None, "sha256": None, "parameters": 39_136}
    assert record["data"]["name"] == "synthetic" and record["data"]["train_tokens"] == 32 * record["steps"]
    assert {**record["settings"], **cell(plan, LISA)["conditions"]} == record["settings"]
    assert record["settings"]["setting"] == "default" and record["settings"]["visited_units"] == 3
    assert record["environment"]["code_sha256"]
    assert len((tmp_path / "timeline.csv").read_text().splitlines()) > 10
    assert not (tmp_path / "failure.json").exists()


def test_out_of_memory_in_a_step_is_a_result_with_its_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step, plan = TrainingStep.__call__, experiment()

    def third_step_fails(self: TrainingStep, index: int, window: Any) -> Any:
        return run_out() if index == 2 else step(self, index, window)

    monkeypatch.setattr(TrainingStep, "__call__", third_step_fails)
    measure_cell(plan, cell(plan, FULL), tmp_path)
    record = read(tmp_path / "run.json")
    check_record(record)
    assert (record["status"], record["phase"]) == ("oom", "train")
    assert record["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert record["memory"]["allocated_peak_bytes"] > record["memory"]["phases"]["load"] > 0
    assert record["steps"] == 2 and record["flops_per_step"] is None
    assert not (tmp_path / "failure.json").exists()


def test_out_of_memory_while_loading_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "random_model", run_out)
    plan = experiment()
    measure_cell(plan, cell(plan, FULL), tmp_path)
    record = read(tmp_path / "run.json")
    check_record(record)
    assert (record["status"], record["phase"]) == ("oom", "load")
    assert (tmp_path / "timeline.csv").read_text() == ""


def test_any_other_error_is_a_failure_and_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def bug(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    plan = experiment()
    measure_cell(plan, cell(plan, FULL), tmp_path)
    monkeypatch.setattr(TrainingStep, "__call__", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        measure_cell(plan, cell(plan, FULL), tmp_path)
    failure = read(tmp_path / "failure.json")
    assert (failure["status"], failure["phase"], failure["error"]) == ("failed", "train", "RuntimeError: a bug")
    assert not (tmp_path / "run.json").exists(), "an older result would be taken for this one"


def test_without_jsonschema_the_record_is_written_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plan = experiment()
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    measure_cell(plan, cell(plan, FULL), tmp_path)
    assert read(tmp_path / "run.json")["status"] == "ok"
    assert "run.json is not checked against its schema" in capsys.readouterr().err


# --- which cells


def test_a_pattern_chooses_cells_and_one_without_any_names_them():
    plan = experiment()
    assert [found["path"] for found in cells_like(plan, "*/lisa/*")] == [LISA]
    assert [found["path"] for found in cells_like(plan, None)] == [FULL, LISA]
    with pytest.raises(InputError, match=rf"--only: no cell of .* matches 'big/\*'. Known: {FULL}, {LISA}"):
        cells_like(plan, "big/*")


def command(tmp_path: Path, plan: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(plan))
    line = [sys.executable, "-m", "workflow.stages.measure", "--experiment", str(file), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path):
    unknown = command(tmp_path, experiment(), "--cell", "tiny/lisa/default/defualt")
    assert unknown.returncode == 1 and unknown.stderr.count("\n") == 1
    assert f"Did you mean '{LISA}'?" in unknown.stderr
    plan = experiment()
    plan["measure"]["max_steps"] = 2
    assert "error: measure.max_steps: 2 is too few" in command(tmp_path, plan).stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_a_campaign_for_a_card_that_is_not_there_ends_before_its_first_cell(tmp_path: Path):
    plan = experiment()
    plan["measure"]["device"] = "cuda"
    with pytest.raises(InputError, match="'cuda' was asked for"):
        campaign(plan, plan["cells"], tmp_path)
    assert not list(tmp_path.iterdir())


# --- campaigns


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells as a campaign measures them, in this process for speed."""
    paths: list[str] = []

    def here(_: Path, plan: dict[str, Any], planned: dict[str, Any], results: Path) -> None:
        paths.append(planned["path"])
        measure_cell(plan, planned, results / planned["path"])

    monkeypatch.setattr(measure, "measure_apart", here)
    monkeypatch.setattr(measure.signal, "signal", lambda *_: None)
    return paths


def test_a_second_campaign_measures_nothing_again(
    tmp_path: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
):
    plan = experiment()
    campaign(plan, plan["cells"], tmp_path)
    assert measured == [FULL, LISA]
    told = capsys.readouterr().out
    assert f"[1/2] {FULL}  ok  peak " in told and "2 cells: 2 ok; " in told
    campaign(experiment(), plan["cells"], tmp_path)
    assert measured == [FULL, LISA] and capsys.readouterr().out.count("measured before") == 2
    campaign(plan, plan["cells"], tmp_path, again=True)
    assert measured == [FULL, LISA] * 2


@pytest.mark.parametrize(
    "change", [{"training": {"precision": "bf16", "sequence_length": 32}}, {"measure": {"device": "cpu", "seed": 1}}]
)
def test_a_change_of_settings_measures_again(tmp_path: Path, measured: list[str], change: dict[str, Any]):
    small = {"measure": {"device": "cpu", "warmup_steps": 1, "timed_steps": 3, "max_steps": 40}}
    for plan in (experiment(methods=["full"], **small), experiment(methods=["full"], **small | change)):
        campaign(plan, plan["cells"], tmp_path)
    assert measured == [FULL, FULL]


def test_a_change_of_the_code_measures_again(tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch):
    plan = experiment(methods=["full"])
    campaign(plan, plan["cells"], tmp_path)
    monkeypatch.setattr("workflow.engine.records.sha256_sources", lambda files: "other")
    campaign(plan, plan["cells"], tmp_path)
    assert measured == [FULL, FULL]


def test_a_killed_campaign_goes_on_where_it_was(tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch):
    plan, here = experiment(), measure.measure_apart

    def killed_at_lisa(document: Path, plan: Any, planned: dict[str, Any], results: Path) -> None:
        if planned["path"] == LISA:
            raise KeyboardInterrupt
        here(document, plan, planned, results)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(measure, "measure_apart", killed_at_lisa)
        campaign(plan, plan["cells"], tmp_path)
    campaign(plan, plan["cells"], tmp_path)
    assert measured == [FULL, LISA]


def test_a_campaign_goes_on_after_cells_that_fail_or_run_out_of_memory(tmp_path: Path):
    """Real processes: the first cell cannot be built, the second ends well."""
    plan = experiment()
    cell(plan, FULL)["shape"]["hidden_size"] = 33  # as if a card's library failed: resolve would refuse it
    done = command(tmp_path, plan, "--results", str(tmp_path / "results"))
    assert done.returncode == 1
    assert f"[1/2] {FULL}  failed (load)  " in done.stdout and f"[2/2] {LISA}  ok  peak " in done.stdout
    assert f"error: 1 of 2 cells failed: {FULL}." in done.stderr and "Traceback" not in done.stderr
    assert read(tmp_path / "results" / FULL / "failure.json")["status"] == "failed"
    assert (tmp_path / "results" / FULL / "measure.log").read_text()
    check_record(read(tmp_path / "results" / LISA / "run.json"))


def test_a_process_that_the_system_kills_leaves_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = experiment(methods=["full"])
    monkeypatch.setattr(measure.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=-9))
    monkeypatch.setattr(measure.signal, "signal", lambda *_: None)
    with pytest.raises(InputError, match="1 of 1 cells failed"):
        campaign(plan, plan["cells"], tmp_path)
    reason = read(tmp_path / FULL / "failure.json")["error"]
    assert reason == "the process ended by SIGKILL; the host's memory may be too small"
