"""The benchmark of LISA's limits at tiny sizes: arithmetic, the floor against the meter, files. Nothing timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import lisa_limits
from benchmarks._limits_correctness import correctness
from benchmarks._limits_floor import Saved, floor, saved_activations
from benchmarks._limits_memory import PERIOD_STEPS, Cell, chunked_loss, memory, peak_and_floor
from benchmarks._limits_model import Setup, ToggleOnly, build, moment_bytes, own_loss, start, state_bytes, token_ids
from benchmarks._limits_report import Bound, Results, Table, chart_of, spread, summary
from benchmarks._limits_speed import StepTimes, switch_parts, take_turns
from benchmarks._limits_state import LARGE, Sizes, largest_draw, state, state_formula
from lisa import LISA

ROOT = Path(__file__).parents[2]
TINY = Setup("tiny", torch.device("cpu"), "fp32", batch_size=1, tokens=16)


# --- the floor


class Toy(nn.Module):
    """An embedding, three square matrices, a head: what each saves for backward is known by heart."""

    WIDTH, TOKENS, WORDS = 8, 5, 3

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.WORDS, self.WIDTH)
        self.layers = nn.ModuleList(nn.Linear(self.WIDTH, self.WIDTH, bias=False) for _ in range(3))
        self.head = nn.Linear(self.WIDTH, self.WORDS, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


HIDDEN = 4 * Toy.TOKENS * Toy.WIDTH  # bytes of one layer's input
LOGITS = 4 * Toy.TOKENS * Toy.WORDS
MATRIX = 4 * Toy.WIDTH * Toy.WIDTH
OUTER = 4 * Toy.WIDTH * Toy.WORDS  # embedding or head


def toy(active: int) -> tuple[nn.Module, Saved]:
    """The toy with one layer that trains, and what it saves."""
    model = Toy()
    for index, layer in enumerate(model.layers):
        layer.requires_grad_(index == active)
    ids = torch.arange(Toy.TOKENS) % Toy.WORDS
    return model, saved_activations(model, ids, lambda model, ids: model(ids).exp().sum())


@pytest.mark.parametrize("active", range(3))
def test_saved_activations_are_those_that_weight_gradients_need(active):
    _, saved = toy(active)
    layers = [HIDDEN if index == active else 0 for index in range(3)]  # a frozen matrix does not save its input
    assert saved.segments == [0, *layers, HIDDEN + LOGITS]  # the head's input, and exp's output
    assert saved.layer_inputs == [HIDDEN] * 3


def test_the_floor_of_a_toy_is_what_one_adds_up_by_hand():
    model, saved = toy(active=1)
    found = floor(model, saved)
    assert found.weights == 2 * OUTER + 3 * MATRIX
    assert found.moments == 2 * (2 * OUTER + MATRIX) + 3 * 4
    entering_head, after_head, after_layer, at_the_step = (
        2 * HIDDEN + LOGITS,
        HIDDEN + OUTER,
        OUTER + MATRIX,
        2 * OUTER + MATRIX,
    )
    assert found.activations + found.gradients == max(entering_head, after_head, after_layer, at_the_step)
    assert found.where == "optimizer step"


def test_where_activations_are_large_the_floor_is_before_backward():
    model, saved = toy(active=1)
    larger = Saved([bytes_ * 10 for bytes_ in saved.segments], saved.layer_inputs)
    found = floor(model, larger)
    assert (found.where, found.activations, found.gradients) == ("head", 10 * (2 * HIDDEN + LOGITS), 0)


def test_with_checkpointing_the_floor_is_layer_inputs_and_one_layer():
    model, _ = toy(active=1)
    saved = Saved([0, 1000, 7000, 3000, 100], layer_inputs=[400, 500, 600])
    found = floor(model, saved, checkpointing=True)
    assert found.where == "layer 1"
    assert found.activations == 400 + 7000
    assert found.gradients == OUTER  # the head's


def test_with_the_step_in_backward_the_floor_has_one_gradient():
    model, _ = toy(active=1)
    saved = Saved([0, 1000, 7000, 3000, 10], layer_inputs=[400, 500, 600])
    found = floor(model, saved, step_in_backward=True)
    assert found.where == "head"
    assert (found.activations, found.gradients) == (11_000, OUTER)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("chunked", [False, True], ids=["own-loss", "chunked"])
def test_the_meter_is_never_below_the_floor(chunked, checkpointing):
    run = start(TINY, LISA, PERIOD_STEPS)
    for tokens in (8, 64, 256):
        peak, least = peak_and_floor(run, TINY, Cell(tokens, chunked, checkpointing, stepping=False))
        assert least.total <= peak < 1.25 * least.total


def test_every_setting_is_near_its_floor():
    results = memory(TINY)
    ratios = {tuple(row[1:4]): row[6] for row in results.tables[0].rows}
    assert len(ratios) == 8
    assert all(1 <= ratio < 1.05 for ratio in ratios.values())
    chunked, own, *of_a_gpu = results.bounds
    for bound, loss in ((chunked, "chunked"), (own, "own")):
        assert bound.measured == max(ratio for settings, ratio in ratios.items() if settings[0] == loss)
    assert [bound.verdict for bound in of_a_gpu] == ["not measured"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick"], "--out FOLDER is needed"),
        (["--sections", "speed"], "--out FOLDER is needed"),
        (["--tokens", "0"], "--tokens 0: a row needs 2"),
        (["--device", "tpu"], "--device tpu: cpu, cuda, or cuda:<number>"),
        (["--shape", "nope"], "invalid choice: 'nope'"),
    ],
)
def test_a_wrong_command_line_is_one_line_before_any_work(monkeypatch, capsys, arguments, message):
    """Above all, results/reference/ keeps what a whole run wrote."""
    monkeypatch.setattr(sys, "argv", ["lisa_limits.py", *arguments])
    with pytest.raises(SystemExit):
        lisa_limits.parse()
    assert message in capsys.readouterr().err


def test_the_chunked_loss_is_the_models_own():
    model, ids = build(TINY), token_ids(TINY)
    assert chunked_loss(model, ids).item() == pytest.approx(own_loss(model, ids).item(), rel=1e-6)


# --- state


def test_drop_is_flat_and_toggling_grows_like_keep():
    results = state(TINY, Sizes(growth_periods=6, always_on_periods=2))
    drop, reset, keep, toggle = (results.series[name] for name in ("drop", "reset", "keep", "toggle-only"))
    assert set(drop) == set(reset) == {drop[0]}
    assert toggle == keep
    assert keep[-1] > 1.2 * keep[0]
    assert [bound.verdict for bound in results.bounds] == ["met", "met"]
    assert all(row[2] == 0 for row in results.tables[1].rows), "state should follow the formula, in 8 bits too"


def test_toggling_draws_what_lisa_draws():
    runs = [start(TINY, method, PERIOD_STEPS) for method in (LISA, ToggleOnly)]
    for _ in range(4 * PERIOD_STEPS):
        for run in runs:
            run.step(token_ids(TINY))
        active = [[p.requires_grad for p in run.model.parameters()] for run in runs]
        assert runs[0].method.active == runs[1].method.active
        assert active[0] == active[1]
    assert state_bytes(runs[1].optimizer) > state_bytes(runs[0].optimizer)


def test_llama_3_formulas_are_those_of_its_published_shape():
    model = build(LARGE)
    width, inner, vocabulary, key_value = 4096, 14336, 128256, 1024
    layer = 2 * width * width + 2 * width * key_value + 3 * width * inner + 2 * width
    assert sum(p.numel() for p in model.parameters()) == 32 * layer + 2 * vocabulary * width + width
    everything = largest_draw(model, {})
    numbers = 2 * vocabulary * width + width + 2 * layer
    assert sum(p.numel() for p in everything) == numbers
    assert moment_bytes(everything) == 4 * numbers + 4 * (3 + 2 * 9)
    assert state_formula(model, everything, bits=32) == moment_bytes(everything)
    few = 2 * 2 * vocabulary * width * (1 + 4 / 256)  # both moments of both matrices
    assert state_formula(model, everything, bits=8) == few + 4 * (width + 2 * layer) + 4 * (3 + 2 * 9)
    drawn = largest_draw(model, {"embeddings": "drawn", "head": "drawn"})
    assert sum(p.numel() for p in drawn) == 2 * vocabulary * width + width  # they are larger than any layer


# --- speed's arithmetic


def test_a_switch_is_before_step_and_the_first_steps_excess():
    ordinary = StepTimes(0.0, 1.5, 0.5)
    period = [StepTimes(0.2, 1.9, 0.6), ordinary, ordinary, StepTimes(0.0, 9.0, 1.0)]
    assert switch_parts(period) == pytest.approx((0.1, 0.25))


def test_runs_take_turns_and_whoever_begins_alternates():
    began = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self, ids: Tensor) -> str:
            began.append(self.name)
            return self.name

    pairs = take_turns(Recorder("a"), Recorder("b"), token_ids(TINY), rounds=4)
    assert began == list("abbaabba")
    assert pairs == [("a", "b")] * 4
    take_turns(Recorder("a"), Recorder("b"), token_ids(TINY), rounds=1, turn=1)
    assert began[-2:] == ["b", "a"]


@pytest.mark.parametrize("count, low", [(3, 0), (6, 0), (8, 0), (9, 1), (20, 5)])
def test_the_interval_of_a_median_is_the_sign_tests(count, low):
    """Order statistics of the standard tables for a two-sided 95 %; under six samples, all of them."""
    found = spread([float(value) for value in reversed(range(count))])
    assert found.interval == (low, count - 1 - low)
    assert found.median == (count - 1) / 2
    assert found.over(2).interval == (low / 2, (count - 1 - low) / 2)


# --- the report


def test_verdicts():
    assert Bound("", "<=", 1.02, 1.02).verdict == "met"
    assert Bound("", "<=", 1.02, 1.03).verdict == "missed"
    assert Bound("", ">=", 1.0, 0.99, (0.97, 1.01)).verdict == "undecided"
    assert Bound("", ">=", 1.0, 1.001, (0.99, 1.01)).verdict == "undecided"
    assert Bound("", ">=", 1.0, 1.5, (1.4, 1.6)).verdict == "met"
    assert Bound("", ">=", 1.0, 1.5, judged=False).verdict == "not judged"
    assert Bound("", ">=", 1.0, 0.97, (0.96, 0.99)).verdict == "missed"
    assert Bound("", "==", 0, 0).verdict == "met"
    assert Bound("", "==", 0, None).verdict == "not measured"


def test_a_table_is_aligned_markdown():
    table = Table("T", "where", {"a": "", "b": ".2f"}, [["long name", 1.0], ["x", None], ["y", (0.5, 2)]], "note")
    lines = ["| a         | b            |", "|-----------|--------------|", "| long name | 1.00         |"]
    lines += ["| x         |              |", "| y         | 0.50 to 2.00 |"]
    assert table.markdown() == "\n\n".join(["## T", "where", "\n".join(lines), "note"])


def test_the_chart_has_a_line_for_each_treatment():
    chart = chart_of({"drop": [1.0, 1.0, 1.0], "keep": [1.0, 1.5, 2.0]})
    assert chart.count("<polyline") == 2
    assert ">keep</text>" in chart


def test_correctness_figures_are_exact():
    assert [bound.verdict for bound in correctness().bounds] == ["met"] * 3 + ["not measured"] * 2


def test_a_quick_run_writes_its_tables_record_and_chart(tmp_path):
    command = [sys.executable, "benchmarks/lisa_limits.py", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "lisa_limits.json").read_text())
    tables = (tmp_path / "lisa_limits.md").read_text()
    assert {"date", "device", "threads", "torch_build", "git_commit", "code_sha256"} <= set(record["environment"])
    assert len(record["tables"]) == 7
    for table in record["tables"]:
        assert f"## {table['title']}" in done.stdout
        assert f"## {table['title']}" in tables
    bounds = {bound["what"]: bound for bound in record["bounds"]}
    assert bounds["per-layer compile: graphs per layer kind"]["measured"] == 2
    assert bounds["per-layer compile: recompiles after the first period"]["measured"] == 0
    assert summary([]).title in done.stdout
    assert (tmp_path / "lisa_limits.svg").read_text().startswith("<svg")


def test_sections_can_be_run_alone(tmp_path):
    command = [
        sys.executable,
        "benchmarks/lisa_limits.py",
        "--quick",
        "--out",
        str(tmp_path),
        "--sections",
        "correctness",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["lisa_limits.json", "lisa_limits.md"]


def test_results_of_sections_add_up():
    results = Results(series={"drop": [1.0]})
    results.add(Results(bounds=[Bound("a", "<", 1, 0.5)], series={"keep": [2.0]}))
    assert list(results.series) == ["drop", "keep"]
    assert [bound.what for bound in results.bounds] == ["a"]
