"""The figures of a memory experiment: peaks by component, settings, speed-ups, and a step operator by operator.

Each function takes cells (`eval.memory_cells`) or rows of a table and returns a `Figure`, or None where nothing is to
be drawn. Memory is in GB (1e9 bytes) everywhere. A method has one colour in all of them (`drawing.styles_of`).
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.memory_cells import BASE, MemoryCell, devices
from eval.memory_tables import not_compared, published_cell, slug
from eval.published import Cell
from eval.tables import COMPONENTS, TableRow
from eval.text import GB
from workflow.report.card_lines import NOTE, card_lines
from workflow.report.drawing import (
    COMPONENT_COLOURS,
    LEAST_WIDTH,
    Figure,
    Selector,
    axes,
    bar_axes,
    bar_height,
    plot,
    safe,
    styles_of,
)

PUBLISHED_COLOUR = "#e0483e"
DEVICE_COLOURS = ("#7a4fd0", "#1b9aaa", "#b08a1e", "#6d8f2a")
BOUND_COLOUR = "#8fa6c4"
LEGEND_HEIGHT = 30  # of its further lines
PATTERNS = ("", "/", ".", "x", "-", "|")  # of the variants of a method
PART_COLOURS = {"forward": "rgba(90,140,220,.10)", "backward": "rgba(220,140,70,.10)", "step": "rgba(120,180,110,.13)"}
MOST_MOMENTS, LEAST_MOMENTS, ALL_MOMENTS = 400, 80, 10_000  # of a timeline, of a timeline, of all on the page


# --- peaks


def memory_figure(model: str, cells: Iterable[MemoryCell], published: list[Cell]) -> Figure | None:
    """Predicted peaks of a model's methods by component; what was measured and what was published as marks."""
    shown = [cell for cell in cells if cell.base and cell.row[0] == model and cell.simulated]
    if not shown:
        return None
    labels = [safe(cell.label) for cell in shown]
    marks = [trace for trace in (_published_marks(shown, published), *_measured_marks(shown)) if trace]
    peaks = [(cell.peak_bytes or 0) / GB for cell in shown]
    longest = max([*peaks, *(x for mark in marks for x in mark["x"])])
    layout = bar_axes("peak (GB)", longest) | {"barmode": "stack"}
    lines = card_lines(longest)
    layout |= lines
    farthest = max([longest, *(line["x0"] for line in lines["shapes"])])
    layout["xaxis"] |= {"range": [0, 1.06 * farthest]}
    numbers = [f"{label}  <b>{peak:.{_digits(peak)}f}</b>" for label, peak in zip(labels, peaks, strict=True)]
    layout["yaxis"] |= {"tickmode": "array", "tickvals": labels, "ticktext": numbers}
    figure = plot([*_component_bars(shown, labels), *marks], layout, bar_height(len(shown)) + LEGEND_HEIGHT)
    caption = f"Bars and bold numbers: predicted peak by component. {_marks_words(marks, devices(shown))}"
    caption += f" {NOTE}" if lines["shapes"] else ""
    return Figure(f"memory-{slug(model)}", model, figure, caption)


def _component_bars(shown: list[MemoryCell], labels: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "type": "bar",
            "orientation": "h",
            "name": role.replace("_", " "),
            "y": labels,
            "x": [cell.simulated["components"].get(role, 0) / GB for cell in shown],
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}: {role.replace('_', ' ')} %{{x:.3f}} GB<extra></extra>",
        }
        for role, colour in zip(COMPONENTS, COMPONENT_COLOURS, strict=True)
    ]


def _published_marks(shown: list[MemoryCell], published: list[Cell]) -> dict[str, Any] | None:
    pairs = [(cell, published_cell(cell, published, "peak_memory")) for cell in shown]
    valued = [(safe(cell.label), theirs.value) for cell, theirs in pairs if theirs and not_compared(theirs) is None]
    return _marks("published (G)", valued, "diamond", PUBLISHED_COLOUR) if valued else None


