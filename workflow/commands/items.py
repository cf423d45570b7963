"""Two methods item by item: which items both have right, which only one, which neither, and what each answered.

  lisa-bench items results/smoke                                     every row against the experiment's first
  lisa-bench items results/smoke --a lisa --b lora
  lisa-bench items results/smoke --a lisa --b lora/r128 --benchmark gsm8k --differing
  lisa-bench items results/smoke --a lisa --b lora --json | jq '.comparisons[] | {benchmark, difference}'

A row is a method, with its variant behind a slash unless that is `default`; only rows of one model on one data set are
compared, and of one seed: the experiment's first, or --seed. Runs are paired by item id; an item whose prompt is not
the same in both, or a benchmark that was not scored the same way, ends the command. MT-Bench's items are its judged
turns. Exit code 0: compared; 2: bad input.

--json prints one object: schema_version, experiment, seed, left_out (a sentence for each run that lacks scores) and
`comparisons`, a list of model, data, a, b, benchmark, items (that both have a value of), a_value, b_value, difference
(a - b; shares from 0 to 1, ratings from 1 to 10), a_higher and b_higher (items that this one alone has right, or has
rated higher), equal, both_right, both_wrong (null for ratings), unrated (no rating in one of them), missing_in_a,
missing_in_b (items that only the other has); with --differing also `differing`, a list of item_id, index (place in the
scored split from 0; MT-Bench: question), target, a and b, each with value, prediction (like target a text, or an
option's number, from 0 whatever the record counts from) and log_likelihoods, and record (what was asked; null where the
prepared data do not hold it as lm-eval saw it).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval import EvaluationError
from eval.collect import Row, Run, collect, group, panels
from eval.item_records import Records, records
from eval.items import MT_BENCH, Comparison, Item, check_scored_alike, compare, differing, load_items, paired
from workflow.checks import check_known
from workflow.engine.errors import InputError
from workflow.form import known_around, read

SUMMARY = "two methods item by item: what both have right, only one, neither"


@dataclass(frozen=True)
class Beside:
    """Two runs on one benchmark."""

    model: str
    data: str
    a: str
    b: str
    benchmark: str
    comparison: Comparison
    differing: list[tuple[Item, Item]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lisa-bench items`."""
    add = parser.add_argument
    add("results", type=Path, metavar="FOLDER", help="results/<experiment>")
    add("--a", metavar="ROW", help="method, or method/variant (all but --b, one after the other)")
    add("--b", metavar="ROW", help="likewise (the experiment's first row)")
    add("--benchmark", metavar="NAME", help="of this one only; mt_bench for ratings (all)")
    add("--model", metavar="NAME", help="rows of this model only")
    add("--data", metavar="NAME", help="rows of this data set only")
    add("--seed", type=int, metavar="SEED", help="of both runs, one at a time (the experiment's first)")
    add("--differing", action="store_true", help="list the items that differ, with both answers")
    add("--json", action="store_true", help="one JSON object instead of text")


def run(arguments: argparse.Namespace) -> None:
    """Answer on stdout."""
    from workflow.commands import items_text

    experiment = _experiment(arguments.results)
    seed = _chosen(arguments, experiment)
    left_out: list[str] = []
    try:
        rows = group(collect(experiment, arguments.results), experiment)
        found = list(_compared(rows, arguments, seed, left_out))
        asked = _asked(found, experiment, left_out) if arguments.differing else None
    except EvaluationError as error:
        raise InputError(str(error)) from error
    if arguments.json:
        head = {"schema_version": "1.0.0", "experiment": experiment["name"], "seed": seed, "left_out": left_out}
        print(json.dumps(head | {"comparisons": [_as_json(each, asked) for each in found]}, indent=2))
        return
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(items_text.page(found, f"{experiment['name']}, {_which(seed, experiment['seeds'])}", asked))


def _which(seed: int, seeds: list[int]) -> str:
    """The seed that is compared, and that there are others."""
    others = ", ".join(str(other) for other in seeds if other != seed)
    return f"seed {seed}" + (f" only (--seed for another: {others})" if others else "")


def _asked(found: list[Beside], experiment: dict[str, Any], left_out: list[str]) -> Records:
    """The records of the items that differ, as far as the prepared data are here and hold them."""
    manifest = Path(experiment["prepared"]["benchmarks"]) / "manifest.json"
    root = Path(json.loads(manifest.read_text())["root"]) if manifest.is_file() else manifest.parent
    if not manifest.is_file() or not root.is_dir():
        left_out.append(f"what was asked: the prepared data are not here ({root})")
        return {}
    items = [a for each in found for a, _ in each.differing]
    asked = records(items, root)
    lacking = Counter(item.benchmark for item in items if item.key not in asked)
    left_out += [
        f"what was asked: {count} items of {name} are not in the prepared data as lm-eval saw them"
        for name, count in lacking.items()
    ]
    return asked


def _as_json(beside: Beside, asked: Records | None) -> dict[str, Any]:
    about = {key: getattr(beside, key) for key in ("model", "data", "a", "b", "benchmark")}
    numbers = asdict(beside.comparison) | {"difference": beside.comparison.difference}
    items = {} if asked is None else {"differing": [_pair(a, b, asked) for a, b in beside.differing]}
    return about | numbers | items


