"""The two axes of a figure on paper: scales, categories, ranges, ticks and titles, as plotly's layout has them.

plane = Plane(axes, traces, layout)     # axes: matplotlib's
x, y = plane.x.places(trace["x"]), plane.y.places(trace["y"])     # where they are drawn
plane.finish()                          # once all traces are drawn
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from workflow.report.static.terms import QUIET, known, one_of, words

TICK_CHARACTERS = 44  # of a line of a tick's label
KINDS = ("linear", "log", "category")
DRAWN = {
    *("title", "type", "range", "autorange", "rangemode", "showgrid", "zeroline", "showticklabels"),
    *("tickmode", "tickvals", "ticktext", "tickprefix", "ticksuffix", "tickformat", "dtick"),
    *("categoryorder", "categoryarray"),
}
OF_THE_PAGE = {"exponentformat", "fixedrange", "automargin", "hoverformat", "gridcolor", "linecolor", "zerolinecolor"}
FORMAT = re.compile(r",?(\.\d+)?[defg%]")  # what d3 and Python read alike
PLAIN = ",.10g"


class Axis:
    """Numbers, their logarithms, or names.

    Args:
        axes: matplotlib's.
        letter: x or y.
        given: plotly's settings of this axis.
        values: all that the traces have on it, in their order.
    """

    def __init__(self, axes: Any, letter: str, given: Mapping[str, Any], values: Iterable[Any]) -> None:
        known(f"{letter}axis", given, DRAWN | OF_THE_PAGE)
        self.axes, self.letter, self.given = axes, letter, given
        values = [value for value in values if value is not None]
        self.kind = given.get("type", "category" if any(isinstance(value, str) for value in values) else "linear")
        one_of(f"{letter}axis.type", self.kind, KINDS)
        one_of(f"{letter}axis.categoryorder", given.get("categoryorder", "trace"), ("trace", "array"))
        categories = [*given.get("categoryarray", []), *values] if self.kind == "category" else []
        self.categories = {name: float(place) for place, name in enumerate(dict.fromkeys(categories))}
        if self.kind == "log":
            self._set("scale", "log")

    def place(self, value: Any) -> float:
        """Where a value is drawn; nowhere what is missing, and on a logarithmic axis what is not above zero."""
        if value is None or (self.kind == "log" and value <= 0):
            return math.nan
        return self.categories[value] if value in self.categories else float(value)

    def places(self, values: Iterable[Any]) -> list[float]:
        """Of all of them."""
        return [self.place(value) for value in values]

    def finish(self) -> None:
        """Range, ticks, grid and title."""
        self._set("lim", *self._range())
        self._ticks()
        title = self.given.get("title", "")
        self._set("label", words(title if isinstance(title, str) else title.get("text", "")))
        self.axes.grid(self.given.get("showgrid", True), axis=self.letter)
        if self.given.get("zeroline") and self.kind == "linear":
            line = self.axes.axvline if self.letter == "x" else self.axes.axhline
            line(0, color=QUIET, linewidth=1, zorder=0.5)

    def _set(self, what: str, *values: Any) -> None:
        getattr(self.axes, f"set_{self.letter}{what}")(*values)

    def _range(self) -> tuple[float, float]:
        low, high = getattr(self.axes, f"get_{self.letter}lim")()
        if self.kind == "category":
            low, high = -0.5, len(self.categories) - 0.5
        if "range" in self.given:  # plotly's holds the exponents of a logarithmic axis
            low, high = (10**end if self.kind == "log" else end for end in self.given["range"])
        one_of(f"{self.letter}axis.rangemode", self.given.get("rangemode", "normal"), ("normal", "tozero"))
        if self.given.get("rangemode") == "tozero" and self.kind == "linear":
            ends = getattr(self.axes.dataLim, f"interval{self.letter}")
            low, high = 0 if min(ends) >= 0 else low, 0 if max(ends) <= 0 else high
        if low == high:
            low, high = getattr(self.axes, f"get_{self.letter}lim")()
        autorange = self.given.get("autorange", True)
        one_of(f"{self.letter}axis.autorange", autorange, (True, False, "reversed"))
        return (high, low) if autorange == "reversed" else (low, high)

    def _ticks(self) -> None:
        """Names at their places, or numbers where matplotlib finds round ones."""
        from matplotlib.ticker import NullFormatter

        own = getattr(self.axes, f"{self.letter}axis")
        if self.kind == "category" or "tickvals" in self.given:
            values = list(self.given.get("tickvals", self.categories))
            texts = self.given.get("ticktext", values if self.kind == "category" else map(self._number, values))
            self._set("ticks", self.places(values), [_wrapped(text) for text in texts])
        else:
            self._round_numbers(own)
        own.set_minor_formatter(NullFormatter())
        shown = self.given.get("showticklabels", True)
        self.axes.tick_params(axis=self.letter, which="both", length=0, labelbottom=shown, labelleft=shown)

    def _round_numbers(self, own: Any) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator

        low, high = sorted(own.get_view_interval())
        if self.kind == "log":
            own.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        elif "dtick" in self.given:
            own.set_major_locator(MultipleLocator(self.given["dtick"]))
        own.set_major_formatter(FuncFormatter(lambda value, _: self._number(value)))

    def _number(self, value: float) -> str:
        form = self.given.get("tickformat", PLAIN)
        if not FORMAT.fullmatch(form):
            raise ValueError(f"{self.letter}axis.tickformat is {form!r}; legal: such as ',.2f' or '.0%'")
        number = format(round(value) if form.endswith("d") else value, form).replace("-", "−")
        return f"{self.given.get('tickprefix', '')}{number}{self.given.get('ticksuffix', '')}"


def _wrapped(text: Any) -> str:
    return "\n".join(textwrap.fill(line, TICK_CHARACTERS) for line in words(text).split("\n"))


class Plane:
    """Both axes."""

    def __init__(self, axes: Any, traces: list[dict[str, Any]], layout: Mapping[str, Any]) -> None:
        self.axes = axes
        self.x, self.y = (
            Axis(axes, letter, layout.get(f"{letter}axis", {}), [v for trace in traces for v in trace.get(letter, [])])
            for letter in "xy"
        )

    def finish(self) -> None:
        """Ranges, ticks and titles, once all traces are drawn."""
        self.x.finish()
        self.y.finish()