def _measured_marks(shown: list[MemoryCell]) -> list[dict[str, Any] | None]:
    marks = []
    found = devices(shown)
    for device, name, colour in zip(found, _device_names(found), itertools.cycle(DEVICE_COLOURS), strict=False):
        peaks = [(safe(cell.label), cell.allocated_bytes(device)) for cell in shown]
        valued = [(label, peak / GB) for label, peak in peaks if peak]
        marks.append(_marks(name, valued, "x", colour) if valued else None)
    return marks


def _marks(name: str, points: list[tuple[str, Any]], symbol: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "y": [label for label, _ in points],
        "x": [value for _, value in points],
        "marker": {"symbol": symbol, "color": colour, "size": 11, "line": {"color": "#ffffff", "width": 1}},
        "hovertemplate": f"%{{y}}: {name} %{{x:.3f}}<extra></extra>",
    }


def _device_names(found: list[str]) -> list[str]:
    """Short names for the legend; the caption says which device is which."""
    return ["measured"] if len(found) == 1 else [f"measured {place}" for place in range(1, len(found) + 1)]


def _devices_words(found: list[str]) -> str:
    return "".join(f" {n.capitalize()} on {device}." for n, device in zip(_device_names(found), found, strict=True))


def _marks_words(marks: list[dict[str, Any]], found: list[str]) -> str:
    if not marks:
        return "No measured or published figure is of the same quantity."
    drawn = {mark["name"] for mark in marks}
    where = _devices_words(found) if drawn & {*_device_names(found)} else ""
    return f"Marks: {', '.join(mark['name'] for mark in marks)}.{where}"


def _digits(peak_gb: float) -> int:
    return 1 if peak_gb >= 10 else 2 if peak_gb >= 1 else 3


# --- settings


def ablation_figure(model: str, rows: list[TableRow]) -> Figure | None:
    """By setting, the change of each method's predicted peak against the base."""
    mine = [row for row in rows if row["model"] == model and row["change_gb"] is not None]
    if not mine:
        return None
    order = list(dict.fromkeys(row["setting"] for row in mine))
    pairs = list(dict.fromkeys((row["method"], row["variant"]) for row in mine))
    traces = [_change_bars(pair, place, pairs, mine) for place, pair in enumerate(pairs)]
    changes = [row["change_gb"] for row in mine]
    room = 0.12 * (max(*changes, 0) - min(*changes, 0))
    layout = bar_axes("change of the predicted peak against the base (GB)", 1) | {"barmode": "group", "bargap": 0.25}
    layout["xaxis"] |= {"range": [min(*changes, 0) - room, max(*changes, 0) + room], "zeroline": True}
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": [safe(name) for name in order]}
    height = 150 + 17 * (len(mine) + len(order))
    caption = f"One setting changed at a time (table ablation says from what). {_between_methods(mine)}"
    title = f"{model}: what settings do to the peak"
    figure = plot(traces, layout, height)
    return Figure(f"settings-{slug(model)}", title, figure, caption, wide=True, least_width=LEAST_WIDTH)


def _change_bars(
    pair: tuple[str, str], place: int, pairs: list[tuple[str, str]], rows: list[TableRow]
) -> dict[str, Any]:
    mine = [row for row in rows if (row["method"], row["variant"]) == pair]
    twins = [other for other in pairs if other[0] == pair[0]]
    pattern = PATTERNS[twins.index(pair) % len(PATTERNS)]
    return {
        "type": "bar",
        "orientation": "h",
        "name": safe(_label(*pair)),
        "y": [safe(row["setting"]) for row in mine],
        "x": [row["change_gb"] for row in mine],
        "text": [f"{row['change_gb']:+.{_digits(row['predicted_peak_gb'])}f}" for row in mine],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": styles_of(pairs)[pair].colour, "pattern": {"shape": pattern}},
        "customdata": [[safe(row["changed"]), row["predicted_peak_gb"]] for row in mine],
        "hovertemplate": "%{customdata[0]}<br>%{x:+.3f} GB, peak %{customdata[1]:.3f} GB<extra>"
        f"{safe(_label(*pair))}</extra>",
    }


