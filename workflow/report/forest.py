"""Differences with their intervals, one below the other: every row against the reference, and ours against published.

    forest_figure(rows, look, verdicts, experiment)     # a selector of scores; None where nothing was tested
    published_figure(lines)                             # lines of eval.versus.versus that have both numbers

A filled point is told apart from the line it is compared with, an open one is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.chosen import method_and_variant
from eval.collect import Row
from eval.tables import TableRow
from eval.tested import Column, Verdicts, is_category
from eval.verdicts import Difference, seen_from
from workflow.report.drawing import (
    LEAST_WIDTH,
    WHISKERS,
    Figure,
    Selector,
    Style,
    bar_axes,
    bar_height,
    plot,
    safe,
)

ROOM = 0.45  # of the span, for the words right of it
PUBLISHED_COLOUR = "#e0483e"
OUR_COLOUR = "#3f7fc1"
MOST_LINES = 60  # of published numbers in a figure


def reference_of(rows: Sequence[Row], experiment: Mapping[str, Any]) -> Row | None:
    """The row that others are compared with: the experiment's choice, full fine-tuning, or the first that trains."""
    chosen = experiment["report"].get("reference")
    place = method_and_variant(chosen or "full")
    named = (row for row in rows if (row.first.method, row.first.variant) == place)
    methods = (row for row in rows if row.first.method == place[0])
    trained = (row for row in rows if row.first.method != "vanilla")
    return next(named, None) or next(methods, None) or next(trained, None)


def forest_figure(
    rows: Sequence[Row], look: Mapping[tuple[str, str], Style], verdicts: Verdicts, experiment: Mapping[str, Any]
) -> Figure | None:
    """Every row minus the reference, in the chosen score."""
    reference = reference_of(rows, experiment)
    columns = verdicts.panels.get(rows[0].key[:2], {}) if reference else {}
    whole = [column for key, column in columns.items() if not is_category(key)]
    found = [(column, _against(reference, column)) for column in whole if reference]
    found = [(column, pairs) for column, pairs in found if pairs]
    if not found or reference is None:
        return None
    colours = {row.label: look[row.key[2:]].colour for row in rows}
    order = [row.label for row in rows if row.label != reference.label]
    choices = [_choice(column, pairs, order, colours) for column, pairs in found]
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "markers", "showlegend": False, "hovertemplate": HOVER},
        {"type": "scatter", "mode": "text", "showlegend": False, "textposition": "middle right", "hoverinfo": "skip"},
    ]
    for trace, chosen in zip(traces, choices[0]["traces"], strict=True):
        trace |= chosen
    figure = plot(traces, {**choices[0]["layout"], "hovermode": "closest"}, bar_height(len(order)))
    caption = (
        f"Each row minus {reference.label}, with its 95 % interval. Filled: told apart from it (corrected for all "
        "pairs of the score); open: not. Grey band: the noise floor. tables/differences.csv has every pair."
    )
    selectors = [Selector("Score", [column.label for column, _ in found])]
    title = f"Differences from {reference.label}"
    return Figure("differences", title, figure, caption, choices, selectors, wide=True, least_width=LEAST_WIDTH)


HOVER = "%{y}: %{x:+.4g}<extra></extra>"


def _against(reference: Row, column: Column) -> dict[str, Difference]:
    """Tested differences of all rows from the reference that have an interval, by row; none of too few items."""
    if not column.verdict.tested:
        return {}
    pairs = [pair for pair in column.verdict.differences if reference.label in (pair.a, pair.b)]
    turned = [seen_from(pair.b if pair.a == reference.label else pair.a, pair) for pair in pairs]
    return {pair.a: pair for pair in turned if pair.p_holm is not None and pair.low is not None}


