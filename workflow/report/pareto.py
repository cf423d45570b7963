"""The trade between score, memory and speed: a point a row, with the front of those that nothing beats in both.

    figure = pareto_figure(rows, look, verdicts, experiment)      # rows of one panel; two selectors: score and cost

Across stands a cost (peak memory, or the time of a step), up a score with its 95 % interval; the larger a point, the
more tokens a second. A row is on the front if no other costs less and scores better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.collect import Row
from eval.protocols import MT_BENCH, Slot, label, metrics, slots
from eval.statistics import Estimate
from eval.tables import UNSTEADY, steady_s, unsteady
from eval.tested import Verdicts
from eval.text import GB, MB
from workflow.report.drawing import KNOWN_COLOURS, Figure, Selector, Style, plot, safe

SMALLEST, LARGEST = 9.0, 22.0  # markers, in pixels
BEATEN = 0.45  # opacity of what is not on the front
FRONT_COLOUR = "#8a8f98"
CAPTION = (
    "Left is cheaper, up is better (for a loss: down). Bars: 95 % interval, or one standard error where nothing was "
    "tested. Larger points: more tokens a second. Dotted: the front; pale points are beaten in both by the "
    "mean of another. Dashed: the untrained model."
)


@dataclass(frozen=True)
class Score:
    """A score to choose: its column of the tables, in the unit of the axis."""

    slot: Slot
    label: str
    axis: str
    factor: float
    lower_is_better: bool = False

    def of(self, row: Row) -> Estimate:
        """A row's, with those seeds alone that were scored in this way."""
        return self.slot.part(row).estimate(self.slot.metric).scaled(self.factor)


@dataclass(frozen=True)
class Cost:
    """A cost to choose."""

    label: str
    axis: str
    values: Mapping[tuple[str, ...], float]  # by the row's key


def pareto_figure(
    rows: Sequence[Row], look: Mapping[tuple[str, str], Style], verdicts: Verdicts, experiment: Mapping[str, Any]
) -> Figure | None:
    """None where no row has both a cost and a score."""
    costs = [cost for cost in (_memory(rows), _time(rows)) if cost.values]
    shown = [row for row in rows if any(row.key in cost.values for cost in costs)]
    scores = [score for score in _scores(rows, experiment) if any(score.of(row).value is not None for row in shown)]
    if not shown or not scores:
        return None
    sizes = _sizes(shown)
    points = [_point(row, look[row.key[2:]], sizes[row.key]) for row in shown]
    choices = [_choice(score, cost, shown, rows, points, verdicts) for score in scores for cost in costs]
    traces = [*points, _line("front", FRONT_COLOUR, "dot", "hv"), _line("vanilla", KNOWN_COLOURS["vanilla"], "dash")]
    for trace, chosen in zip(traces, choices[0]["traces"], strict=True):
        trace |= chosen
    selectors = [Selector("Score", [score.label for score in scores])]
    selectors += [Selector("against", [cost.label for cost in costs])] if len(costs) > 1 else []
    figure = plot(traces, {"hovermode": "closest", **choices[0]["layout"]}, 440)
    uncounted = unsteady(shown)
    left = f" Without a point against step time, {UNSTEADY}: {', '.join(uncounted)}." if uncounted else ""
    return Figure("pareto", "Score, memory and speed", figure, CAPTION + left, choices, selectors, wide=True)


# --- what can be chosen


def _memory(rows: Iterable[Row]) -> Cost:
    peaks = {row.key: peak for row in rows if (peak := row.largest("memory", "phases", "train"))}
    large = max(peaks.values(), default=0) >= GB
    unit, factor = ("GB", GB) if large else ("MB", MB)
    axis = f"peak allocated while training ({unit})"
    return Cost("peak memory", axis, {key: peak / factor for key, peak in peaks.items()})


def _time(rows: Iterable[Row]) -> Cost:
    """Of rows whose seeds agree; where they do not, other work was on the machine."""
    times = {row.key: 1e3 * seconds for row in rows if (seconds := steady_s(row))}
    return Cost("step time", "median time of an optimizer step (ms)", times)


def _scores(rows: Sequence[Row], experiment: Mapping[str, Any]) -> list[Score]:
    found = [Score(slot, _named("MT-Bench", slot), "MT-Bench (1 to 10)", 1.0) for slot in slots(rows, MT_BENCH)]
    for metric in metrics(rows, experiment):
        name = label(metric)
        found += [Score(slot, _named(name, slot), f"{name} (%)", 100.0) for slot in slots(rows, metric)]
    loss = Slot("validation_loss", "validation_loss", None)
    return [*found, Score(loss, "Validation loss", "validation loss (nats per token)", 1.0, lower_is_better=True)]


