"""plotly's scatter traces on paper: lines, markers, texts, error bars, areas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow.report.static.axes import Plane
from workflow.report.static.terms import TEXT, colour, dashes, one_of, words
from workflow.report.static.traces import LINE, each, error_bars, main_colour, marker_colours, outline, write

SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "cross": "P",
    "x": "X",
    "star": "*",
    "triangle-up": "^",
    "triangle-down": "v",
    "triangle-left": "<",
    "triangle-right": ">",
    "line-ns": "|",
    "line-ew": "_",
}
STROKES = ("line-ns", "line-ew")  # they have no inside
LINE_WIDTH, MARKER_SIZE = 2, 6  # plotly's
OPEN_WIDTH = 1.5
AWAY = 3  # points between a marker and its text
AREA = 1.5  # what covers what: below bars and lines

Points = tuple[list[float], list[float]]  # x, y


class Scatter:
    """All scatter traces of a figure: an area may begin where the one before ends."""

    def __init__(self, plane: Plane, traces: list[dict[str, Any]]) -> None:
        self.plane, self.traces = plane, traces
        self.before: Points = ([], [])  # the line of the trace before
        self.tops: dict[str, list[float]] = {}  # of the stacks of areas

    def draw(self) -> None:
        """All of them."""
        for trace in self.traces:
            self._draw(trace)

    def _draw(self, trace: Mapping[str, Any]) -> None:
        points = self.plane.x.places(trace["x"]), self.plane.y.places(trace["y"])
        mode, line = trace["mode"].split("+"), trace.get("line", {})
        width, path = line.get("width", LINE_WIDTH), self._area(trace, points)
        if "lines" in mode and width:
            style = {"linewidth": width, "linestyle": dashes(line.get("dash", "solid"), width), "zorder": LINE}
            self.plane.axes.plot(*path, color=colour(main_colour(trace), trace.get("opacity", 1)), **style)
        if "error_x" in trace or "error_y" in trace:
            many = isinstance(trace.get("marker", {}).get("color"), list) and "color" not in line
            error_bars(self.plane, trace, *points, fallback=TEXT if many else main_colour(trace))
        if "markers" in mode:
            self._markers(trace, points)
        if "text" in mode:
            self._texts(trace, points)
        self.before = path

    def _area(self, trace: Mapping[str, Any], points: Points) -> Points:
        """Fill what is to be filled; returns the trace's line."""
        if "stackgroup" in trace:
            return self._stacked(trace, points)
        path, fill = stepped(points, trace.get("line", {}).get("shape", "linear")), trace.get("fill", "none")
        around = {
            "tozeroy": ([*path[0], *path[0][-1:], *path[0][:1]], [*path[1], 0.0, 0.0]),
            "tonexty": ([*path[0], *reversed(self.before[0])], [*path[1], *reversed(self.before[1])]),
            "toself": path,
        }
        if fill != "none" and path[0]:
            self.plane.axes.fill(*around[fill], color=fill_colour(trace), linewidth=0, zorder=AREA)
        return path

    def _stacked(self, trace: Mapping[str, Any], points: Points) -> Points:
        """Fill from the top of the group's traces before to this one's own, which is returned."""
        xs, heights = points
        base = self.tops.get(trace["stackgroup"], [0.0] * len(xs))
        if len(base) != len(xs):
            raise ValueError(f"traces of the stack {trace['stackgroup']} have {len(base)} and {len(xs)} points")
        top = [low + height for low, height in zip(base, heights, strict=True)]
        self.tops[trace["stackgroup"]] = top
        self.plane.axes.fill_between(xs, base, top, color=fill_colour(trace), linewidth=0, zorder=AREA)
        return xs, top

    def _markers(self, trace: Mapping[str, Any], points: Points) -> None:
        """Symbols, colours and sizes may differ from point to point: a call a symbol."""
        count = len(points[0])
        symbols = each(trace.get("marker", {}).get("symbol", "circle"), count)
        columns = (*points, _sizes(trace, count), marker_colours(trace, count))
        for symbol in dict.fromkeys(symbols):
            chosen = [place for place in range(count) if symbols[place] == symbol]
            xs, ys, sizes, colours = ([column[place] for place in chosen] for column in columns)
            style = marker_style(symbol, colours, *outline(trace))
            self.plane.axes.scatter(xs, ys, s=[size**2 for size in sizes], clip_on=False, zorder=LINE, **style)

    def _texts(self, trace: Mapping[str, Any], points: Points) -> None:
        """Beside the points, as far from their middle as their marker is large."""
        up, across = trace.get("textposition", "middle center").split(" ")
        right, above = {"left": -1, "center": 0, "right": 1}[across], {"top": 1, "middle": 0, "bottom": -1}[up]
        sides = ("right", "center", "left")[right + 1], ("top", "center", "bottom")[above + 1]
        count = len(points[0])
        sizes = _sizes(trace, count) if "markers" in trace["mode"] else [0] * count
        for text, x, y, size in zip(each(trace["text"], count), *points, sizes, strict=True):
            away = size / 2 + AWAY
            write(self.plane, trace, words(text).strip(), (x, y), (right * away, above * away), sides)


def stepped(points: Points, shape: str) -> Points:
    """The line through the points: straight, or first across and then up (hv), or the other way (vh)."""
    xs, ys = points
    if shape == "linear":
        return points
    doubled_x, doubled_y = ([value for value in values for _ in (0, 1)] for values in (xs, ys))
    return (doubled_x[1:], doubled_y[:-1]) if shape == "hv" else (doubled_x[:-1], doubled_y[1:])


def fill_colour(trace: Mapping[str, Any]) -> Any:
    """Of the area; half of the line's where none is said, as in plotly."""
    opacity = trace.get("opacity", 1)
    own = trace.get("fillcolor")
    return colour(own, opacity) if own else colour(main_colour(trace), opacity / 2)


def marker_style(symbol: str, colours: list[Any], edge: Any, edge_width: float) -> dict[str, Any]:
    """A symbol of plotly's for matplotlib's `scatter`."""
    filled = symbol.removesuffix("-open")
    one_of("marker.symbol", filled, SYMBOLS)
    if filled != symbol or symbol in STROKES:
        inside, edge, edge_width = "none", colours, OPEN_WIDTH
    else:
        inside = colours
    return {"marker": SYMBOLS[filled], "facecolors": inside, "edgecolors": edge, "linewidths": edge_width}


def _sizes(trace: Mapping[str, Any], count: int) -> list[float]:
    return each(trace.get("marker", {}).get("size", MARKER_SIZE), count)
