"""Continual pretraining in the tables: rows that had it say so, with its tokens, and the phase has its own table."""

from __future__ import annotations

import json

import pytest

from eval import present, tables
from eval.collect import dig
from eval.continual_table import continued, continued_table
from eval.text import to_markdown
from eval.versus import versus
from tests.report import fixture_tree
from tests.report.fixture_tree import row_of, rows_of
from workflow.stages.report import report

PHASE = {"dataset": "org/pages", "sequence_length": 32, "batch_size": 4, "accumulation_steps": 2}


def told(seed: int, **changes) -> dict:
    """What a record repeats of the phase."""
    memory = {"phases": {"train": 9_000_000 + seed}}
    result = {"validation_loss": 3.0 + seed, "memory": memory, "time": {"train_s": 10.0 + seed}}
    data = {"name": "org/pages", "revision": "a" * 40, "sha256": "b" * 64, "train_tokens": 12_800}
    return {
        **{"status": "ok", "phase": None, "error": None, "data": data, "learning_rate": 0.5, "steps": 50},
        **result,
        **{"throughput": {"tokens_per_s": 400.0}, "checkpoint_sha256": "c" * 64},
        **changes,
    }


@pytest.fixture
def pretrained(plan, tree):
    """Every run that trains was pretrained; LoRA's seed 1 diverged in it."""
    plan["continual_pretraining"] = PHASE
    for run in plan["runs"]:
        file = tree / run["path"] / "run.json"
        record = json.loads(file.read_text())
        record["settings"]["continual_pretraining"] = PHASE
        if run["method"] != "vanilla":
            record["continual_pretraining"] = told(run["seed"])
        fixture_tree.write(file, record)
    planned = fixture_tree.run_of(plan, "lora", 1)
    error = "nothing to fine-tune: ended as diverged (train: Diverged: loss nan)"
    fixture_tree.write_stopped(tree, planned, "diverged", "continual_pretraining", error)
    file = tree / planned["path"] / "run.json"
    stopped = told(1, status="diverged", phase="train", error="Diverged: loss nan", validation_loss=None)
    record = json.loads(file.read_text()) | {"continual_pretraining": stopped}
    record["settings"]["continual_pretraining"] = PHASE
    fixture_tree.write(file, record)
    return rows_of(plan, tree)


def test_without_it_no_table_mentions_it(plan, tree):
    rows = rows_of(plan, tree)
    assert continued(rows, plan) == []
    line = tables.methods(rows, plan)[0]
    assert not [key for key in line if "continual" in key]
    assert "ontinual pretraining" not in to_markdown(present.methods_table([line], plan))


def test_every_row_of_every_table_says_what_it_was_pretrained_on(plan, pretrained):
    for make in (tables.methods, tables.comparison, tables.memory, tables.speed):
        lines = make(pretrained, plan)
        assert {(line["method"], line["continual_pretraining"]) for line in lines} == {
            (row.first.method, None if row.first.method == "vanilla" else "org/pages") for row in pretrained
        }
        assert row_of(lines, "full")["continual_pretraining_tokens"] == "12800"
    for table in (
        present.methods_table(tables.methods(pretrained, plan), plan),
        present.comparison_table(tables.comparison(pretrained, plan), plan),
    ):
        place = table.header.index("Continual pretraining (tokens)")
        assert {cells[place] for cells in table.body} == {"–", "12,800"}
        assert "first trained on org/pages (12,800 tokens)" in to_markdown(table)


def test_the_phase_has_a_line_a_row_with_means_over_its_seeds(plan, pretrained):
    lines = continued(pretrained, plan)
    assert len(lines) == len(pretrained)
    full = row_of(lines, "full")
    assert (full["text"], full["pretraining_tokens"], full["pretraining_steps"]) == ("org/pages", 12_800, 50)
    assert (full["text_validation_loss"], full["pretraining_peak_memory_bytes"]) == (3.5, 9_000_001)
    assert (full["pretraining_learning_rate"], full["pretraining_train_s"]) == ("0.5", 10.5)
    vanilla = row_of(lines, "vanilla")
    assert {vanilla[key] for key in vanilla if key.startswith(("text", "pretraining"))} == {None}
    text = to_markdown(continued_table(lines, plan))
    assert "packed into sequences of 32 tokens, 8 a step" in text


def test_a_phase_that_diverged_is_a_line_with_its_reason(plan, pretrained):
    lora = row_of(continued(pretrained, plan), "lora")
    assert (lora["pretraining_status"], lora["text_validation_loss"]) == ("ok / diverged", 3.0)
    text = to_markdown(continued_table(continued(pretrained, plan), plan))
    assert "lora r128: Diverged: loss nan." in text and "ok / diverged" in text
    row = next(row for row in pretrained if row.first.method == "lora")
    assert row.status == "ok 1 of 2, diverged 1 of 2"
    assert "continual_pretraining: nothing to fine-tune: ended as diverged" in row.reason
    assert dig(row.runs[1].continued, ("status",)) == "diverged"


def test_the_stage_writes_the_table_and_takes_it_away_with_the_key(plan, tree, pretrained):
    file = tree / "tables/continual_pretraining.csv"
    report(plan, tree)
    assert len(file.read_text().splitlines()) == 1 + len(pretrained)
    page = (tree / "report.html").read_text()
    assert "Continual pretraining, before the fine-tuning" in page
    assert "Before it, every method that trains was trained on org/pages (12,800 tokens)." in page
    del plan["continual_pretraining"]
    report(plan, tree)
    assert not file.exists()


def test_published_cells_beside_pretrained_rows_say_so(plan, pretrained):
    plan["report"]["published"] = ["table2_accuracy"]
    compared = tables.comparison(pretrained, plan)
    table = present.versus_table(versus(pretrained, plan), plan, compared)
    assert "Continual pretraining: every method that trains" in to_markdown(table)
