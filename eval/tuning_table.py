"""Every trial of every row: the budget, what was tried, what came out, what was chosen.

    lines = tuning(rows, experiment)              # tables/tuning.csv, a line a trial; empty where nothing is tuned
    table = tuning_table(lines, experiment)
    tuned = tuned_rows(rows, experiment)          # the rows with their trials and choices

`eval/tuning.py` reads the trials and holds the rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eval.chosen import ROW, NotChosen, read_choice
from eval.collect import Row
from eval.conditions import conditions, conditions_notes
from eval.mt_bench_tables import several
from eval.text import EMPTY, Column, Table, build, number, plain
from eval.tuning import NONE_FINISHED, RULE, Trial, read_trials

HEADING = "Tuning"

Line = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """A row of the tables with its trials; `choice` is empty as long as nothing is chosen."""

    row: Row
    trials: list[Trial]
    choice: Mapping[str, Any]

    def is_chosen(self, trial: Trial) -> bool:
        """Whether the final runs have this trial's settings."""
        return bool(self.choice) and self.choice["chosen"]["trial"] == trial.number


def tuned_rows(rows: Iterable[Row], experiment: Mapping[str, Any]) -> list[Tuned]:
    """The rows that have trials, in their order."""
    if not experiment.get("trials"):
        return []
    return [found for row in rows if (found := _tuned(row, experiment)).trials]


def _tuned(row: Row, experiment: Mapping[str, Any]) -> Tuned:
    run, results = dict(zip(ROW, row.key, strict=True)), row.first.folder.parents[len(ROW)]
    try:
        choice = read_choice(run, experiment, results)
    except NotChosen:
        choice = {}
    return Tuned(row, read_trials(run, experiment, results), choice)


def tuning(rows: Iterable[Row], experiment: Mapping[str, Any]) -> list[Line]:
    """A line for each trial of each row."""
    return [_line(tuned, trial, experiment) for tuned in tuned_rows(rows, experiment) for trial in tuned.trials]


def _line(tuned: Tuned, trial: Trial, experiment: Mapping[str, Any]) -> Line:
    model, data, method, variant = tuned.row.key
    chosen = tuned.is_chosen(trial)
    return {
        **{"model": model, "data": data, "method": method, "variant": variant, "row": tuned.row.label},
        "trial": trial.number,
        "learning_rate": trial.learning_rate,
        "swept": json.dumps(trial.swept) if trial.swept else None,
        "hyperparameters": json.dumps(trial.hyperparameters, sort_keys=True),
        "seeds": " ".join(str(run.seed) for run in trial.runs),
        "tuning_loss": trial.mean_loss,
        **{f"tuning_loss_seed{run.seed}": run.loss for run in trial.runs},
        "status": trial.status,
        "reason": trial.reason or None,
        "chosen": chosen,
        "at_edge": tuned.choice["at_edge"] if chosen else None,
        **conditions(trial.runs, experiment),
    }


def tuning_table(lines: list[Line], experiment: Mapping[str, Any]) -> Table:
    """The lines of `tuning` for people."""
    seeds = experiment["tuning"]["seeds"]
    columns = [
        *(Column(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Column("Method", plain("row"), numeric=False),
        Column("Learning rate", lambda line: f"{line['learning_rate']:g}"),
        Column("Also swept", lambda line: swept_words(json.loads(line["swept"] or "{}")) or EMPTY, numeric=False),
        Column("Loss on the tuning records", number("tuning_loss", 4)),
        *(Column(f"Seed {seed}", number(f"tuning_loss_seed{seed}", 4)) for seed in seeds if len(seeds) > 1),
        Column("Status", plain("status"), numeric=False),
        Column("Chosen", lambda line: "chosen" if line["chosen"] else EMPTY, numeric=False),
        Column("Reason", plain("reason"), numeric=False),
    ]
    notes = [_budget(experiment), RULE, _ranges(lines, experiment), *_edges(lines), *_open(lines)]
    title, made = f"{experiment['name']}: tuning", conditions_notes(lines, experiment)
    return build("tuning", title, columns, lines, notes, made, heading=HEADING)


def swept_words(swept: Mapping[str, Any]) -> str:
    """`gamma 2, period_steps 5`."""
    return ", ".join(f"{name} {value}" for name, value in swept.items())


# --- notes


def _budget(experiment: Mapping[str, Any]) -> str:
    tuning = experiment["tuning"]
    return (
        f"Equal budget: {tuning['trials']} trials of every row that trains, on every model and data set, each the "
        f"whole training on {_seeds(tuning['seeds'])}; the final runs with the chosen settings are on "
        f"{_seeds(experiment['seeds'])}. The loss is that on {tuning['items']} records held out from the train split "
        "for tuning: no run trains on them and no table of results uses them. Trials see neither the validation split "
        "nor a benchmark."
    )


def _seeds(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _ranges(lines: list[Line], experiment: Mapping[str, Any]) -> str:
    """Rates of each method, and whose range it is."""
    rates: dict[str, dict[float, None]] = {}
    for line in lines:
        rates.setdefault(line["method"], {})[line["learning_rate"]] = None
    words = (_range(method, sorted(tried), experiment) for method, tried in rates.items())
    return f"Learning rates, log-spaced: {'; '.join(words)}."


def _range(method: str, rates: list[float], experiment: Mapping[str, Any]) -> str:
    own = method in experiment["tuning"]["learning_rates"]
    whose = "the experiment's range" if own else f"the published range, as baselines/{method}.py cites it"
    if len(rates) == 1:
        return f"{method} {rates[0]:g} alone (the middle of {whose})"
    return f"{method} {len(rates)} from {rates[0]:g} to {rates[-1]:g} ({whose})"


def _edges(lines: list[Line]) -> list[str]:
    """Rows that might do better beyond what was tried."""
    found = [line for line in lines if line["at_edge"] and line["tuning_loss"] is not None]
    names = ", ".join(f"{_name(line, lines)} ({line['at_edge']})" for line in found)
    return [f"Best at an end of the range, so that a rate beyond it may be better still: {names}."] if found else []


def _open(lines: list[Line]) -> list[str]:
    """Rows of which no trial finished, and rows whose trials have not all ended."""
    lost = [_name(line, lines) for line in lines if line["chosen"] and line["tuning_loss"] is None]
    chosen = {_name(line, lines) for line in lines if line["chosen"]}
    waiting = [name for name in dict.fromkeys(_name(line, lines) for line in lines) if name not in chosen]
    return [
        *([f"{', '.join(lost)}: {NONE_FINISHED[0].lower()}{NONE_FINISHED[1:]}"] if lost else []),
        *([f"Nothing is chosen yet for {', '.join(waiting)}: not all of its trials have ended."] if waiting else []),
    ]


def _name(line: Line, lines: list[Line]) -> str:
    return " ".join([*(line[key] for key in several(lines)), line["row"]])