def _pair(a: Item, b: Item, asked: Records) -> dict[str, Any]:
    keys = ("value", "prediction", "log_likelihoods")
    sides = {name: {key: getattr(item, key) for key in keys} for name, item in (("a", a), ("b", b))}
    return {"item_id": a.item_id, "index": a.index, "record": asked.get(a.key), "target": a.target, **sides}


# --- which runs


def _experiment(folder: Path) -> dict[str, Any]:
    if not (folder / "experiment.json").is_file():
        raise InputError(f"No experiment in {str(folder)!r}: it has no experiment.json.{known_around(folder)}")
    experiment = read(folder / "experiment.json")
    if not {"name", "runs", "seeds", "models", "data"} <= set(experiment):
        raise InputError(f"{folder} is no experiment with trained and evaluated runs; its kind has no items.")
    return experiment


def _chosen(arguments: argparse.Namespace, experiment: dict[str, Any]) -> int:
    """Check the words of the command line against the experiment; returns the seed."""
    known = {
        "benchmark": [entry["name"] for entry in experiment["evaluation"]["benchmarks"]]
        + ([MT_BENCH] if experiment["mt_bench"] else []),
        "model": [entry["name"] for entry in experiment["models"]],
        "data": [entry["name"] for entry in experiment["data"]],
    }
    for key, names in known.items():
        if getattr(arguments, key) is not None:
            check_known(f"--{key}", key, getattr(arguments, key), names)
    seed = experiment["seeds"][0] if arguments.seed is None else arguments.seed
    if seed not in experiment["seeds"]:
        raise InputError(
            f"--seed: {seed} is none of the experiment's. Known: {', '.join(map(str, experiment['seeds']))}."
        )
    return seed


def row_name(row: Row) -> str:
    """What the command line calls a row."""
    return row.first.method if row.first.variant == "default" else f"{row.first.method}/{row.first.variant}"


def _find(rows: dict[str, Row], option: str, name: str) -> str:
    """The row that is meant; a method with one variant needs no variant."""
    of_method = [each for each, row in rows.items() if row.first.method == name]
    meant = of_method[0] if len(of_method) == 1 else name.removesuffix("/default")
    check_known(option, "row", meant, list(rows))
    return meant


def _compared(rows: list[Row], arguments: argparse.Namespace, seed: int, left_out: list[str]) -> Iterator[Beside]:
    """Every asked pair of runs on every asked benchmark; notes in `left_out` what of it is not there."""
    for (model, data), members in panels(rows):
        if arguments.model in (None, model) and arguments.data in (None, data):
            runs = {row_name(row): next(run for run in row.runs if run.seed == seed) for row in members}
            others, b = _pair_names({row_name(row): row for row in members}, arguments.a, arguments.b)
            lacking = {name: why for name in (b, *others) if (why := _without_scores(runs[name]))}
            if b in lacking or (arguments.a and lacking):
                raise InputError(next(iter(lacking.values())))
            left_out += [*lacking.values(), *(_unfinished(runs[name]) for name in (b, *others) if name not in lacking)]
            left_out[:] = dict.fromkeys(filter(None, left_out))
            items_b = _items(runs[b], arguments.benchmark)
            for a in others:
                if a not in lacking:
                    items_a = _items(runs[a], arguments.benchmark)
                    for name, comparison, unequal in _benchmarks(runs[a], runs[b], items_a, items_b):
                        yield Beside(model, data, a, b, name, comparison, unequal)


def _pair_names(rows: dict[str, Row], a: str | None, b: str | None) -> tuple[list[str], str]:
    """The rows to compare, and the one they are compared with."""
    second = next(iter(rows)) if b is None else _find(rows, "--b", b)
    first = [name for name in rows if name != second] if a is None else [_find(rows, "--a", a)]
    if first in ([], [second]):
        raise InputError(f"--a and --b: {second!r} beside itself; they name different rows. Known: {', '.join(rows)}.")
    return first, second


def _without_scores(run: Run) -> str:
    """Why a run has no items; empty if it has some."""
    return "" if run.benchmarks or run.judged else f"{run.path} has no scores: {_why(run)}"


def _unfinished(run: Run) -> str:
    """What a run with items lacks all the same; empty if nothing."""
    return "" if run.status == "ok" else f"{run.path} is not whole: {_why(run)}"


def _why(run: Run) -> str:
    return ": ".join(filter(None, (run.status, run.reason)))


def _items(run: Run, benchmark: str | None) -> list[Item]:
    return [item for item in load_items(run.folder) if benchmark in (None, item.benchmark)]


def _benchmarks(
    a: Run, b: Run, items_a: list[Item], items_b: list[Item]
) -> Iterator[tuple[str, Comparison, list[tuple[Item, Item]]]]:
    """Two runs on each benchmark, with the items that differ."""
    pairs = paired(items_a, items_b)
    unequal = differing(pairs)
    for name, comparison in compare(pairs).items():
        check_scored_alike(a, b, name)
        yield name, comparison, [pair for pair in unequal if pair[0].benchmark == name]
