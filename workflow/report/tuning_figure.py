"""The sweep curves: what each learning rate that a row tried gave on the tuning records, and which one was chosen.

figure = tuning_figure(rows, look, experiment)     # of one (model, data) pair; None where nothing is tuned
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eval.collect import Row
from eval.tuning import Trial
from eval.tuning_table import Tuned, swept_words, tuned_rows
from workflow.report.drawing import DASHES, SYMBOLS, Figure, Style, axes, plot, safe

MARGIN = 0.06  # of the losses' span on the log axis, at both ends and for each row whose stopped trials are marked
LEAST = 1e-6  # a log axis has no zero
MOST_DECADES = 12  # whose ticks have room for whole numbers

Trace = dict[str, Any]


def tuning_figure(
    rows: list[Row], look: Mapping[tuple[str, str], Style], experiment: Mapping[str, Any]
) -> Figure | None:
    """A line a row and combination of swept values; stopped trials are marked at the top edge with their status."""
    tuned = tuned_rows(rows, experiment)
    if not tuned:
        return None
    trials = [trial for one in tuned for trial in one.trials]
    heights = [math.log10(max(trial.mean_loss, LEAST)) for trial in trials if trial.mean_loss is not None] or [0.0]
    lowest, highest = min(heights), max(heights)
    step = MARGIN * (highest - lowest or 1.0)
    stopped = {highest + step * place: one for place, one in enumerate(filter(_stopped, tuned), start=1)}
    traces = [
        *(trace for one in tuned for trace in _curves(one, look[one.row.key[2:]])),
        *(_stops(one, look[one.row.key[2:]], 10**height) for height, one in stopped.items()),
        *_chosen(tuned, look),
    ]
    layout = _log_axes([trial.learning_rate for trial in trials], (lowest - step, max([highest, *stopped]) + step))
    return Figure("tuning", "Learning rates tried", plot(traces, layout, 420), _caption(experiment, bool(stopped)))


def _log_axes(rates: list[float], losses: tuple[float, float]) -> dict[str, Any]:
    """Both axes; `losses` are the ends of the upright one, as exponents of ten."""
    layout = axes("learning rate", "loss on the tuning records (nats per token)")
    layout["xaxis"] |= {"type": "log", **_ticks(math.log10(min(rates)), math.log10(max(rates)))}
    layout["yaxis"] |= {"type": "log", "range": list(losses), **_ticks(*losses)}
    return layout


def _ticks(lowest: float, highest: float) -> dict[str, Any]:
    """Whole numbers at 1, 2 and 5 of each decade, over many decades at 1; within one plotly's own, which are linear."""
    if not 1 <= highest - lowest <= MOST_DECADES:
        return {"exponentformat": "power"}
    digits = (1, 2, 5) if highest - lowest < 4 else (1,)
    decades = range(math.floor(lowest), math.ceil(highest) + 1)
    values = [digit * 10.0**decade for decade in decades for digit in digits]
    return {"tickmode": "array", "tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def _caption(experiment: Mapping[str, Any], stopped: bool) -> str:
    tuning = experiment["tuning"]
    seeds = f"means of {len(tuning['seeds'])} seeds" if len(tuning["seeds"]) > 1 else "one seed each"
    marks = " Crosses at the top: trials without a loss." if stopped else ""
    return (
        f"{tuning['trials']} trials a row, {seeds}; loss on {tuning['items']} records that nothing else uses. "
        f"Rings: chosen for the final runs.{marks}"
    )


def _curves(tuned: Tuned, style: Style) -> list[Trace]:
    """The finished trials by learning rate, a line for each combination of swept values."""
    curves: dict[str, list[Trial]] = {}
    for trial in sorted(tuned.trials, key=lambda trial: trial.learning_rate):
        if trial.mean_loss is not None:
            curves.setdefault(swept_words(trial.swept), []).append(trial)
    return [_curve(tuned, style, place, words, trials) for place, (words, trials) in enumerate(curves.items())]


def _curve(tuned: Tuned, style: Style, place: int, words: str, trials: list[Trial]) -> Trace:
    name = safe(", ".join(filter(None, (tuned.row.label, words))))
    dash = DASHES[(DASHES.index(style.dash) + place) % len(DASHES)]
    symbol = SYMBOLS[(SYMBOLS.index(style.symbol) + place) % len(SYMBOLS)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [trial.learning_rate for trial in trials],
        "y": [trial.mean_loss for trial in trials],
        "line": {"color": style.colour, "dash": dash, "width": 2},
        "marker": {"color": style.colour, "symbol": symbol, "size": 7},
        "hovertemplate": f"{name}<br>learning rate %{{x}}: %{{y:.4f}}<extra></extra>",
    }


def _stopped(tuned: Tuned) -> list[Trial]:
    return [trial for trial in tuned.trials if trial.mean_loss is None]


def _stops(tuned: Tuned, style: Style, height: float) -> Trace:
    """The row's trials without a loss, each with its status."""
    trials = _stopped(tuned)
    names = [safe(" ".join(filter(None, (tuned.row.label, swept_words(trial.swept))))) for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [trial.learning_rate for trial in trials],
        "y": [height] * len(trials),
        "text": [f"{safe(trial.status)} " for trial in trials],
        "textposition": "middle left",  # most that stop are at the highest rates
        "customdata": names,
        "marker": {"color": style.colour, "symbol": "x", "size": 9},
        "hovertemplate": "%{customdata}<br>learning rate %{x}: %{text}<extra></extra>",
        "cliponaxis": False,
        "showlegend": False,
    }


def _chosen(tuned: list[Tuned], look: Mapping[tuple[str, str], Style]) -> list[Trace]:
    """Rings around the chosen trials that have a loss."""
    chosen = [(one, trial) for one in tuned for trial in one.trials if one.is_chosen(trial)]
    found = [(one, trial) for one, trial in chosen if trial.mean_loss is not None]
    rings = {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen",
        "x": [trial.learning_rate for _, trial in found],
        "y": [trial.mean_loss for _, trial in found],
        "marker": {
            "color": [look[one.row.key[2:]].colour for one, _ in found],
            "symbol": "circle-open",
            "size": 17,
            "line": {"width": 2.5},
        },
        "hoverinfo": "skip",
    }
    return [rings] if found else []
