"""Compile a memory experiment: tables/{memory,ablation,speed}.{csv,md} and report.html from what its cells left behind.

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
    """Write tables and page into `results`; returns the paths of cells without a prediction."""
    from eval.memory_cells import REFERENCE, collect
    from workflow.report.memory_page import render

    cells = collect(experiment, results, reference or REFERENCE)
    tables = write_tables(experiment, cells, results / "tables")
    (results / "report.html").write_text(render(experiment, cells, tables), encoding="utf-8")
    return [cell.path for cell in cells if not cell.simulated]


def write_tables(experiment: dict[str, Any], cells: list[Any], folder: Path) -> dict[str, Any]:
    """Write each table as CSV and Markdown; returns them by name, as rows and as texts, for the page."""
    from eval import memory_present as present
    from eval import memory_tables as tables
    from eval.memory_cells import devices
    from eval.reproduction import parts, reproduction, slopes
    from eval.tables import write_csv
    from eval.text import to_markdown
    from workflow.report.memory_page import Made

    found = devices(cells)
    rows = {make.__name__: make(cells, experiment) for make in (tables.memory, tables.ablation, tables.speed)}
    made = {
        "memory": Made(rows["memory"], present.memory_table(rows["memory"], experiment, found)),
        "ablation": Made(rows["ablation"], present.ablation_table(rows["ablation"], experiment, found)),
        "speed": Made(rows["speed"], present.speed_table(rows["speed"], experiment, found)),
    }
    beside, steps, components = (make(cells, experiment) for make in (reproduction, slopes, parts))
    for name in ("reproduction", "slopes", "parts"):  # they go with the published table that they were made from
        for suffix in ("csv", "md"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    if beside:
        made["reproduction"] = Made(beside, present.reproduction_table(beside, experiment, found))
        made["slopes"] = Made(steps, present.slopes_table(steps, experiment))
    if components:
        made["parts"] = Made(components, present.parts_table(components, experiment))
    for name, (lines, table) in made.items():
        write_csv(lines, folder / f"{name}.csv")
        (folder / f"{name}.md").write_text(to_markdown(table), encoding="utf-8")
    return made


if __name__ == "__main__":
    stage_main(main)
