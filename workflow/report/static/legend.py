"""The legend of a figure on paper: `handles(traces, layout)`, one for every trace that has a name there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow.report.static.bars import key_style
from workflow.report.static.scatter import LINE_WIDTH, MARKER_SIZE, fill_colour, marker_style
from workflow.report.static.terms import colour, dashes, words
from workflow.report.static.traces import first, main_colour, marker_colours

LARGEST = 10  # of a symbol
LONGEST = 60  # characters of a name; more would leave no room for the plot


def handles(traces: list[dict[str, Any]], layout: Mapping[str, Any]) -> list[Any]:
    """In the traces' order; none for a single trace, unless the layout wants it."""
    made = [_handle(trace) for trace in traces if trace.get("name") and trace.get("showlegend", True)]
    return made if layout.get("showlegend", len(made) > 1) else []


def _handle(trace: Mapping[str, Any]) -> Any:
    """Line and symbol, or the area."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    name = words(trace["name"])
    label = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    if trace["type"] == "bar":
        return Patch(label=label, **key_style(trace))
    if "stackgroup" in trace or trace["mode"] == "none":
        return Patch(label=label, facecolor=fill_colour(trace), linewidth=0)
    return Line2D([], [], label=label, **_line(trace), **_symbol(trace))


def _line(trace: Mapping[str, Any]) -> dict[str, Any]:
    line = trace.get("line", {})
    width = line.get("width", LINE_WIDTH)
    if "lines" not in trace["mode"] or not width:
        return {"linestyle": "none"}
    style = {"linewidth": width, "linestyle": dashes(line.get("dash", "solid"), width)}
    return {"color": colour(main_colour(trace), trace.get("opacity", 1)), **style}


def _symbol(trace: Mapping[str, Any]) -> dict[str, Any]:
    if "markers" not in trace["mode"]:
        return {}
    marker = trace.get("marker", {})
    style = marker_style(first(marker.get("symbol", "circle")), marker_colours(trace, 1)[:1], "none", 0)
    return {
        "marker": style["marker"],
        "markersize": min(first(marker.get("size", MARKER_SIZE)), LARGEST),
        "markerfacecolor": first(style["facecolors"]),
        "markeredgecolor": first(style["edgecolors"]),
        "markeredgewidth": style["linewidths"],
    }