def _between_methods(rows: list[TableRow]) -> str:
    """How far the methods themselves lie apart at the base, and how far one setting moves one of them."""
    bases = {_label(row["method"], row["variant"]): row["base_peak_bytes"] / GB for row in rows}
    peaks = ", ".join(f"{name} {peak:.{_digits(peak)}f} GB" for name, peak in bases.items())
    widest = max(rows, key=lambda row: abs(row["change_gb"]))
    return (
        f"At the base: {peaks}. Largest change: {widest['change_gb']:+.{_digits(widest['predicted_peak_gb'])}f} GB "
        f"({_label(widest['method'], widest['variant'])}, {widest['setting']})."
    )


def range_figure(model: str, cells: Iterable[MemoryCell]) -> Figure | None:
    """Each method's predicted peaks over all its settings on one line: where methods overlap, settings decide."""
    mine = [cell for cell in cells if cell.row[0] == model and cell.simulated]
    pairs = [pair for pair in dict.fromkeys(cell.row[1:] for cell in mine) if _settings_of(mine, pair) > 1]
    if not pairs:
        return None
    look = styles_of(pairs)
    traces = [trace for pair in pairs for trace in _range([c for c in mine if c.row[1:] == pair], look[pair].colour)]
    largest = max((cell.peak_bytes or 0) / GB for cell in mine if cell.row[1:] in pairs)
    layout = bar_axes("predicted peak (GB)", 1)
    layout["xaxis"] |= {"range": [0, 1.06 * largest]}
    caption = (
        "A point a setting (table ablation names them), the base a large diamond. Where lines overlap, settings decide."
    )
    title = f"{model}: methods over all settings"
    return Figure(f"range-{slug(model)}", title, plot(traces, layout, 130 + 46 * len(pairs)), caption, wide=True)


def _settings_of(cells: list[MemoryCell], pair: tuple[str, str]) -> int:
    return sum(cell.row[1:] == pair for cell in cells)


def _range(cells: list[MemoryCell], colour: str) -> list[dict[str, Any]]:
    label = safe(cells[0].label)
    peaks = [(cell.peak_bytes or 0) / GB for cell in cells]
    base = [cell.base for cell in cells]
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": label,
            "showlegend": False,
            "y": [label] * len(cells),
            "x": peaks,
            "line": {"color": colour, "width": 1.5},
            "marker": {
                "color": colour,
                "symbol": ["diamond" if flag else "circle" for flag in base],
                "size": [16 if flag else 9 for flag in base],
                "opacity": 0.85,
            },
            "customdata": [safe("base" if cell.base else cell.planned["setting"]) for cell in cells],
            "hovertemplate": "%{customdata}: %{x:.3f} GB<extra>" + label + "</extra>",
        }
    ]


# --- speed


