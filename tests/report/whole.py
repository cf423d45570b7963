"""All that reports make of the made-up trees: every table, and every figure with its panel.

tables, drawn = training(folder)    # [(rows, Table), ...], [(panel, Figure), ...]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.memory_cells import collect
from eval.significance import significance
from eval.text import Table
from tests.report import fixture_tree, memory_tree, tuned_tree
from workflow.report import memory_page, page
from workflow.report.drawing import Figure
from workflow.stages import memory_report, report

Made = tuple[list[tuple[list[dict[str, Any]], Table]], list[tuple[str, Figure]]]


def training(folder: Path) -> Made:
    """Of a tree of two models whose experiment asks for all that it may ask for but tuning, one run out of memory."""
    plan = fixture_tree.experiment(models=2)
    claim = {"claim": "full is better", "source": None, "scores": ["gsm8k"], "pairs": [["full", "lora/r128"]]}
    plan["report"] |= {"published": ["table2_accuracy"], "claims": [claim]}
    fixture_tree.write_tree(folder, plan)
    fixture_tree.write_whole(folder, plan)
    fixture_tree.write_items(folder, plan)
    fixture_tree.write_stopped(folder, fixture_tree.run_of(plan, "galore", 1), "oom", "train", "too large")
    return _of(plan, folder)


def tuned(folder: Path) -> Made:
    """Of a tree whose learning rates were chosen, one trial diverged."""
    return _of(tuned_tree.write_tree(folder), folder)


def _of(plan: dict[str, Any], folder: Path) -> Made:
    rows = fixture_tree.rows_of(plan, folder)
    verdicts = significance(rows, plan)
    tables = [*report.main_tables(plan, rows, verdicts), *report.asked_tables(plan, rows, verdicts, folder)]
    published = next((lines for lines, table in tables if table.name == "published"), [])
    return tables, [
        (panel.title, figure) for panel in page.draw(plan, rows, verdicts, published) for figure in panel.figures
    ]


def memory(folder: Path) -> Made:
    """Of a tree of two models, a published table beside it, some cells measured on two devices."""
    plan = memory_tree.experiment(models=("llama-2-7b", "llama-2-70b"))
    memory_tree.write_tree(folder, plan)
    for cell, device in zip(plan["cells"], (memory_tree.DEVICE, "Imaginary CPU") * 2, strict=False):
        memory_tree.measure(folder, cell, device=device)
    cells = collect(plan, folder, folder / "no-reference")
    tables = memory_report.tables(plan, cells)
    parts = memory_page.sections(plan, cells, tables)
    return list(tables.values()), [("", figure) for part in parts for figure in part.drawn]
