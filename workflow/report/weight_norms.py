"""The figure of weight norms, after figure 2 of arXiv 2403.17919: `draw(title, caption, rows)`, for static.svg.to_svg.

The norm of a part stands over its place in the model, on a logarithmic axis, since adapters, blocks and embeddings lie
orders of magnitude apart. The final norm, a vector and no layer, is left out.
"""

from __future__ import annotations

import math
from typing import Any

from workflow.report.drawing import KNOWN_COLOURS, Figure, axes, plot

MOST_LABELS = 20  # of decoder layers
INK = "#14171c"
LINES = (  # column, words, colour, width, dash; what lies on another line is thinner, so that both are seen
    ("full_mean", "full fine-tuning", KNOWN_COLOURS["full"], 5, "solid"),
    ("merged_mean", "LoRA, weights with adapters added", INK, 1.5, "dash"),
    ("adapter_mean", "LoRA, adapters alone (the paper's reading)", KNOWN_COLOURS["lora"], 5, "solid"),
    ("adapter_first", "LoRA, adapters before training", INK, 1.5, "dot"),
)


def draw(title: str, caption: str, rows: list[dict[str, Any]]) -> Figure:
    """Of the rows of the stage's weight_norms.csv; a line breaks where LoRA left a part alone."""
    rows = [row for row in rows if row["part"] != "norm"]
    parts = [row["part"] for row in rows]
    layout = axes("decoder layer", "norm (log scale)")
    layout["xaxis"] |= {"tickvals": list(range(len(parts))), "ticktext": labels(parts), "showgrid": False}
    layout["yaxis"] |= {"type": "log"}
    return Figure("weight_norms", title, plot([_line(rows, *line) for line in LINES], layout, 430), caption)


def _line(rows: list[dict[str, Any]], column: str, words: str, colour: str, width: float, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": words,
        "x": list(range(len(rows))),
        "y": [row[column] for row in rows],
        "line": {"color": colour, "width": width, "dash": dash},
        "marker": {"color": colour, "size": width + 3},
        "customdata": [row["part"] for row in rows],
        "hovertemplate": f"{words}, %{{customdata}}: %{{y:.4g}}<extra></extra>",
    }


def labels(parts: list[str]) -> list[str]:
    """Numbers of the decoder layers, of many of them every so many; a line below, what stands at the ends."""
    every = math.ceil(len(parts) / MOST_LABELS)
    numbers = [part.removeprefix("layer ") for part in parts]
    return [
        f"<br>{number}" if not number.isdigit() else number if int(number) % every == 0 else "" for number in numbers
    ]
