"""Compile an experiment: tables/{methods,comparison,memory,speed,...}.{csv,md} and report.html from what its runs left,
and mt_bench.html, to read answers and judgments, where MT-Bench is asked.

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
ASKED = ("continual_pretraining", "mt_bench_categories", "pairwise", "forgetting", "noise", "overlap", "tasks")
ASKED += ("published", "limits")


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
    tables = write_tables(experiment, rows, results)
    (results / "report.html").write_text(render(experiment, rows, tables), encoding="utf-8")
    write_answers(experiment, rows, results / "mt_bench.html")
    return [run.path for run in runs if run.status in UNFINISHED]


def write_answers(experiment: dict[str, Any], rows: list[Any], file: Path) -> None:
    """Write the page of answers and judgments; without MT-Bench there is none, nor one of former settings."""
    from workflow.report import answers_page

    if experiment["mt_bench"] is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(answers_page.render(experiment, rows), encoding="utf-8")


def write_tables(experiment: dict[str, Any], rows: list[Any], results: Path) -> list[Any]:
    """Write each table as CSV and Markdown; returns them as texts, for the page. Those of a former experiment go."""
    from eval.tables import write_csv
    from eval.text import to_markdown

    folder, made = results / "tables", [*main_tables(experiment, rows), *asked_tables(experiment, rows, results)]
    for name in (*ASKED, *(table.name for _, table in made)):
        for kind in ("csv", "md"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    for lines, table in made:
        write_csv(lines, folder / f"{table.name}.csv")
        (folder / f"{table.name}.md").write_text(to_markdown(table), encoding="utf-8")
    return [table for _, table in made]


def main_tables(experiment: dict[str, Any], rows: list[Any]) -> list[tuple[list[Any], Any]]:
    """The tables that every experiment has, as rows and as text."""
    from eval import present, tables

    methods, compared = tables.methods(rows, experiment), tables.comparison(rows, experiment)
    memory, speed = tables.memory(rows, experiment), tables.speed(rows, experiment)
    return [
        (methods, present.methods_table(methods, experiment)),
        (compared, present.comparison_table(compared, experiment)),
        (memory, present.memory_table(memory, experiment)),
        (speed, present.speed_table(speed, experiment)),
    ]


def asked_tables(experiment: dict[str, Any], rows: list[Any], results: Path) -> list[tuple[list[Any], Any]]:
    """The tables of what an experiment may ask for, each only where there is something to put into it."""
    from eval import present, tables
    from eval.continual_table import continued, continued_table
    from eval.forgetting_table import forgetting, forgetting_table
    from eval.limits import limits, limits_table
    from eval.mt_bench_tables import categories, categories_table
    from eval.noise_table import noise, noise_table
    from eval.overlap_table import overlap, overlap_table, read_leaks
    from eval.pairwise_table import pairwise, pairwise_table
    from eval.tasks_table import tasks, tasks_table
    from eval.versus import versus

    leaks = read_leaks(results)
    compared = tables.comparison(rows, experiment)
    made = [
        (continued(rows, experiment), lambda lines: continued_table(lines, experiment)),
        (categories(rows, experiment), lambda lines: categories_table(lines, experiment)),
        (pairwise(rows, experiment), lambda lines: pairwise_table(lines, experiment)),
        (forgetting(rows, experiment), lambda lines: forgetting_table(lines, experiment)),
        (noise(rows, experiment), lambda lines: noise_table(lines, experiment)),
        (overlap(leaks, experiment), lambda lines: overlap_table(lines, leaks, experiment)),
        (tasks(rows, experiment), lambda lines: tasks_table(lines, experiment)),
        (versus(rows, experiment), lambda lines: present.versus_table(lines, experiment, compared)),
        (limits(rows), lambda lines: limits_table(lines, experiment)),
    ]
    return [(lines, present_it(lines)) for lines, present_it in made if lines]


if __name__ == "__main__":
    stage_main(main)