def _choice(
    column: Column, pairs: Mapping[str, Difference], order: Sequence[str], colours: Mapping[str, str]
) -> dict[str, Any]:
    shown = [pairs[name] for name in order if name in pairs]
    values, lows, highs = ([column.factor * getattr(pair, key) for pair in shown] for key in ("value", "low", "high"))
    labels, paint = [safe(pair.a) for pair in shown], [colours[pair.a] for pair in shown]
    symbols = ["circle" if pair.apart else "circle-open" for pair in shown]
    digits = column.digits
    texts = [
        f"  {value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        for value, low, high in zip(values, lows, highs, strict=True)
    ]
    points = {
        "x": values,
        "y": labels,
        "marker": {"color": paint, "symbol": symbols, "size": 11},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, high in zip(values, highs, strict=True)],
            "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
            "thickness": 1.4,
            "color": WHISKERS,
        },
    }
    direction = "lower" if column.verdict.lower_is_better else "higher"
    floor = column.factor * column.verdict.floor
    unit = "points" if column.unit == "%" else column.unit
    layout = _axes(f"difference in {column.label} ({unit}; {direction} is better)", lows, highs, order)
    layout["shapes"] = [_zero(), *([_band(floor)] if floor else [])]
    return {
        "label": column.label,
        "traces": [points, {"x": highs, "y": labels, "text": texts}],
        "layout": layout,
    }


def _axes(title: str, lows: Sequence[float], highs: Sequence[float], labels: Sequence[str]) -> dict[str, Any]:
    low, high = min(0.0, *lows), max(0.0, *highs)
    span = (high - low) or 1.0
    layout = bar_axes(title, 1.0)
    del layout["bargap"]
    layout["xaxis"]["range"] = [low - 0.05 * span, high + ROOM * span]
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": [safe(name) for name in labels]}
    return layout


def _zero() -> dict[str, Any]:
    line = {"color": "#8a8f98", "width": 1.2, "dash": "dash"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "line": line}


def _band(floor: float) -> dict[str, Any]:
    fill = {"fillcolor": "rgba(138,143,152,.18)", "line": {"width": 0}, "layer": "below"}
    return {"type": "rect", "xref": "x", "yref": "paper", "x0": -floor, "x1": floor, "y0": 0, "y1": 1, **fill}


# --- published beside ours


def published_figure(lines: Sequence[TableRow]) -> Figure | None:
    """Published numbers as marks on our intervals; a choice a metric. None where no line has both with an interval."""
    both = [line for line in lines if line["difference"] is not None and line["ours_low"] is not None]
    if not both:
        return None
    units = list(dict.fromkeys((line["metric"], line["unit"]) for line in both))
    choices = [_beside([line for line in both if (line["metric"], line["unit"]) == unit], unit) for unit in units]
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "markers", "name": "ours", "hovertemplate": HOVER},
        {"type": "scatter", "mode": "markers", "name": "published", "hovertemplate": HOVER},
    ]
    for trace, chosen in zip(traces, choices[0]["traces"], strict=True):
        trace |= chosen
    tallest = max(len(choice["traces"][0]["x"]) for choice in choices)
    figure = plot(traces, {**choices[0]["layout"], "hovermode": "closest"}, bar_height(tallest) + 30)
    selectors = [Selector("Metric", [choice["label"] for choice in choices])]
    caption = (
        "Our mean with its 95 % interval over seeds and items; the published value as printed. Filled: the published "
        "value lies within our interval."
    )
    return Figure("published", "Published and ours", figure, caption, choices, selectors, wide=True)


def _beside(lines: Sequence[TableRow], unit: tuple[str, str]) -> dict[str, Any]:
    lines = lines[:MOST_LINES]
    labels = [safe(f"{line['model']} {line['method']} {line['variant']}".strip()) for line in lines]
    ours, published = [line["ours"] for line in lines], [float(line["published"]) for line in lines]
    error = {
        "type": "data",
        "symmetric": False,
        "array": [line["ours_high"] - line["ours"] for line in lines],
        "arrayminus": [line["ours"] - line["ours_low"] for line in lines],
        "thickness": 1.4,
        "color": WHISKERS,
    }
    symbols = ["circle" if line["reproduces"] == "yes" else "circle-open" for line in lines]
    ends = [*published, *(line[key] for line in lines for key in ("ours_low", "ours_high"))]
    span = (max(ends) - min(ends)) or 1.0
    layout = bar_axes(f"{unit[0]} ({unit[1]})", 1.0)
    del layout["bargap"]
    layout["xaxis"]["range"] = [min(ends) - 0.06 * span, max(ends) + 0.06 * span]
    return {
        "label": unit[0],
        "traces": [
            {"x": ours, "y": labels, "error_x": error, "marker": {"color": OUR_COLOUR, "symbol": symbols, "size": 11}},
            {"x": published, "y": labels, "marker": {"color": PUBLISHED_COLOUR, "symbol": "diamond", "size": 10}},
        ],
        "layout": layout,
    }
