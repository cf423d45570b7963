"""Compile a memory experiment from what its cells left behind: tables/{memory,ablation,speed}.{csv,md,tex}, report.html
and its figures as figures/*.svg.

Predictions stand in the experiment's results; measurements there and under results/reference/<device>/. Where published
tables are named, tables/{reproduction,slopes,parts} hold them against ours. A cell without a prediction has its row,
but the stage then ends with a non-zero code that names it, unless --partial says that this is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError
from workflow.memory_experiment import load
from workflow.stages import parser, results_folder, stage_main


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--partial", action="store_true", help="end well although cells are not simulated")
    arguments = arguments.parse_args()
    experiment = load(arguments.experiment)
    missing = report(experiment, results_folder(experiment, arguments.results))
    if missing and not arguments.partial:
        raise InputError(
            f"{len(missing)} of {len(experiment['cells'])} cells of {experiment['name']} are not simulated: "
            f"{', '.join(missing)}. Tables and page are written; the cells' rows say why."
        )


def report(experiment: dict[str, Any], results: Path, reference: Path | None = None) -> list[str]:
    """Write tables, page and figures into `results`; returns the paths of cells without a prediction."""
    from eval.memory_cells import REFERENCE, collect
    from workflow.report.memory_page import about
    from workflow.report.static.files import write_figures

    cells = collect(experiment, results, reference or REFERENCE)
    figures = [("", figure) for part in write_page(experiment, cells, results) for figure in part.drawn]
    write_figures(figures, results / "figures", about(experiment))
    return [cell.path for cell in cells if not cell.simulated]


def write_page(experiment: dict[str, Any], cells: list[Any], results: Path) -> list[Any]:
    """Write the tables and the page; returns the page's sections."""
    from eval.table_files import write_tables
    from workflow.report.memory_page import render, sections

    made = tables(experiment, cells)
    write_tables(made.values(), results / "tables")
    parts = sections(experiment, cells, made)
    (results / "report.html").write_text(render(experiment, cells, parts), encoding="utf-8")
    return parts


def tables(experiment: dict[str, Any], cells: list[Any]) -> dict[str, Any]:
    """The tables by name, as rows and as texts."""
    from eval import memory_present as present
    from eval import memory_tables
    from eval.memory_cells import devices
    from eval.reproduction import parts, reproduction, slopes
    from workflow.report.memory_page import Made

    found = devices(cells)
    memory, ablation = memory_tables.memory(cells, experiment), memory_tables.ablation(cells, experiment)
    speed = memory_tables.speed(cells, experiment)
    made = {
        "memory": Made(memory, present.memory_table(memory, experiment, found)),
        "ablation": Made(ablation, present.ablation_table(ablation, experiment, found)),
        "speed": Made(speed, present.speed_table(speed, experiment, found)),
    }
    beside, steps, components = (make(cells, experiment) for make in (reproduction, slopes, parts))
    if beside:
        made["reproduction"] = Made(beside, present.reproduction_table(beside, experiment, found))
        made["slopes"] = Made(steps, present.slopes_table(steps, experiment))
    if components:
        made["parts"] = Made(components, present.parts_table(components, experiment))
    return made


if __name__ == "__main__":
    stage_main(main)