def _named(name: str, slot: Slot) -> str:
    return f"{name}, {slot.told}" if slot.told else name


def _choice(
    score: Score,
    cost: Cost,
    shown: Sequence[Row],
    rows: Iterable[Row],
    points: Sequence[Mapping[str, Any]],
    verdicts: Verdicts,
) -> dict[str, Any]:
    """What the selectors change in the figure: places, bars and paleness of every trace, and both axes."""
    estimates = {row.key: score.of(row) for row in shown}
    places = {
        row.key: (cost.values[row.key], value)
        for row in shown
        if row.key in cost.values and (value := estimates[row.key].value) is not None
    }
    front = _front(places, score.lower_is_better)
    right = 1.08 * max(cost.values.values())
    untrained = [score.of(row).value for row in rows if row.first.method == "vanilla"]
    base = next((value for value in untrained if value is not None), None)
    traces = [
        {
            "x": [places[row.key][0]] if row.key in places else [None],
            "y": [places[row.key][1]] if row.key in places else [None],
            "error_y": _bar(row, score, estimates[row.key], verdicts),
            "showlegend": row.key in places,
            "marker": point["marker"] | {"opacity": 1 if row.key in front else BEATEN},
        }
        for row, point in zip(shown, points, strict=True)
    ]
    walked = [places[key] for key in front]
    traces.append({"x": [x for x, _ in walked] + [right] * bool(walked), "y": [y for _, y in [*walked, *walked[-1:]]]})
    traces.append({"x": [0, right], "y": [base, base], "showlegend": base is not None})
    axes = {
        "xaxis": {"title": {"text": cost.axis}, "range": [0, right]},
        "yaxis": {"title": {"text": score.axis}},
    }
    several = f"{score.label} against {cost.label}"
    return {"metric": score.slot.key, "label": several, "traces": traces, "layout": axes}


def _front(places: Mapping[tuple[str, ...], tuple[float, float]], lower_is_better: bool) -> list[tuple[str, ...]]:
    """Rows that no other beats in both, from the cheapest on."""
    sign = -1 if lower_is_better else 1
    front: list[tuple[str, ...]] = []
    for key, (cost, value) in sorted(places.items(), key=lambda item: (item[1][0], -sign * item[1][1])):
        if not front or sign * value > sign * places[front[-1]][1] or (cost, value) == places[front[-1]]:
            front.append(key)
    return front


def _bar(row: Row, score: Score, estimate: Estimate, verdicts: Verdicts) -> dict[str, Any]:
    """The interval around a point; one standard error where there is none."""
    cell = verdicts.of(row, score.slot.key)
    if cell is None or estimate.value is None:
        up = down = estimate.stderr or 0
    else:
        up, down = cell.high - estimate.value, estimate.value - cell.low
    return {"type": "data", "symmetric": False, "array": [up], "arrayminus": [down], "thickness": 1.2}


# --- traces


def _sizes(rows: Sequence[Row]) -> dict[tuple[str, ...], float]:
    """A marker's area grows with the tokens a second; without a rate it is of middle size."""
    rates = {row.key: row.mean("throughput", "tokens_per_s") for row in rows}
    fastest = max((rate for rate in rates.values() if rate), default=1.0)
    middle = (SMALLEST + LARGEST) / 2
    return {
        key: round(max(SMALLEST, LARGEST * math.sqrt(rate / fastest)), 1) if rate else middle
        for key, rate in rates.items()
    }


def _point(row: Row, style: Style, size: float) -> dict[str, Any]:
    rate = row.mean("throughput", "tokens_per_s")
    speed = f"<br>{rate:,.0f} tokens/s" if rate else ""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": safe(row.label),
        "marker": {"color": style.colour, "symbol": style.symbol, "size": size},
        "hovertemplate": f"{safe(row.label)}<br>%{{x:.4g}}, score %{{y:.4g}}{speed}<extra></extra>",
    }


def _line(name: str, colour: str, dash: str, shape: str = "linear") -> dict[str, Any]:
    line = {"color": colour, "dash": dash, "width": 1.5, "shape": shape}
    hover: Callable[[str], str] = "{}: %{{y:.4g}}<extra></extra>".format
    return {"type": "scatter", "mode": "lines", "name": name, "line": line, "hovertemplate": hover(name)}
