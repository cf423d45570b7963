"""plotly's traces on paper: what may stand in one, and what scatter traces and bars have in common.

check(trace)                    # raises ValueError, before anything is drawn, at what is not drawn here
draw(plane, traces, layout)     # all of them, in their order; plane: axes.Plane
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from workflow.report.static.axes import Plane
from workflow.report.static.terms import TEXT, colour, known, one_of

OF_THE_PAGE = {"hovertemplate", "hoverinfo", "hovertext", "hoverlabel", "customdata", "cliponaxis", "legendgroup"}
SHARED = {"type", "name", "x", "y", "opacity", "showlegend", "marker", "text", "textposition", "textfont"}
SHARED |= {"error_x", "error_y", *OF_THE_PAGE}
KEYS = {
    "scatter": {*SHARED, "mode", "line", "fill", "fillcolor", "stackgroup"},
    "bar": {*SHARED, "orientation", "base", "width"},
}
ERROR = {"type", "array", "arrayminus", "symmetric", "thickness", "width", "color", "visible"}
PARTS = {
    "line": {"color", "width", "dash", "shape"},
    "marker": {"color", "symbol", "size", "opacity", "line", "pattern"},
    "textfont": {"color", "size"},
    "error_x": ERROR,
    "error_y": ERROR,
}
MODES = {"lines", "markers", "text"}
FILLS = ("none", "tozeroy", "tonexty", "toself")
SHAPES = ("linear", "hv", "vh")
BAR_TEXTS = ("outside", "inside", "none")
BAR, LINE, WORDS = 2, 3, 5  # what covers what; of the same kind the later trace the earlier


def check(trace: Mapping[str, Any]) -> None:
    """Raise ValueError, naming it, if the trace holds anything that is not drawn here."""
    one_of("trace.type", trace.get("type"), KEYS)
    known(f"{trace['type']} trace", trace, KEYS[trace["type"]])
    for part, legal in PARTS.items():
        known(f"trace.{part}", trace.get(part, {}), legal)
    if trace["type"] == "scatter":
        one_of("trace.fill", trace.get("fill", "none"), FILLS)
        one_of("line.shape", trace.get("line", {}).get("shape", "linear"), SHAPES)
        if trace.get("mode") != "none" and not set(str(trace.get("mode")).split("+")) <= MODES:
            raise ValueError(f"trace.mode is {trace.get('mode')!r}; legal: none, or {'+'.join(sorted(MODES))}")
    else:
        one_of("trace.orientation", trace.get("orientation", "v"), ("h", "v"))
        one_of("trace.textposition", trace.get("textposition", "none"), BAR_TEXTS)
        if "text" in trace and "textposition" not in trace:
            raise ValueError(f"trace.textposition of bars with texts is not said; legal: {', '.join(BAR_TEXTS)}")


def draw(plane: Plane, traces: list[dict[str, Any]], layout: Mapping[str, Any]) -> None:
    """All of them, in their order; bars below what stands on them."""
    from workflow.report.static.bars import Bars
    from workflow.report.static.scatter import Scatter

    Bars(plane, [trace for trace in traces if trace["type"] == "bar"], layout).draw()
    Scatter(plane, [trace for trace in traces if trace["type"] == "scatter"]).draw()


# --- what both have in common


def each(value: Any, count: int) -> list[Any]:
    """One value for all, or one for each."""
    return [value] * count if isinstance(value, (str, int, float)) else list(value)


def first(value: Any) -> Any:
    """The value, or the first of several; a colour's numbers are a tuple and no list."""
    return value[0] if isinstance(value, list) else value


def main_colour(trace: Mapping[str, Any]) -> str:
    """Of the line, else of the markers, else of the area."""
    found = trace.get("line", {}).get("color") or trace.get("marker", {}).get("color") or trace.get("fillcolor")
    if not isinstance(found, str):
        raise ValueError(f"trace {trace.get('name', '')!r} says no colour, and plotly's own are not known here")
    return found


def marker_colours(trace: Mapping[str, Any], count: int) -> list[Any]:
    """Of `count` markers or bars."""
    marker = trace.get("marker", {})
    opacity = trace.get("opacity", 1) * marker.get("opacity", 1)
    return [colour(one, opacity) for one in each(marker.get("color") or main_colour(trace), count)]


def outline(trace: Mapping[str, Any]) -> tuple[Any, float]:
    """Colour and width of the line around a marker or a bar."""
    line = trace.get("marker", {}).get("line", {})
    known("marker.line", line, {"color", "width"})
    width = line.get("width", 0)
    return (colour(line["color"]), width) if width and "color" in line else ("none", 0)


def error_bars(plane: Plane, trace: Mapping[str, Any], xs: list[float], ys: list[float], fallback: str) -> None:
    """Across and up, `fallback` in colour where they say none."""
    for letter in "xy":
        error = trace.get(f"error_{letter}", {})
        if not error or error.get("visible") is False:
            continue
        one_of(f"error_{letter}.type", error.get("type"), ("data",))
        plus = [value or 0 for value in error["array"]]
        minus = [value or 0 for value in error.get("arrayminus", [0] * len(plus))]
        symmetric = error.get("symmetric", "arrayminus" not in error)
        lengths = {f"{letter}err": [plus if symmetric else minus, plus]}
        style = {"ecolor": colour(error.get("color", fallback)), "elinewidth": error.get("thickness", 2)}
        plane.axes.errorbar(xs, ys, **lengths, fmt="none", capsize=error.get("width", 4), zorder=LINE, **style)


def write(
    plane: Plane,
    trace: Mapping[str, Any],
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    sides: tuple[str, str],
) -> None:
    """Write beside a place, `sides` of the text (across, up) to it; nowhere is no place for words."""
    if not text or math.isnan(at[0]) or math.isnan(at[1]):
        return
    font = trace.get("textfont", {})
    style = {"color": colour(font.get("color", TEXT)), "size": font.get("size", 12), "zorder": WORDS}
    style |= {"ha": sides[0], "va": sides[1], "textcoords": "offset points", "annotation_clip": False}
    plane.axes.annotate(text, at, offset, **style).set_in_layout(False)  # the axis' range leaves room for it
