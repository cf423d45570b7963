"""What seeds move: gap and deviation of every score over the seeds of a row."""

from __future__ import annotations

import statistics

import pytest

from eval.seeds_table import seeds, seeds_table
from tests.report import fixture_tree
from tests.report.fixture_tree import row_of, rows_of


def test_gap_and_deviation_are_those_of_the_seeds(tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment(seeds=(0, 1, 2)))
    rows = rows_of(plan, tmp_path)
    lines = seeds(rows, plan)
    line = row_of([line for line in lines if line["score"] == "GSM8K"], "full")
    values = [100 * run.benchmarks["gsm8k"]["value"] for run in rows[1].runs]
    assert line["gap"] == pytest.approx(max(values) - min(values))
    assert line["seed_deviation"] == pytest.approx(statistics.stdev(values)) and line["seeds"] == "0 1 2"
    scores = {line["score"] for line in lines}
    assert scores == {"Validation loss", "MMLU", "AGIEval", "WinoGrande", "GSM8K", "MT-Bench"}
    assert not [line for line in lines if (line["method"], line["score"]) == ("vanilla", "Validation loss")]
    assert len(seeds_table(lines, plan).body) == len(lines)


def test_what_is_held_fixed_is_said(tmp_path):
    plan = fixture_tree.write_tree(tmp_path)
    notes = seeds_table(seeds(rows_of(plan, tmp_path), plan), plan).notes
    assert "order of the data, initialisation, draws (layers, projections, dropout), sampled answers." in notes[0]
    plan["training"]["fixed_seeds"] = {"data_order": 0, "initialisation": 7}
    table = seeds_table(seeds(rows_of(plan, tmp_path), plan), plan)
    assert "in their seed only: draws (layers, projections, dropout), sampled answers." in table.notes[0]
    held = (
        "Seeds move the draws (layers, projections, dropout) and sampled answers only, with the order of the data held"
    )
    assert any(note.startswith(held) for note in table.conditions)


def test_one_seed_moves_nothing(tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment(seeds=(0,)))
    assert seeds(rows_of(plan, tmp_path), plan) == []