def speed_figure(rows: list[TableRow], found: list[str]) -> Figure | None:
    """Speed-up over full fine-tuning: what FLOPs allow, what was measured, what was published; a model at a time."""
    base = [row for row in rows if row["setting"] == BASE and row["method"] != "full"]
    bounded = [row for row in base if row["speedup_bound"] is not None]
    models = sorted(dict.fromkeys(row["model"] for row in bounded), key=lambda name: -_timed(name, bounded, found))
    if not models:
        return None
    columns = [
        ("allowed by FLOPs", "speedup_bound", BOUND_COLOUR),
        *(
            (name, f"measured_{slug(device)}_speedup_over_full", colour)
            for device, name, colour in zip(found, _device_names(found), itertools.cycle(DEVICE_COLOURS), strict=False)
        ),
        ("published", "published_speedup_over_full", PUBLISHED_COLOUR),
    ]
    drawn = [column for column in columns if any(row.get(column[1]) for row in bounded)]
    choices = [_speed_choice(model, [row for row in bounded if row["model"] == model], drawn) for model in models]
    traces = [
        {"type": "bar", "orientation": "h", "name": safe(name), "marker": {"color": colour}, **chosen}
        | {
            "textposition": "outside",
            "cliponaxis": False,
            "hovertemplate": f"%{{y}}: %{{x:.2f}}x {safe(name)}<extra></extra>",
        }
        for (name, _, colour), chosen in zip(drawn, choices[0]["traces"], strict=True)
    ]
    most = max(sum(row["model"] == model for row in bounded) for model in models)
    layout = bar_axes("speed-up over full fine-tuning (x)", 1) | {"barmode": "group"} | choices[0]["layout"]
    height = 150 + (14 + 16 * len(drawn)) * most
    published = any(key == "published_speedup_over_full" for _, key, _ in drawn)
    caption = f"Time of a step of full fine-tuning over the method's: {', '.join(name for name, *_ in drawn)}."
    caption += (
        " A published bar beyond what FLOPs allow cannot come from skipped matrix products alone." if published else ""
    )
    caption += _devices_words(found) if len(drawn) > 1 + published else ""
    figure = plot(traces, layout, height)
    return Figure(
        "speed", "Speed-up over full fine-tuning", figure, caption, choices, [Selector.of("Model", choices)], wide=True
    )


def _timed(model: str, rows: list[TableRow], found: list[str]) -> int:
    """How many kinds of times of this model were published and measured."""
    keys = ["published_speedup_over_full", *(f"measured_{slug(device)}_speedup_over_full" for device in found)]
    mine = [row for row in rows if row["model"] == model]
    return sum(any(row.get(key) for row in mine) for key in keys)


def _speed_choice(model: str, rows: list[TableRow], columns: list[tuple[str, str, str]]) -> dict[str, Any]:
    labels = [safe(_label(row["method"], row["variant"])) for row in rows]
    values = [[row.get(key) for row in rows] for _, key, _ in columns]
    longest = max(value for column in values for value in column if value)
    axis = bar_axes("speed-up over full fine-tuning (x)", longest)
    return {
        "label": model,
        "traces": [
            {"y": labels, "x": column, "text": ["" if v is None else f"{v:.2f}x" for v in column]} for column in values
        ],
        "layout": {"xaxis": axis["xaxis"]},
    }


# --- a step, operator by operator


def timeline_figure(cells: Iterable[MemoryCell]) -> Figure | None:
    """Bytes by component over the operators of one step, simulated or measured; one at a time."""
    files = [entry for cell in _varied_first(list(cells)) for entry in _timelines(cell)]
    if not files:
        return None
    limit = max(LEAST_MOMENTS, min(MOST_MOMENTS, ALL_MOMENTS // len(files)))
    choices = [_timeline_choice(label, read_timeline(file, limit), peak) for label, file, peak in files]
    names = [role.replace("_", " ") for role in COMPONENTS]
    areas = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "all",
            "name": name,
            "line": {"width": 0},
            "fillcolor": colour,
        }
        | {"hovertemplate": f"{name} %{{y:.3f}} GB<extra></extra>", "marker": {"color": colour}}
        for name, colour in zip(names, COMPONENT_COLOURS, strict=True)
    ]
    traces = [area | chosen for area, chosen in zip(areas, choices[0]["traces"], strict=True)]
    layout = axes("operator of the step", "live memory (GB)") | {"hovermode": "x unified"} | choices[0]["layout"]
    layout["yaxis"] |= {"rangemode": "tozero"}
    layout["margin"] = {"l": 60, "r": 24, "t": 52, "b": 56}  # the parts' names stand below the buttons
    caption = (
        "Every operator of one optimizer step in its order, thinned: of each stretch the largest moment. Shaded: the "
        "parts of the step. The arrow is the peak."
    )
    title = "Memory through one step"
    figure, selectors = plot(traces, layout, 480), [Selector.of("Cell", choices)]
    return Figure("timeline", title, figure, caption, choices, selectors, wide=True, least_width=LEAST_WIDTH)


