"""Figures of the report, as plotly figures in JSON: losses, memory by component, step times, forgetting.

Each function takes the rows of one (model, data) pair and returns a `Figure`, or None where there is nothing to draw. A
method has one colour in all of them (`drawing.styles`). Colours of text and grid are the page's, set by its script.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from eval.collect import Row, Run
from eval.conditions import distinct
from eval.forgetting_table import other_text
from eval.present import METERS, OLD_COMPONENTS_NOTE, UNITS
from eval.tables import COMPONENTS, UNSTEADY, unsteady
from eval.text import GB, MB
from workflow.report.card_lines import NOTE, card_lines
from workflow.report.curves import Curve, mean_curve, read_log, training_curve, validation_curve
from workflow.report.drawing import (
    COMPONENT_COLOURS,
    WHISKERS,
    Figure,
    Style,
    axes,
    bar_axes,
    bar_ends,
    bar_height,
    plot,
    safe,
)

MAX_POINTS, MIN_POINTS, ALL_POINTS = 120, 20, 30_000  # per curve, per curve, of all curves of a figure


# --- losses

SeedCurve = tuple[Run, Curve]


def loss_figures(rows: list[Row], look: Mapping[tuple[str, str], Style]) -> list[Figure]:
    """Training and validation loss over steps: a thin line a seed, a thick one their mean."""
    logs = {run.path: read_log(run) for row in rows for run in row.runs}
    curves_count = max(1, sum(map(bool, logs.values())))
    points = max(MIN_POINTS, min(MAX_POINTS, ALL_POINTS // curves_count))
    training, validation = [], []
    for row in rows:
        training += _seed_lines(row, look, [(run, training_curve(logs[run.path], points)) for run in row.runs])
        validation += _seed_lines(row, look, [(run, validation_curve(logs[run.path], run)) for run in row.runs])
    longest = max((len(log) for log in logs.values()), default=0)
    window = -(-longest // points) if longest > points else 1
    smoothed = f", averaged over windows of {window} steps" if window > 1 else ""
    seeds = "Thin lines: seeds; thick lines: the mean of those that finished."
    texts = (
        ("training-loss", "Training loss", training, f"Loss per learned token of each step{smoothed}. {seeds}"),
        ("validation-loss", "Validation loss", validation, f"Loss per learned token of the validation split. {seeds}"),
    )
    return [
        Figure(name, title, plot(traces, axes("optimizer step", "loss (nats per token)"), 380), caption)
        for name, title, traces, caption in texts
        if traces
    ]


def _seed_lines(row: Row, look: Mapping[tuple[str, str], Style], curves: list[SeedCurve]) -> list[dict[str, Any]]:
    style = look[row.key[2:]]
    drawn = [(run, curve) for run, curve in curves if curve.steps]
    shared = {"type": "scatter", "legendgroup": row.label, "mode": "lines+markers" if _few(drawn) else "lines"}
    traces = []
    if len(drawn) > 1:
        for run, curve in drawn:
            traces.append(
                {
                    **shared,
                    **_line(row, style, curve, f"{row.label}, seed {run.seed}", width=1),
                    "opacity": 0.35,
                    "showlegend": False,
                }
            )
    finished = [curve for run, curve in drawn if run.trained] or [curve for _, curve in drawn]
    mean = mean_curve(finished)
    if mean.steps:
        name = f"{row.label}, mean of {len(finished)} seeds" if len(finished) > 1 else row.label
        traces.append({**shared, **_line(row, style, mean, name, width=2.5), "name": safe(row.label)})
    return traces


def _few(curves: list[SeedCurve]) -> bool:
    return all(len(curve.steps) <= 10 for _, curve in curves)


def _line(row: Row, style: Style, curve: Curve, name: str, width: float) -> dict[str, Any]:
    return {
        "x": curve.steps,
        "y": curve.losses,
        "line": {"color": style.colour, "dash": style.dash, "width": width},
        "marker": {"color": style.colour, "symbol": style.symbol, "size": 4 + width},
        "hovertemplate": f"{safe(name)}<br>step %{{x:.0f}}: %{{y:.4f}}<extra></extra>",
    }


# --- bars


def memory_figure(rows: list[Row]) -> Figure | None:
    """Peak memory of training by component, of the seed with the largest peak."""
    peaks = {row.key: row.largest("memory", "phases", "train") for row in rows}
    largest = max((peak for peak in peaks.values() if peak), default=None)
    if largest is None:
        return None
    unit, factor = ("GB", GB) if largest >= GB else ("MB", MB)
    shown = [row for row in rows if peaks[row.key] or row.status != "ok"]
    labels = [safe(row.label) for row in shown]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part.replace("_", " "),
            "y": labels,
            "x": [_component(row, part) / factor for row in shown],
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}: {part.replace('_', ' ')} %{{x:.2f}} {unit}<extra></extra>",
        }
        for part, colour in zip(COMPONENTS, COMPONENT_COLOURS, strict=True)
    ]
    texts = [f"{peaks[row.key] / factor:.1f} {unit}" if peaks[row.key] else row.status for row in shown]
    traces.append(bar_ends(labels, [(peaks[row.key] or 0) / factor for row in shown], texts))
    longest = largest / factor
    layout = bar_axes(f"peak allocated while training ({unit})", longest) | {"barmode": "stack"}
    lines = card_lines(longest) if unit == "GB" else {}
    if lines and lines["shapes"]:
        layout |= lines
        layout["xaxis"]["range"][1] = max(layout["xaxis"]["range"][1], 1.05 * lines["shapes"][-1]["x0"])
    meter = distinct(row.shared("memory", "meter") for row in shown) or "unknown"
    caption = f"Peak of training, largest of the seeds; {UNITS[unit]}. Meter: {METERS.get(meter, meter)}."
    if any("temporaries" not in (_components(row) or COMPONENTS) for row in shown):
        caption += f" {OLD_COMPONENTS_NOTE}"
    caption += f" {NOTE}" if layout.get("shapes") else ""
    return Figure("memory", "Memory by component", plot(traces, layout, bar_height(len(shown))), caption)


def _component(row: Row, part: str) -> float:
    components = _components(row)
    if components is None:  # a meter that knows no components: all of it is `other`
        return (row.largest("memory", "allocated_peak_bytes") or 0) if part == "other" else 0
    return components.get(part, 0)


def _components(row: Row) -> dict[str, float] | None:
    """Those of the seed with the largest peak."""
    peak = row.largest("memory", "allocated_peak_bytes")
    run = next((run for run in row.runs if run.trained and run.field("memory", "allocated_peak_bytes") == peak), None)
    return run.field("memory", "components") if run else None


def speed_figure(rows: list[Row], look: Mapping[tuple[str, str], Style]) -> Figure | None:
    """Median step time with the 90th percentile as whisker."""
    timed = [row for row in rows if row.mean("time", "step_median_s")]
    if not timed:
        return None
    median = [1e3 * (row.mean("time", "step_median_s") or 0) for row in timed]
    p90 = [1e3 * (row.mean("time", "step_p90_s") or 0) for row in timed]
    rates = [row.mean("throughput", "tokens_per_s") or 0 for row in timed]
    labels = [safe(row.label) for row in timed]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": labels,
        "x": median,
        "marker": {"color": [look[row.key[2:]].colour for row in timed]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [b - a for a, b in zip(median, p90, strict=True)],
            "color": WHISKERS,
        },
        "customdata": [[b, rate] for b, rate in zip(p90, rates, strict=True)],
        "hovertemplate": "%{y}<br>median %{x:.1f} ms, p90 %{customdata[0]:.1f} ms<br>"
        "%{customdata[1]:,.0f} tokens/s<extra></extra>",
        "showlegend": False,
    }
    uncounted = unsteady(timed)
    marks = [" (unsteady)" if row.label in uncounted else "" for row in timed]
    ends = bar_ends(labels, p90, [f"{rate:,.0f} tokens/s{mark}" for rate, mark in zip(rates, marks, strict=True)])
    layout = bar_axes("milliseconds an optimizer step", max(p90))
    caption = "Median time of an optimizer step, whisker to the 90th percentile, means of the seeds. Tokens: unpadded."
    caption += f" Unsteady rows are compared with none, {UNSTEADY}." if uncounted else ""
    return Figure("speed", "Step time", plot([bars, ends], layout, bar_height(len(timed))), caption)


# --- forgetting


def forgetting_figure(rows: list[Row], look: Mapping[tuple[str, str], Style]) -> Figure | None:
    """A line a row from the base model's perplexity on general text to its own, mean of the seeds."""
    moved = [(row, pairs) for row in rows if (pairs := _perplexities(row))]
    if not moved:
        return None
    traces: list[dict[str, Any]] = []
    for row, pairs in moved:
        before, after = (fmean(values) for values in zip(*pairs, strict=True))
        ratios = [own / base for base, own in pairs]
        spread = f" ± {stdev(ratios):#.3g}" if len(ratios) > 1 else ""
        colour = look[row.key[2:]].colour
        words = f"{safe(row.label)}<br>before {before:,.2f}, after {after:,.2f}<extra></extra>"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text",
                "x": [before, after],
                "y": [safe(row.label)] * 2,
                "line": {"color": colour, "width": 3},
                "marker": {"color": colour, "size": [9, 13], "symbol": ["circle-open", "circle"], "opacity": 1},
                "text": ["", f"  x {fmean(ratios):#.4g}{spread}"],
                "textposition": "middle right",
                "cliponaxis": False,
                "hovertemplate": words,
                "showlegend": False,
            }
        )
    ends = [value for _, pairs in moved for pair in pairs for value in pair]
    room = 0.12 * (max(ends) - min(ends) or max(ends))
    layout = bar_axes("word perplexity on general text", 1.0)
    lowest = max(0.0, min(ends) - room)
    layout["xaxis"]["range"] = [lowest or -room / 4, max(ends) + 3 * room]
    caption = (
        "From the base model (open) to the fine-tuned one (filled), means of the seeds; right is worse. Beside it "
        "after over before, ± the standard deviation of the seeds."
    )
    caption += " The axis does not begin at 0." if lowest else ""
    return Figure("forgetting", "Forgetting", plot(traces, layout, bar_height(len(moved))), caption)


def _perplexities(row: Row) -> list[tuple[float, float]]:
    """(before, after) of every seed where both are finite and of the same text."""
    scored = [run for run in row.runs if run.forgetting and other_text(run) is None]
    pairs = [(run.general_text["word_perplexity"], run.forgetting["word_perplexity"]) for run in scored]
    return [pair for pair in pairs if None not in pair]
