"""What all figures of the report share: colours and dashes by method and variant, layout, and a check by plotly."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from eval.collect import Row

KNOWN_COLOURS = {"vanilla": "#8a8f98", "full": "#3f7fc1", "lora": "#d9822b", "galore": "#2f9e69", "lisa": "#c2457d"}
COMPONENT_COLOURS = ("#5c7fb0", "#dc9a55", "#b65f86", "#57a58b", "#a5d3a0", "#9a9da3")  # of eval.tables.COMPONENTS
MORE_COLOURS = ("#8b6cd0", "#1b9aaa", "#b08a1e", "#cf5540", "#6d8f2a", "#a3649b")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
FILLED = ("circle", "diamond", "square", "triangle-up", "cross", "star")
SYMBOLS = (*FILLED, *(f"{symbol}-open" for symbol in FILLED))
WORDS_ROOM = 1.4  # of the longest bar: what stands behind it needs room
GOLDEN_ANGLE = 0.381966  # of the circle: neighbours in the list look different
TOLD_APART = 8  # colours
WHISKERS = "#8a8f98"  # plotly's own are black, in the dark too
LEAST_WIDTH = 560  # pixels, of a figure with long words in it
LEGEND_BELOW = 10  # entries; more of them stand beside the figure


@dataclass(frozen=True)
class Selector:
    """What a reader chooses of a figure: a name and the options."""

    name: str
    options: list[str]

    @classmethod
    def of(cls, name: str, choices: list[dict[str, Any]]) -> Selector:
        """The one selector of a figure's choices."""
        return cls(name, [choice["label"] for choice in choices])


@dataclass(frozen=True)
class Figure:
    """A drawing with its words.

    Args:
        plot: {"data": [...], "layout": {...}} for plotly.js.
        caption: what is drawn, units and conditions.
        choices: what is drawn instead of what is in `plot`: {"label", "traces": [...], "layout": {...}}, one for every
            combination of the selectors' options, those of the last selector next to each other.
        wide: takes the page's whole width.
        least_width: in pixels; a narrower screen scrolls the figure.
    """

    name: str
    title: str
    plot: dict[str, Any]
    caption: str
    choices: list[dict[str, Any]] = field(default_factory=list)
    selectors: list[Selector] = field(default_factory=list)
    wide: bool = False
    least_width: int = 0


@dataclass(frozen=True)
class Style:
    """How a row looks in every figure: colour by method, dash and symbol by variant."""

    colour: str
    dash: str
    symbol: str


def styles(rows: Iterable[Row]) -> dict[tuple[str, str], Style]:
    """The style of each (method, variant), the same for all models and data."""
    return styles_of((row.first.method, row.first.variant) for row in rows)


def styles_of(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Style]:
    """The style of each (method, variant): variants of a method differ in dash and symbol, and methods in colour.

    No eye tells more than some eight colours apart: after so many methods dash and symbol move on too.
    """
    variants: dict[str, list[str]] = {}
    for method, variant in dict.fromkeys(pairs):
        variants.setdefault(method, []).append(variant)
    palette = colours(variants)
    return {
        (method, variant): Style(palette[method], DASHES[place % len(DASHES)], SYMBOLS[place % len(SYMBOLS)])
        for index, (method, names) in enumerate(variants.items())
        for place, variant in enumerate(names, start=index // TOLD_APART)
    }


def colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each method: the suite's own are fixed, others follow in order."""
    unknown = [method for method in methods if method not in KNOWN_COLOURS]
    extra = [*MORE_COLOURS, *(_spread(index) for index in range(len(unknown)))]
    return {**KNOWN_COLOURS, **dict(zip(unknown, extra, strict=False))}


def _spread(index: int) -> str:
    red, green, blue = colorsys.hls_to_rgb((0.05 + index * GOLDEN_ANGLE) % 1, 0.5, 0.5)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def axes(x_title: str, y_title: str) -> dict[str, Any]:
    """Titles of both axes."""
    return {
        "xaxis": {"title": {"text": x_title}},
        "yaxis": {"title": {"text": y_title}},
        "hovermode": "closest",
    }


def bar_ends(labels: list[str], ends: list[float], texts: list[str]) -> dict[str, Any]:
    """Words behind the bars."""
    return {
        "type": "scatter",
        "mode": "text",
        "y": labels,
        "x": ends,
        "text": [f" {safe(text)}" for text in texts],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def bar_axes(title: str, longest: float) -> dict[str, Any]:
    """Axes of horizontal bars, the first at the top."""
    yaxis = {"autorange": "reversed", "type": "category", "fixedrange": True, "showgrid": False}
    xaxis = {"title": {"text": title}, "range": [0, WORDS_ROOM * longest]}
    return {"xaxis": xaxis, "yaxis": yaxis, "bargap": 0.35}


def bar_height(bars: int) -> int:
    """Of a figure with so many bars, in pixels."""
    return 150 + 34 * bars


def plot(traces: list[dict[str, Any]], layout: dict[str, Any], height: int) -> dict[str, Any]:
    """Check the figure against plotly's schema and return it as plain JSON."""
    import plotly.graph_objects as go

    named = sum(trace.get("showlegend", True) for trace in traces)
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"} if named <= LEGEND_BELOW else {}
    shared = {
        "height": height,
        "margin": {"l": 60, "r": 24, "t": 34, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {**legend, "traceorder": "normal"},
        "template": go.layout.Template(),
    }
    return go.Figure(data=traces, layout={**shared, **layout}).to_plotly_json()


def safe(text: str) -> str:
    """plotly reads a little HTML in labels; text from records is none."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