def _varied_first(cells: list[MemoryCell]) -> list[MemoryCell]:
    """The cells at the base, those of models whose settings are varied first: they are looked at most."""
    varied = {cell.row[0] for cell in cells if not cell.base}
    return sorted((cell for cell in cells if cell.base), key=lambda cell: cell.row[0] not in varied)


def _timelines(cell: MemoryCell) -> list[tuple[str, Path, str]]:
    """Label, file and where the peak is, of what stands beside the cell's records."""
    name = f"{cell.row[0]}, {cell.label}"
    operator = str(cell.simulated.get("operator") or "")
    simulated = (f"{name}, simulated", cell.folder / "simulated_timeline.csv", operator)
    measured = [(f"{name}, measured on {d}", folder / "timeline.csv", "") for d, folder in cell.homes.items()]
    return [entry for entry in (simulated, *measured) if entry[1].is_file()]


Moment = tuple[int, str, tuple[int, ...]]  # operator, part, bytes by role


def read_timeline(file: Path, limit: int) -> list[Moment]:
    """The moments of a timeline's CSV, thinned to at most `limit`: of each equal stretch the largest."""
    with file.open(newline="") as stream:
        moments = [
            (int(row["operator"]), row["part"], tuple(int(row[f"{role}_bytes"]) for role in COMPONENTS))
            for row in csv.DictReader(stream)
        ]
    size = max(1, -(-len(moments) // limit))
    return [max(moments[i : i + size], key=lambda moment: sum(moment[2])) for i in range(0, len(moments), size)]


def _timeline_choice(label: str, moments: list[Moment], operator: str) -> dict[str, Any]:
    across = [place for place, _, _ in moments]
    traces = [{"x": across, "y": [round(roles[i] / GB, 4) for *_, roles in moments]} for i in range(len(COMPONENTS))]
    parts = _parts(moments)
    annotations = [_part_name(part, start, end) for part, start, end in parts]
    layout = {
        "shapes": [_part_shade(part, start, end) for part, start, end in parts],
        "annotations": [*annotations, _peak_arrow(moments, operator)],
    }
    return {"label": label, "traces": traces, "layout": layout}


def _parts(moments: list[Moment]) -> list[tuple[str, int, int]]:
    """Parts with their first and last operator."""
    groups = [(part, [place for place, *_ in group]) for part, group in itertools.groupby(moments, lambda m: m[1])]
    return [(part, places[0], places[-1]) for part, places in groups if part]


def _part_shade(part: str, start: int, end: int) -> dict[str, Any]:
    shade = {"fillcolor": PART_COLOURS.get(part, "rgba(0,0,0,0)"), "line": {"width": 0}, "layer": "below"}
    return {"type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1, **shade}


def _part_name(part: str, start: int, end: int) -> dict[str, Any]:
    place = {"x": (start + end) / 2, "y": 1, "xref": "x", "yref": "paper", "yanchor": "bottom"}
    return {"text": safe(part), "showarrow": False, **place}


def _peak_arrow(moments: list[Moment], operator: str) -> dict[str, Any]:
    place, part, roles = max(moments, key=lambda moment: sum(moment[2]))
    at = f", {safe(operator)}" if operator else ""
    peak = sum(roles) / GB
    text = f"peak {peak:.{_digits(peak) + 1}f} GB{' in ' + safe(part) if part else ''}{at}"
    middle = (moments[0][0] + moments[-1][0]) / 2
    side = {"ax": -40, "xanchor": "right"} if place > middle else {"ax": 40, "xanchor": "left"}
    return {"text": text, "x": place, "y": peak, "showarrow": True, "arrowhead": 2, "ay": -18, **side}


def _label(method: str, variant: str) -> str:
    return method if variant == BASE else f"{method} {variant}"


def models_of(cells: Iterable[MemoryCell]) -> list[str]:
    """Models in the experiment's order."""
    return list(dict.fromkeys(cell.row[0] for cell in cells))
