"""The report of a memory experiment as one HTML page: predicted, measured and published side by side.

    parts = sections(experiment, cells, tables)     # cells: eval.memory_cells.collect(...); tables: Made by name
    html = render(experiment, cells, parts)

It stands on the same template, styles and script as the report of a training experiment (`page.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eval.conditions import distinct, distinct_packages, packages_line
from eval.memory_cells import MemoryCell, devices
from eval.memory_present import conditions_line
from eval.reproduction import remarks
from eval.tables import TableRow, published_cells
from eval.text import Table
from workflow.report import memory_figures as figures
from workflow.report.drawing import Figure
from workflow.report.page import document, fill, listed, machines, packages


class Made(NamedTuple):
    """A table as rows and as text."""

    rows: list[TableRow]
    table: Table


@dataclass(frozen=True)
class Section:
    """A part of the page: sentences, figures, tables."""

    id: str
    title: str
    remarks: list[str] = field(default_factory=list)
    figures: list[Figure | None] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def drawn(self) -> list[Figure]:
        """The figures that there are."""
        return [figure for figure in self.figures if figure]


def render(experiment: Mapping[str, Any], cells: list[MemoryCell], parts: list[Section]) -> str:
    """The page."""
    environments = [cell.simulated.get("environment", {}) for cell in cells if cell.simulated]
    environments += [record["environment"] for cell in cells for record in cell.measured.values()]
    return fill(
        "memory.html.j2",
        name=experiment["name"],
        summary=summary(experiment, cells),
        notices=notices(cells),
        sections=parts,
        machines=machines(environments),
        packages=packages(environments),
        commands=commands(experiment, cells),
        document=document(experiment),
    )


def sections(experiment: Mapping[str, Any], cells: list[MemoryCell], tables: Mapping[str, Made]) -> list[Section]:
    """What the page holds, in order; parts that would be empty are left out."""
    models, found = figures.models_of(cells), devices(cells)
    published = [cell for cell in published_cells(experiment) if cell.metric == "peak_memory"]
    peaks = [figures.memory_figure(model, cells, published) for model in models]
    varied = tables["ablation"].rows
    settings = [
        figure
        for model in models
        for figure in (figures.ablation_figure(model, varied), figures.range_figure(model, cells))
    ]
    beside = [
        tables[name].table for name in ("reproduction", "slopes", "parts") if name in tables and tables[name].rows
    ]
    speed = Section("speed", "Speed", [], [figures.speed_figure(tables["speed"].rows, found)], [tables["speed"].table])
    every = [
        Section("memory", "Memory", [], peaks, [tables["memory"].table]),
        Section("reproduction", "What reproduces and what does not", remarks(cells, experiment), [], beside),
        Section("settings", "Settings", [], settings, [tables["ablation"].table] if varied else []),
        speed,
        Section("timeline", "A step", [], [figures.timeline_figure(cells)]),
        Section("unused", "Files not used", [f"{cell.path}: {why}" for cell in cells for why in cell.unused]),
    ]
    return [section for section in every if section.remarks or section.drawn or section.tables]


# --- words


def summary(experiment: Mapping[str, Any], cells: list[MemoryCell]) -> list[str]:
    """What was simulated and measured, and under which conditions, in a few sentences."""
    methods = list(dict.fromkeys(cell.row[1] for cell in cells))
    simulated = [cell for cell in cells if cell.simulated]
    versions = distinct_packages(
        packages_line(cell.simulated.get("environment", {}).get("packages", {})) for cell in simulated
    )
    return [
        f"One optimizer step of {listed(methods)} on {listed(figures.models_of(cells))}: peak memory predicted by "
        "running the real model and method on tensors without data.",
        _conditions_words(experiment),
        f"{len(simulated)} of {len(cells)} cells are simulated, with {versions or 'nothing yet'}.",
        _measured_words(cells),
    ]


def about(experiment: Mapping[str, Any]) -> str:
    """What a figure says that stands alone."""
    return f"Experiment {experiment['name']}. {_conditions_words(experiment)}"


def _conditions_words(experiment: Mapping[str, Any]) -> str:
    return f"Conditions, where a setting does not say otherwise: {conditions_line(experiment['training'])}."


def _measured_words(cells: list[MemoryCell]) -> str:
    found = devices(cells)
    if not found:
        return "Nothing was measured here: no device at hand has records of this experiment."
    counts = [f"{device} ({sum(device in cell.measured for cell in cells)} of {len(cells)} cells)" for device in found]
    return f"Measured on {listed(counts)}, with random weights at the real shapes."


def notices(cells: list[MemoryCell]) -> list[str]:
    """What a reader must know before reading a number."""
    environments = [cell.simulated.get("environment", {}) for cell in cells if cell.simulated]
    versions = distinct_packages(packages_line(environment.get("packages", {})) for environment in environments) or ""
    missing = sum(not cell.simulated for cell in cells)
    notes = [f"{missing} of {len(cells)} cells are not simulated; their rows say so."] if missing else []
    notes += ["The predictions were made with different package versions: compare with care."] * (" / " in versions)
    if any(environment.get("git_dirty") for environment in environments):
        notes.append("The code had uncommitted changes: the commit alone does not reproduce it.")
    if any(cell.unused for cell in cells):
        notes.append("Some files are of other settings and were not used; see `Files not used`.")
    return notes


def commands(experiment: Mapping[str, Any], cells: list[MemoryCell]) -> list[str]:
    """What to type to make this page again, one cell alone, and the measurements."""
    environments = [cell.simulated.get("environment", {}) for cell in cells if cell.simulated]
    commits = distinct(environment.get("git_commit") for environment in environments) or ""
    name, one = experiment["name"], cells[0].path
    file = f"--experiment results/{name}/experiment.json"
    return [
        *(f"git checkout {commit}" for commit in commits.split(" / ") if commit),
        "make install",
        "# save the experiment below as reproduce.json, then: all of it,",
        ".venv/bin/snakemake --cores all --configfile reproduce.json",
        "# or one cell of it,",
        f".venv/bin/python -m workflow.stages.simulate {file} --cell {one}",
        "# and, on a machine with the device, to measure every cell and put it beside the prediction,",
        f".venv/bin/python -m workflow.stages.measure {file}",
        f".venv/bin/python -m workflow.stages.memory_report {file}",
    ]
