"""Tables and bounds of `lisa_limits.py`, and the files they are written to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workflow.engine.records import write_json

NAME = "lisa_limits"
COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e6c8a", "#c98a1b")


@dataclass(frozen=True)
class Spread:
    """A median, the middle half's ends, and an interval that holds the true median with at least 95 % probability.

    Under six samples the interval is all of them, and the probability less.
    """

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]
    samples: int

    def over(self, number: float) -> Spread:
        """Of the samples divided by a positive number."""
        ends = [(low / number, high / number) for low, high in (self.quartiles, self.interval)]
        return Spread(self.median / number, *ends, self.samples)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.interval[0]:.3f} to {self.interval[1]:.3f})"


def spread(values: Sequence[float]) -> Spread:
    """Of independent samples; the interval is that of the sign test, two order statistics."""
    ordered, count = sorted(values), len(values)
    low = 0  # the largest index for which P(binomial(count, 1/2) <= index) stays below 2.5 %
    while sum(math.comb(count, k) for k in range(low + 1)) <= 0.025 * 2**count:
        low += 1
    low = max(low - 1, 0)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    quartiles = (ordered[count // 4], ordered[count - 1 - count // 4])
    return Spread(middle, quartiles, (ordered[low], ordered[count - 1 - low]), count)


@dataclass(frozen=True)
class Table:
    """One measurement: what it says, under which conditions, and its cells (`columns` maps headings to formats)."""

    title: str
    conditions: str
    columns: dict[str, str]
    rows: list[list[Any]]
    notes: str = ""

    def markdown(self) -> str:
        """Title, conditions, aligned cells, notes."""
        forms = list(self.columns.values())
        rows = [[_cell(value, form) for value, form in zip(row, forms, strict=True)] for row in self.rows]
        cells = [list(self.columns), *rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        parts = [f"## {self.title}", self.conditions, "\n".join(lines), self.notes]
        return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Bound:
    """One number that was to be reached."""

    what: str
    relation: str  # <= | >= | == | < | >
    limit: float
    measured: float | None
    interval: tuple[float, float] | None = None
    reason: str = ""  # why it was not measured, or what to know about it
    judged: bool = True  # False where the limit is meant for other sizes

    @property
    def verdict(self) -> str:
        """met or missed, by median and both ends of its interval alike; undecided where the limit lies between them."""
        if self.measured is None:
            return "not measured"
        if not self.judged:
            return "not judged"
        holds = [self._holds(value) for value in (self.measured, *(self.interval or ()))]
        return "met" if all(holds) else "undecided" if any(holds) else "missed"

    def _holds(self, value: float) -> bool:
        return {
            "<=": value <= self.limit,
            ">=": value >= self.limit,
            "<": value < self.limit,
            ">": value > self.limit,
            "==": value == self.limit,
        }[self.relation]


@dataclass
class Results:
    """What the sections of one run found."""

    tables: list[Table] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)  # optimizer state in MB by period, for the chart

    def add(self, other: Results) -> None:
        """Append another section's."""
        self.tables += other.tables
        self.bounds += other.bounds
        self.series |= other.series


def summary(bounds: Sequence[Bound]) -> Table:
    """Every bound, with what was measured."""
    rows = [[b.what, f"{b.relation} {b.limit:g}", b.measured, b.interval, b.verdict, b.reason] for b in bounds]
    columns = {"bound": "", "limit": "", "measured": ".6g", "95 % interval": ".3f", "verdict": "", "remark": ""}
    told = (
        "Measured in this run, under the conditions of the tables above. The limits are meant for llama-100m in fp32 on"
        " the CPU and, where it says 7B, for LLaMA-2-7B in bf16 on an H200."
    )
    return Table("Summary: the bounds", told, columns, rows)


def write(folder: Path, results: Results, environment: dict[str, Any]) -> None:
    """`lisa_limits.json` (all numbers and the environment), `.md` (the tables) and `.svg` (state over the periods)."""
    record = {
        "environment": environment,
        "bounds": [{**asdict(bound), "verdict": bound.verdict} for bound in results.bounds],
        "tables": [asdict(table) for table in results.tables],
        "optimizer_state_mb_by_period": results.series,
    }
    write_json(folder / f"{NAME}.json", record)
    names = ("date", "device", "threads", "torch_build", "git_commit")
    told = ", ".join(f"{name} {environment[name]}" for name in names)
    head = f"# LISA at its limits\n\nWritten by `python benchmarks/lisa_limits.py`: {told}. MB = 1e6 bytes, GB = 1e9."
    chart = f"![Optimizer state by period]({NAME}.svg)" if results.series else ""
    tables = [table.markdown() for table in (*results.tables, summary(results.bounds))]
    (folder / f"{NAME}.md").write_text("\n\n".join(part for part in (head, *tables, chart) if part) + "\n")
    if results.series:
        (folder / f"{NAME}.svg").write_text(chart_of(results.series))


def chart_of(series: dict[str, list[float]]) -> str:
    """An SVG of optimizer state over periods, one line each; broken ones show where two coincide."""
    width, height, left, bottom, right, top = 640, 360, 60, 44, 150, 16
    periods, most = max(map(len, series.values())), max(map(max, series.values()))

    def x(period: int) -> float:
        return left + (width - left - right) * period / max(periods - 1, 1)

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / most

    step = 10 ** math.floor(math.log10(most))
    step = next(s for s in (step, step / 2, step / 5) if most / s >= 3)
    marks = [step * i for i in range(int(most / step) + 1)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        ' font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for mark in marks:
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for period in range(0, periods, max(1, periods // 5)):
        parts.append(f'<text x="{x(period):.1f}" y="{height - 26}" text-anchor="middle">{period + 1}</text>')
    for index, (name, values) in enumerate(series.items()):
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values))
        dash, colour = f"8 {8 * (index % 2)}", COLOURS[index % len(COLOURS)]
        stroke = f'fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{points}" {stroke}/>')
        row = top + 12 + 20 * index
        parts.append(f'<line x1="{width - right + 12}" x2="{width - right + 40}" y1="{row}" y2="{row}" {stroke}/>')
        parts.append(f'<text x="{width - right + 46}" y="{row + 4}">{name}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">period</text>')
    parts.append(
        f'<text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">optimizer state, MB</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " to ".join(_cell(part, form) for part in value)
    return str(value) if isinstance(value, str | Spread) else format(value, form)
