"""The figure of weight norms, after figure 2 of arXiv 2403.17919: an SVG that needs nothing beside it.

The norm of a part stands over its place in the model, on a logarithmic axis, since adapters, blocks and embeddings lie
orders of magnitude apart. The final norm, a vector and no layer, is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from workflow.report.drawing import KNOWN_COLOURS
from workflow.report.page import LAYOUT, TEMPLATES

WIDTH, HEIGHT = 900, 500
LEFT, RIGHT, TOP, BOTTOM = 72, 876, 112, 424  # edges of the plot
MOST_LABELS = 20  # of decoder layers
LINES = (  # column, words, colour, width, dashes; what lies on another line is thinner, so that both are seen
    ("full_mean", "full fine-tuning", KNOWN_COLOURS["full"], 5, "none"),
    ("merged_mean", "LoRA, weights with adapters added", "#14171c", 1.5, "6 4"),
    ("adapter_mean", "LoRA, adapters alone (the paper's reading)", KNOWN_COLOURS["lora"], 5, "none"),
    ("adapter_first", "LoRA, adapters before training", "#14171c", 1.5, "1.5 3"),
)
ROOM = 100  # pixels between parts that let the ends' names stand in the middle below them


@dataclass(frozen=True)
class Line:
    """A drawn column: `points` are (x, y, words), `path` breaks where LoRA left a part alone."""

    words: str
    colour: str
    width: float
    dashes: str
    path: str
    points: list[tuple[float, float, str]]


def draw(title: str, caption: str, rows: list[dict[str, Any]]) -> str:
    """The SVG of the rows of the stage's weight_norms.csv."""
    import jinja2

    rows = [row for row in rows if row["part"] != "norm"]
    values = [row[column] for row in rows for column, *_ in LINES if row[column] is not None]
    ticks = log_ticks(min(values), max(values))
    across = [LEFT + (place + 0.5) * (RIGHT - LEFT) / len(rows) for place in range(len(rows))]
    up = {tick: height(tick, ticks) for tick in ticks}
    loader = jinja2.FileSystemLoader(TEMPLATES)
    template = jinja2.Environment(loader=loader, autoescape=True, **LAYOUT).get_template("weight_norms.svg.j2")
    return template.render(
        title=title,
        caption=caption,
        size=(WIDTH, HEIGHT),
        edges=(LEFT, RIGHT, TOP, BOTTOM),
        ticks=[(f"{tick:g}", y) for tick, y in up.items()],
        places=list(zip(across, labels([row["part"] for row in rows]), strict=True)),
        ends=ends([row["part"] for row in rows], across),
        lines=[line(rows, across, ticks, column, *style) for column, *style in LINES],
    )


def line(
    rows: list[dict[str, Any]], across: list[float], ticks: list[float], column: str, words: str, *style: Any
) -> Line:
    """One column over all parts."""
    path, points, pen = [], [], "M"
    for row, x in zip(rows, across, strict=True):
        if row[column] is None:
            pen = "M"
            continue
        y = height(row[column], ticks)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        points.append((x, y, f"{words}, {row['part']}: {row[column]:.4g}"))
        pen = "L"
    return Line(words, *style, " ".join(path), points)


def height(value: float, ticks: list[float]) -> float:
    """Where a norm stands on the logarithmic axis, in pixels from the top."""
    share = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])
    return BOTTOM - share * (BOTTOM - TOP)


def log_ticks(smallest: float, largest: float) -> list[float]:
    """1, 2 and 5 times powers of ten that enclose both, at least two of them."""
    powers = range(math.floor(math.log10(smallest)) - 1, math.ceil(math.log10(largest)) + 2)
    steps = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    low = max(place for place, step in enumerate(steps) if step <= smallest)
    high = min(place for place, step in enumerate(steps) if step >= largest and place > low)
    return steps[low : high + 1]


def labels(parts: list[str]) -> list[str]:
    """Numbers of the decoder layers, of many of them every so many; the ends are labelled apart."""
    numbers = [part.removeprefix("layer ") for part in parts]
    every = math.ceil(len(parts) / MOST_LABELS)
    return [number if number.isdigit() and int(number) % every == 0 else "" for number in numbers]


def ends(parts: list[str], across: list[float]) -> list[tuple[float, str, str]]:
    """Where the names of the first and the last part stand, and their anchor; a decoder layer has its number."""
    wide = (RIGHT - LEFT) / len(parts) >= ROOM
    anchors = ("middle", "middle") if wide else ("start", "end")
    found = zip((across[0], across[-1]), (parts[0], parts[-1]), anchors, strict=True)
    return [(x, part, anchor) for x, part, anchor in found if not part.startswith("layer ")]
