"""The made-up results tree of fixture_tree.py with tuning: three trials a row on two seeds; numbers mean nothing.

plan = tuned_tree.write_tree(folder)     # all trials, the choices among them, and the final runs as chosen
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.chosen import as_chosen, choice_file, row_path
from eval.tuning import choose, read_trials
from tests.report import fixture_tree

RATES = (1e-4, 1e-3, 1e-2)
LOSSES = {  # by rate; None: diverged
    "full": (1.5, 1.3, 1.2),  # best at the end
    "lora": (1.4, 1.1, 1.3),
    "galore": (1.6, 1.2, None),
    "lisa": (1.5, 1.25, 1.25),  # two are equal
}
CHOSEN = {"full": 1e-2, "lora": 1e-3, "galore": 1e-3, "lisa": 1e-3}
SEEDS = (7, 8)


def experiment(rank: tuple[int, ...] = (), **changes: Any) -> dict[str, Any]:
    """The experiment, tuned; with `rank`, LoRA's is swept too, with one rate each: then there must be three."""
    plan = fixture_tree.experiment(**changes)
    swept = {"lora": {"rank": list(rank)}} if rank else {}
    ranges = {"full": [RATES[0], RATES[-1]]}
    plan["tuning"] = {"trials": 3, "seeds": [*SEEDS], "items": 16, "learning_rates": ranges, "hyperparameters": swept}
    plan["seeds"] = sorted({run["seed"] for run in plan["runs"]})
    rows = {row_path(run): run for run in plan["runs"] if run["method"] != "vanilla"}
    plan["trials"] = [trial for path, row in rows.items() for trial in _trials(path, row, rank)]
    for run in plan["runs"]:
        run["learning_rate"] = None
    return plan


def _trials(path: str, row: dict[str, Any], rank: tuple[int, ...]) -> list[dict[str, Any]]:
    own = row["hyperparameters"]
    candidates = [(rate, own) for rate in RATES]
    if rank and row["method"] == "lora":
        candidates = [(RATES[1], {**own, "rank": value}) for value in rank]
    shared = {key: row[key] for key in ("model", "data", "method", "variant")}
    return [
        {
            **shared,
            "hyperparameters": settings,
            "learning_rate": rate,
            "trial": number,
            "seed": seed,
            "path": f"{path}/tuning/trial{number}/seed{seed}",
        }
        for number, (rate, settings) in enumerate(candidates)
        for seed in SEEDS
    ]


def write_tree(folder: Path, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write trials, choices, runs and experiment.json; returns the experiment."""
    plan = plan or experiment()
    for trial in plan["trials"]:
        write_trial(folder, trial, LOSSES[trial["method"]][trial["trial"]])
    for row in {row_path(trial): trial for trial in plan["trials"]}.values():
        write_choice(folder, plan, row)
    for run in plan["runs"]:
        fixture_tree.write_ok(folder, as_chosen(run, plan, folder))
    fixture_tree.write(folder / "experiment.json", plan)
    return plan


def write_trial(folder: Path, trial: dict[str, Any], loss: float | None) -> None:
    """A trial's record: its loss, a bit more for each seed, or a divergence."""
    record = record_of(trial)
    if loss is None:
        record |= {"status": "diverged", "phase": "train", "error": "loss is nan at step 12", "time": None}
    else:
        record["tuning_loss"] = round(loss + 0.01 * SEEDS.index(trial["seed"]), 4)
    fixture_tree.write(folder / trial["path"] / "run.json", record)


def record_of(trial: dict[str, Any]) -> dict[str, Any]:
    """A run.json of a trial that has no loss yet."""
    record = fixture_tree.record(trial) | {"schema_version": "1.1.2", "validation_loss": None}
    record["data"] |= {"validation_items": None, "tuning_items": 16}
    return record | {"trial": trial["trial"], "tuning_loss": None}


def write_choice(folder: Path, plan: dict[str, Any], row: dict[str, Any]) -> None:
    """chosen.json of a row, of what its trials left."""
    fixture_tree.write(choice_file(row, folder), choose(read_trials(row, plan, folder), row, plan))


def trials_of(plan: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """The planned trials of a method's first row."""
    first = next(trial for trial in plan["trials"] if trial["method"] == method)
    return [trial for trial in plan["trials"] if row_path(trial) == row_path(first)]
