"""What the trials of a row chose: `tuning/chosen.json` beside the row's runs, for its final runs and for all tables.

run = as_chosen(run, experiment, results)     # the planned run with the chosen learning rate and hyper-parameters

A row is what differs by its seed only. `eval/tuning.py` chooses, the stage `select` writes the file. Rows without
trials (no `tuning` in the experiment, or a method that trains nothing) are as planned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval import EvaluationError
from eval.json_files import read_json, require

ROW = ("model", "data", "method", "variant")
TRIED = ("trial", "learning_rate", "hyperparameters", "seeds")  # of a trial, what the plan says of it

Json = Mapping[str, Any]


class NotChosen(EvaluationError):
    """The trials of a row have not chosen yet, or those that did are not the planned ones."""


def row_path(run: Json) -> str:
    """model/data/method/variant of a run or trial."""
    return "/".join(run[key] for key in ROW)


def method_and_variant(name: str) -> tuple[str, str]:
    """What an experiment calls a row by: `lora` is its default variant, `lora/r16` another."""
    method, _, variant = name.partition("/")
    return method, variant or "default"


def trials_of(run: Json, experiment: Json) -> list[Json]:
    """The planned trials of a run's row, an entry a trial and seed."""
    folder = f"{row_path(run)}/tuning/"
    return [trial for trial in experiment.get("trials", []) if trial["path"].startswith(folder)]


def choice_file(run: Json, results: Path) -> Path:
    """Where the choice of a run's row stands."""
    return results / row_path(run) / "tuning" / "chosen.json"


def as_chosen(run: Json, experiment: Json, results: Path) -> Json:
    """The run with the settings that its row's trials chose; as it is where it has none.

    Raises:
        NotChosen: see `read_choice`.
    """
    if not trials_of(run, experiment):
        return run
    chosen = read_choice(run, experiment, results)["chosen"]
    return {**run, **{key: chosen[key] for key in ("learning_rate", "hyperparameters")}}


def read_choice(run: Json, experiment: Json, results: Path) -> Json:
    """The content of chosen.json of a tuned run's row.

    Raises:
        NotChosen: nothing is chosen yet, or was among other trials than the planned ones.
        EvaluationError: the file cannot be read.
    """
    file = choice_file(run, results)
    choice = read_json(file, ("trials", "chosen", "at_edge"))
    if not choice:
        raise NotChosen(
            "no tuning/chosen.json: not all trials of the row have ended (stage `train`), or nothing chose among them"
            " (stage `select`)"
        )
    for trial in choice["trials"]:
        require(file, trial, TRIED, "trials.")
    if [{key: trial[key] for key in TRIED} for trial in choice["trials"]] != tried(trials_of(run, experiment)):
        raise NotChosen("tuning/chosen.json chose among other trials than the planned ones; run the pipeline again")
    require(file, choice["chosen"], TRIED, "chosen.")
    return choice


def tried(planned: list[Json]) -> list[Json]:
    """One entry a trial, its seeds inside, as JSON has it."""
    found: dict[int, dict[str, Any]] = {}
    for trial in planned:
        entry = {key: trial[key] for key in TRIED[:-1]} | {"seeds": []}
        found.setdefault(trial["trial"], entry)["seeds"].append(trial["seed"])
    return json.loads(json.dumps(list(found.values())))
