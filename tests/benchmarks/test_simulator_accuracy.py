"""The benchmark of the simulator's accuracy at a tiny size: the yardstick on planted tensors, both sides, the bound."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import simulator_accuracy
from benchmarks._accuracy_allocator import AllocatorTrace, Cell, run
from benchmarks._accuracy_workspaces import workspaces
from benchmarks.simulator_accuracy import ERROR_BOUND_PERCENT, Comparison, accuracy, compare, main_cells
from workflow.engine.live_storage import LiveStorage
from workflow.engine.simulator import simulate

MIB = 2**18  # float32 values in 1 MiB


# --- the yardstick


def test_the_trace_adds_up_over_stretches_and_knows_the_operator_of_the_peak():
    trace, kept = AllocatorTrace(), []
    with trace.stretch("first"):
        kept.append(torch.zeros(3 * MIB))
    with trace.stretch("second"):
        kept.append(torch.ones(MIB).neg())  # two of them alive for a moment
    assert (trace.held_bytes, trace.peak_bytes) == (4 * 2**20, 5 * 2**20)
    assert (trace.peak_stretch, trace.peak_operator) == ("second", "aten::neg")
    with trace.stretch("third"):
        kept.clear()
    assert (trace.held_bytes, trace.peak_stretch) == (0, "second")


def test_the_trace_sees_what_the_simulators_ledger_cannot():
    """Were the two one meter, they would agree on anything."""
    matrix = torch.randn(256, 512)
    trace, ledger = AllocatorTrace(), LiveStorage("cpu")
    with trace.stretch("one"):
        torch.linalg.svd(matrix, full_matrices=False)
    with ledger:
        torch.linalg.svd(matrix, full_matrices=False)
    assert trace.peak_bytes > ledger.peak_bytes - matrix.nbytes


def test_a_workspace_is_what_rises_inside_an_operator_and_is_not_returned():
    matrix = torch.randn(256, 512)
    found, peak_bytes = workspaces(lambda: (torch.linalg.svd(matrix, full_matrices=False), matrix.neg()))
    by_name = {workspace.operator: workspace for workspace in found}
    svd = by_name["aten._linalg_svd.default"]
    assert matrix.nbytes <= svd.hidden_bytes <= 8 * matrix.nbytes  # LAPACK overwrites a copy of its input
    assert "aten.neg.default" not in by_name
    assert found[0] == svd and svd.top_bytes <= peak_bytes


def test_every_draw_is_in_the_real_run_and_all_is_released():
    answer = run(Cell("tiny", "lisa", {"sequence_length": 32}))
    assert answer["steps"] >= 4  # of four layers two at a time, two steps a period
    assert answer["left_bytes"] <= 1024


# --- both sides


def test_the_simulated_peak_is_the_allocators():
    cell = Cell("tiny", "lisa", {"precision": "bf16", "sequence_length": 64})
    assert abs(compare(cell, threads=1).error_percent) <= ERROR_BOUND_PERCENT


@pytest.mark.parametrize(
    ("method", "hyperparameters"),
    [("lisa", {"sampler": "independent"}), ("badam", {"include_embedding": True, "include_lm_head": True})],
    ids=["as-many-units-as-fall", "units-of-two-sizes"],
)
def test_draws_of_different_size_are_simulated_at_their_largest(method, hyperparameters):
    cell = Cell("tiny", method, {"sequence_length": 128}, hyperparameters)
    simulation = simulate(cell.config(), method, hyperparameters, cell.conditions())
    assert simulation.peak_bytes == pytest.approx(run(cell)["peak_bytes"], rel=ERROR_BOUND_PERCENT / 100)


def test_a_real_run_holds_what_its_settings_say():
    """The yardstick itself moves with them: weights alone are twice as large in fp32."""
    peaks = [
        run(Cell("tiny", "full", {"precision": precision, "sequence_length": 8})) for precision in ("bf16", "fp32")
    ]
    assert 1.9 < peaks[1]["peak_bytes"] / peaks[0]["peak_bytes"] < 2.1


def test_the_cells_are_all_methods_precisions_and_both_kinds_of_checkpointing():
    cells = main_cells(["20m", "100m"], ["full", "lisa"], 256)
    assert len(cells) == len({json.dumps([c.size, c.method, c.changes]) for c in cells}) == 2 * 2 * 2 * 2


# --- the bound


def planted(monkeypatch: pytest.MonkeyPatch, simulated_bytes: int) -> None:
    """Comparisons with a simulation of so many bytes against a real run of 1000."""

    def compared(cell: Cell, _threads: int) -> Comparison:
        simulated = {"peak_bytes": simulated_bytes, "operator": "aten.b.default"}
        return Comparison(cell, {"peak_bytes": 1000, "peak_operator": "aten::a"}, simulated)

    monkeypatch.setattr(simulator_accuracy, "compare", compared)


@pytest.mark.parametrize(
    ("simulated_bytes", "verdict"), [(1004, "met"), (996, "met"), (1006, "missed"), (994, "missed")]
)
def test_too_much_and_too_little_are_both_errors(monkeypatch, simulated_bytes, verdict):
    planted(monkeypatch, simulated_bytes)
    results, numbers = accuracy("accuracy", main_cells(["tiny"], ["full"], 8), 1, "title")
    assert results.bounds[0].verdict == verdict
    assert len(numbers["accuracy"]) == 4


@pytest.mark.parametrize(("simulated_bytes", "status"), [(1000, None), (1100, 1)])
def test_a_cell_over_the_bound_ends_the_command_with_1_and_is_written_all_the_same(
    monkeypatch, tmp_path, capsys, simulated_bytes, status
):
    planted(monkeypatch, simulated_bytes)
    found = command(monkeypatch, "--parts", "accuracy", "--sizes", "tiny", "--json", str(tmp_path / "found.json"))
    assert found == status
    record = json.loads((tmp_path / "found.json").read_text())
    assert {"date", "device", "threads", "torch_build", "code_sha256"} <= set(record["environment"])
    assert record["bounds"][0]["verdict"] == ("met" if status is None else "missed")
    assert "| tiny" in capsys.readouterr().out and "| tiny" in (tmp_path / "found.md").read_text()


def test_only_whole_runs_write_to_the_reference_results(monkeypatch, capsys):
    planted(monkeypatch, 1000)
    reference = Path(simulator_accuracy.ROOT / "results/reference/cpu/simulator_accuracy.json")
    before = reference.read_bytes() if reference.exists() else None
    assert command(monkeypatch, "--parts", "accuracy") is None
    assert (reference.read_bytes() if reference.exists() else None) == before
    assert "Written" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "vanilla"], "invalid choice: 'vanilla'"),
        (["--sizes", "7b"], "invalid choice: '7b'"),
        (["--tokens", "1"], "--tokens 1: legal: 2 to 4096"),
    ],
)
def test_a_wrong_command_line_is_one_line_before_any_work(monkeypatch, capsys, arguments, message):
    assert command(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The exit status of the command in this process; None where it just returns."""
    monkeypatch.setattr(sys, "argv", ["simulator_accuracy.py", *arguments])
    threads = torch.get_num_threads()
    try:
        simulator_accuracy.main()
    except SystemExit as end:
        return end.code
    finally:
        torch.set_num_threads(threads)
    return None
