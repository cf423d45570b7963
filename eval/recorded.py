"""An experiment as its records alone tell it: for folders that hold run.json files and no experiment.json, such as
those of `results/reference/<device>/<experiment>/`.

    experiment = recorded(Path("results/reference/cpu/lisa_variants"))   # with `runs`, or with `cells`; None: no record
    rows = group(collect(experiment, folder), experiment)                # what reads any other experiment reads it too
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval import EvaluationError
from eval.collect import RECORDED, read_json, require
from eval.conditions import distinct

FILES = ("run.json", "failure.json")
NEEDED = ("experiment", "model", "data", "seed", *RECORDED)

Json = Mapping[str, Any]


def recorded(folder: Path) -> dict[str, Any] | None:
    """The experiment of all records below a folder; None where there is none.

    Raises:
        EvaluationError: a record cannot be read or lacks a field, two are of one run, or some are of runs and some of
            cells.
    """
    homes = {file.parent for name in FILES for file in folder.rglob(name)}
    records = {home: _read(home) for home in sorted(homes) if not _is_part(home)}
    if not records:
        return None
    cells = {home for home, record in records.items() if _is_cell(record)}
    if cells and len(cells) < len(records):
        one, other = min(cells), min(records.keys() - cells)
        raise EvaluationError(f"{one} holds a memory cell, {other} a trained run: give the folder of one experiment.")
    planned = [_planned(record, home.relative_to(folder).as_posix()) for home, record in records.items()]
    _check_unique(planned, folder)
    kind = {"kind": "memory", "cells": planned} if cells else {"kind": "training", "runs": planned}
    return {"name": distinct(record["experiment"] for record in records.values()), **kind}


def _is_part(home: Path) -> bool:
    """Whether it is a trial of a row, `<row>/tuning/trial0/seed0`, or the pretraining of a run, `<run>/continued`."""
    return home.name == "continued" or home.parts[-3:-2] == ("tuning",)


def _read(home: Path) -> Json:
    file = next(home / name for name in FILES if (home / name).is_file())
    record = read_json(file, NEEDED)
    for key, names in (("model", ("name",)), ("data", ("name",)), ("method", ("name", "variant", "hyperparameters"))):
        require(file, record[key], names, f"{key}.")
    require(file, record["method"], ("learning_rate",), "method.")
    return record


def _is_cell(record: Json) -> bool:
    """Whether it is of a memory experiment's cell; a failure to even begin has no settings yet."""
    return "setting" in record["settings"] or (not record["settings"] and record["data"]["name"] == "synthetic")


def _planned(record: Json, path: str) -> dict[str, Any]:
    """The entry in `runs` or `cells` that this record is of; what else it says of its settings, it alone decides."""
    of_method = {key: record["method"][key] for key in ("variant", "hyperparameters", "learning_rate")}
    planned = {"model": record["model"]["name"], "method": record["method"]["name"], **of_method, "path": path}
    if _is_cell(record):
        return planned | {"setting": path.rpartition("/")[2], "conditions": {}}
    return planned | {"data": record["data"]["name"], "seed": record["seed"]}


def _check_unique(planned: list[dict[str, Any]], folder: Path) -> None:
    paths: dict[tuple[Any, ...], str] = {}
    for entry in planned:
        key = tuple(entry.get(name) for name in ("model", "data", "method", "variant", "setting", "seed"))
        if paths.setdefault(key, entry["path"]) != entry["path"]:
            raise EvaluationError(
                f"{folder / paths[key]} and {folder / entry['path']} hold records of the same run: give the folder of"
                " one experiment."
            )
