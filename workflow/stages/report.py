"""Compile an experiment from what its runs left: tables/{methods,comparison,memory,speed,...}.{csv,md,tex}, report.html
and its figures as figures/*.svg; mt_bench.html, to read answers and judgments, where MT-Bench is asked; and a model
card in each checkpoint's folder.

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
    """Write tables, pages and figures into `results`; returns the paths of runs that failed or are missing."""
    from eval.collect import collect, group
    from workflow.report.model_card import write_card
    from workflow.report.page import about
    from workflow.report.static.files import write_figures

    runs = collect(experiment, results)
    rows = group(runs, experiment)
    drawn = write_pages(experiment, rows, results)
    figures = [(panel.title, figure) for panel in drawn for figure in panel.figures]
    write_figures(figures, results / "figures", about(experiment, rows))
    for run in runs:
        write_card(experiment, run)
    return [run.path for run in runs if run.status in UNFINISHED]


def write_pages(experiment: dict[str, Any], rows: list[Any], results: Path) -> list[Any]:
    """Write the tables and both pages; returns the panels of figures on the first of them."""
    from eval.significance import significance
    from eval.table_files import write_tables
    from workflow.report.page import draw, render
    from workflow.report.summary import three_answers

    verdicts = significance(rows, experiment)
    made = [*main_tables(experiment, rows, verdicts), *asked_tables(experiment, rows, verdicts, results)]
    write_tables(made, results / "tables")
    lines = {table.name: rows_of_it for rows_of_it, table in made}
    drawn = draw(experiment, rows, verdicts, lines.get("published", []))
    answers = three_answers(rows, verdicts, lines.get("claims", []))
    page = render(experiment, rows, [table for _, table in made], drawn, answers)
    (results / "report.html").write_text(page, encoding="utf-8")
    write_answers(experiment, rows, results / "mt_bench.html")
    return drawn


def write_answers(experiment: dict[str, Any], rows: list[Any], file: Path) -> None:
    """Write the page of answers and judgments; without MT-Bench there is none, nor one of former settings."""
    from workflow.report import answers_page

    if experiment["mt_bench"] is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(answers_page.render(experiment, rows), encoding="utf-8")


def main_tables(experiment: dict[str, Any], rows: list[Any], verdicts: Any) -> list[tuple[list[Any], Any]]:
    """The tables that every experiment has, as rows and as text."""
    from eval import present, tables

    methods, compared = tables.methods(rows, experiment, verdicts), tables.comparison(rows, experiment, verdicts)
    memory, speed = tables.memory(rows, experiment), tables.speed(rows, experiment, verdicts)
    return [
        (methods, present.methods_table(methods, experiment, verdicts)),
        (compared, present.comparison_table(compared, experiment, verdicts)),
        (memory, present.memory_table(memory, experiment)),
        (speed, present.speed_table(speed, experiment, verdicts)),
    ]


def asked_tables(
    experiment: dict[str, Any], rows: list[Any], verdicts: Any, results: Path
) -> list[tuple[list[Any], Any]]:
    """The tables of what an experiment may ask for, each only where there is something to put into it."""
    from eval import present, tables
    from eval.claims import claims, claims_table
    from eval.continual_table import continued, continued_table
    from eval.differences_table import differences, differences_table
    from eval.forgetting_table import forgetting, forgetting_table
    from eval.limits import limits, limits_table
    from eval.mt_bench_tables import categories, categories_table
    from eval.noise_table import noise, noise_table
    from eval.overlap_table import overlap, overlap_table, read_leaks
    from eval.pairwise_table import pairwise, pairwise_table
    from eval.seeds_table import seeds, seeds_table
    from eval.tasks_table import tasks, tasks_table
    from eval.tuning_table import tuning, tuning_table
    from eval.versus import versus

    leaks = read_leaks(results)
    compared = tables.comparison(rows, experiment)
    made = [
        (continued(rows, experiment), lambda lines: continued_table(lines, experiment)),
        (tuning(rows, experiment), lambda lines: tuning_table(lines, experiment)),
        (categories(rows, experiment, verdicts), lambda lines: categories_table(lines, experiment, verdicts)),
        (pairwise(rows, experiment, verdicts), lambda lines: pairwise_table(lines, experiment, verdicts)),
        (forgetting(rows, experiment, verdicts), lambda lines: forgetting_table(lines, experiment, verdicts)),
        (noise(rows, experiment), lambda lines: noise_table(lines, experiment)),
        (overlap(leaks, experiment), lambda lines: overlap_table(lines, leaks, experiment)),
        (claims(rows, experiment, verdicts), lambda lines: claims_table(lines, experiment)),
        (differences(verdicts, experiment), lambda lines: differences_table(lines, experiment)),
        (seeds(rows, experiment), lambda lines: seeds_table(lines, experiment)),
        (tasks(rows, experiment), lambda lines: tasks_table(lines, experiment)),
        (versus(rows, experiment, verdicts), lambda lines: present.versus_table(lines, experiment, compared)),
        (limits(rows), lambda lines: limits_table(lines, experiment)),
    ]
    return [(lines, present_it(lines)) for lines, present_it in made if lines]


if __name__ == "__main__":
    stage_main(main)
