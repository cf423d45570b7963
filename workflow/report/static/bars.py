"""plotly's bars on paper: lying or standing, grouped, stacked or over each other, patterned, with texts and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from workflow.report.static.axes import Plane
from workflow.report.static.terms import TEXT, known, one_of, words
from workflow.report.static.traces import BAR, each, error_bars, first, marker_colours, outline, write

MODES = ("group", "stack", "relative", "overlay")
GAP = 0.2  # plotly's, between the places
AWAY = 4  # points between a bar and its text
HATCHES = {"": "", "/": "//", "\\": "\\\\", ".": "..", "x": "xx", "-": "--", "|": "||", "+": "++"}


class Bars:
    """All bars of a figure: where one stands follows from the others."""

    def __init__(self, plane: Plane, traces: list[dict[str, Any]], layout: Mapping[str, Any]) -> None:
        self.plane, self.traces = plane, traces
        self.mode = layout.get("barmode", "group")
        one_of("layout.barmode", self.mode, MODES)
        self.room = 1 - layout.get("bargap", GAP)
        self.tops: dict[tuple[float, bool], float] = {}  # (place, above zero) -> where the stack ends

    def draw(self) -> None:
        """All of them."""
        for index, trace in enumerate(self.traces):
            self._draw(index, trace)

    def _draw(self, index: int, trace: Mapping[str, Any]) -> None:
        lying = trace.get("orientation", "v") == "h"
        names, values = (self.plane.y, self.plane.x) if lying else (self.plane.x, self.plane.y)
        places, thickness = self._places(names.places(trace[names.letter]), index, trace)
        lengths = [0.0 if math.isnan(length) else length for length in values.places(trace[values.letter])]
        bases = self._bases(trace, places, lengths)
        ends = [base + length for base, length in zip(bases, lengths, strict=True)]
        bars = self.plane.axes.barh if lying else self.plane.axes.bar
        bars(places, lengths, thickness, bases, zorder=BAR, **bar_style(trace, len(places)))
        error_bars(self.plane, trace, *((ends, places) if lying else (places, ends)), fallback=TEXT)
        if trace.get("textposition", "none") != "none":
            for text, place, base, end in zip(each(trace["text"], len(places)), places, bases, ends, strict=True):
                self._text(trace, words(text).strip(), place, (base, end), lying)

    def _places(self, places: list[float], index: int, trace: Mapping[str, Any]) -> tuple[list[float], float]:
        """The middles of the bars, and how thick they are."""
        thickness, count = trace.get("width", self.room), len(self.traces)
        if self.mode != "group":
            return places, thickness
        return [place + (index - (count - 1) / 2) * thickness / count for place in places], thickness / count

    def _bases(self, trace: Mapping[str, Any], places: list[float], lengths: list[float]) -> list[float]:
        """Where each begins: in a stack where the last on its side of zero ends."""
        if self.mode not in ("stack", "relative"):
            return [float(base) for base in each(trace.get("base", 0), len(places))]
        bases = []
        for place, length in zip(places, lengths, strict=True):
            bases.append(self.tops.get((place, length >= 0), 0.0))
            self.tops[place, length >= 0] = bases[-1] + length
        return bases

    def _text(self, trace: Mapping[str, Any], text: str, place: float, ends: tuple[float, float], lying: bool) -> None:
        """Behind the bar's end, on the side to which it grows; or in its middle."""
        forward = ends[1] >= ends[0]
        side = ("left" if forward else "right") if lying else ("bottom" if forward else "top")
        along, away = ends[1], AWAY if forward else -AWAY
        if trace["textposition"] == "inside":
            side, along, away = "center", sum(ends) / 2, 0
        if lying:
            write(self.plane, trace, text, (along, place), (away, 0), (side, "center"))
        else:
            write(self.plane, trace, text, (place, along), (0, away), ("center", side))


def bar_style(trace: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Full, or with a pattern in its colour on white."""
    colours, (edge, width) = marker_colours(trace, count), outline(trace)
    pattern = trace.get("marker", {}).get("pattern", {})
    known("marker.pattern", pattern, {"shape"})
    shape = pattern.get("shape", "")
    one_of("marker.pattern.shape", shape, HATCHES)
    if shape:
        return {"facecolor": "#ffffff", "edgecolor": colours, "linewidth": 1, "hatch": HATCHES[shape]}
    return {"facecolor": colours, "edgecolor": edge, "linewidth": width}


def key_style(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Of the box that stands for the trace in the legend."""
    return {key: first(value) for key, value in bar_style(trace, 1).items()}
