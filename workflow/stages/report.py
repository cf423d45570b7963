"""Compile an experiment: tables/{methods,comparison,memory,speed,...}.{csv,md} and report.html from what its runs left.

Runs out of memory or diverged are results and have their rows. A run that failed or left nothing has its row too, but
the stage then ends with a non-zero code that names it, unless --partial says that this is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError
from workflow.experiment import load
from workflow.stages import parser, results_folder, stage_main

UNFINISHED = ("failed", "missing")


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--partial", action="store_true", help="end well although runs failed or are missing")
    arguments = arguments.parse_args()
    experiment = load(arguments.experiment)
    unfinished = report(experiment, results_folder(experiment, arguments.results))
    if unfinished and not arguments.partial:
        raise InputError(
            f"{len(unfinished)} of {len(experiment['runs'])} runs of {experiment['name']} have no complete result: "
            f"{', '.join(unfinished)}. Tables and page are written; `Runs without a result` says why."
        )


def report(experiment: dict[str, Any], results: Path) -> list[str]:
    """Write tables and page into `results`; returns the paths of runs that failed or are missing."""
    from eval.collect import collect, group
    from workflow.report.page import render

    runs = collect(experiment, results)
    rows = group(runs, experiment)
    tables = write_tables(experiment, rows, results / "tables")
    (results / "report.html").write_text(render(experiment, rows, tables), encoding="utf-8")
    return [run.path for run in runs if run.status in UNFINISHED]


def write_tables(experiment: dict[str, Any], rows: list[Any], folder: Path) -> list[Any]:
    """Write each table as CSV and Markdown; returns them as texts, for the page."""
    from eval import present, tables, versus
    from eval.limits import limits, limits_table
    from eval.text import to_markdown

    methods, compared = tables.methods(rows, experiment), tables.comparison(rows, experiment)
    memory, speed = tables.memory(rows, experiment), tables.speed(rows, experiment)
    made = [
        (methods, present.methods_table(methods, experiment)),
        (compared, present.comparison_table(compared, experiment)),
        (memory, present.memory_table(memory, experiment)),
        (speed, present.speed_table(speed, experiment)),
    ]
    beside = versus.versus(rows, experiment)
    if beside:
        made.append((beside, present.versus_table(beside, experiment, compared)))
    declared = limits(rows)
    if declared:
        made.append((declared, limits_table(declared, experiment)))
    for lines, table in made:
        tables.write_csv(lines, folder / f"{table.name}.csv")
        (folder / f"{table.name}.md").write_text(to_markdown(table), encoding="utf-8")
    return [table for _, table in made]


if __name__ == "__main__":
    stage_main(main)
