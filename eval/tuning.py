"""Choose a row's learning rate, and the hyper-parameters that are swept, from its trials.

    trials = read_trials(run, experiment, results)     # run: any of the row; one Trial a setting, its seeds inside
    choice = choose(trials, run, experiment)           # the content of chosen.json

`RULE` is the rule in words. Reads `run.json` of every trial; `workflow/tuning.py` says which trials a row has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.chosen import ROW, trials_of
from eval.collect import joined_statuses, training_records, verdict
from eval.json_files import require
from eval.planned import planned_settings

SCHEMA_VERSION = "1.0"
RULE = (
    "The trial with the smallest loss wins: the mean over its seeds of the loss on records held out from the train "
    "split for this alone. A trial of which a seed diverged, ran out of memory or failed has lost. Of equal ones the "
    "lower learning rate wins."
)
NONE_FINISHED = "No trial finished; the lowest rate is taken, so that the final runs show how the row ends."

Json = Mapping[str, Any]


@dataclass(frozen=True)
class TrialRun:
    """One seed of a trial: how it ended, and its loss on the tuning records if that is well."""

    seed: int
    status: str
    reason: str
    loss: float | None
    record: Json


@dataclass(frozen=True)
class Trial:
    """One setting that a row tried.

    Args:
        swept: those of the hyper-parameters whose values the experiment sweeps.
    """

    number: int
    learning_rate: float
    hyperparameters: Json
    swept: Json
    runs: tuple[TrialRun, ...]

    @property
    def status(self) -> str:
        """What the seeds share, else the counts, as of a row."""
        return joined_statuses([run.status for run in self.runs])

    @property
    def reason(self) -> str:
        """Why seeds have no loss."""
        return "; ".join(f"seed {run.seed}: {run.reason}" for run in self.runs if run.reason)

    @property
    def mean_loss(self) -> float | None:
        """Mean over the seeds; None unless all of them finished."""
        losses = [run.loss for run in self.runs if run.loss is not None]
        return fmean(losses) if len(losses) == len(self.runs) else None


def read_trials(run: Json, experiment: Json, results: Path) -> list[Trial]:
    """The trials of a run's row with what they left; none where the row is not tuned.

    Raises:
        EvaluationError: a record cannot be read or lacks a field.
    """
    groups: dict[int, list[Json]] = {}
    for trial in trials_of(run, experiment):
        groups.setdefault(trial["trial"], []).append(trial)
    names = experiment["tuning"]["hyperparameters"].get(run["method"], {}) if groups else {}
    return [
        Trial(
            number=number,
            learning_rate=planned[0]["learning_rate"],
            hyperparameters=planned[0]["hyperparameters"],
            swept={name: planned[0]["hyperparameters"][name] for name in names},
            runs=tuple(_read(trial, experiment, results) for trial in planned),
        )
        for number, planned in groups.items()
    ]


def _read(trial: Json, experiment: Json, results: Path) -> TrialRun:
    folder = results / trial["path"]
    record, failure, foreign = training_records(folder, planned_settings(trial, experiment))
    if foreign:
        return TrialRun(trial["seed"], "missing", foreign, None, {})
    stopped = verdict(failure or record)
    if stopped:
        status, phase, reason = stopped
        return TrialRun(trial["seed"], status, f"{phase}: {reason}" if phase else reason, None, failure or record)
    require(folder / "run.json", record, ("tuning_loss",))
    return TrialRun(trial["seed"], "ok", "", record["tuning_loss"], record)


def choose(trials: list[Trial], run: Json, experiment: Json) -> dict[str, Any]:
    """What chosen.json says: every trial, the rule, the chosen one, and whether its rate is an end of the range."""
    finished = [trial for trial in trials if trial.mean_loss is not None]
    best = min(finished or trials, key=lambda trial: (trial.mean_loss or 0.0, trial.learning_rate, trial.number))
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment["name"],
        **{key: run[key] for key in ROW},
        "rule": RULE,
        "note": None if finished else NONE_FINISHED,
        "tuning_items": experiment["tuning"]["items"],
        "trials": [_entry(trial) for trial in trials],
        "chosen": _entry(best),
        "at_edge": _edge(best, trials) if finished else None,
    }


def _entry(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "learning_rate": trial.learning_rate,
        "swept": trial.swept,
        "hyperparameters": trial.hyperparameters,
        "seeds": [run.seed for run in trial.runs],
        "losses": [run.loss for run in trial.runs],
        "mean_loss": trial.mean_loss,
        "status": trial.status,
        "reason": trial.reason or None,
    }


def _edge(best: Trial, trials: list[Trial]) -> str | None:
    """`lowest` or `highest` if nothing was tried beyond the chosen rate; None between, and of one rate alone."""
    rates = {trial.learning_rate for trial in trials}
    ends = {min(rates): "lowest", max(rates): "highest"}
    return ends.get(best.learning_rate) if len(rates) > 1 else None
