"""Two experiments side by side: machines, versions, settings; what does not compare says why.

  lisa-bench compare results/smoke results/smoke-on-the-gpu
  lisa-bench compare results/reference/cpu/lisa_variants results/lisa_variants --method lisa
  lisa-bench compare results/a results/b --markdown            to paste into an issue
  lisa-bench compare results/a results/b --json | jq '.rows[] | select(.compares | not) | {method, variant}'

A folder is results/<experiment>, or any folder of run records (run.json) such as results/reference/<device>/<name>;
both hold trained runs, or both the cells of memory experiments. Rows are matched by model, data, method and variant,
cells by model, method, variant and setting, whatever the experiments are called. Runs are compared seed by seed.

A metric compares if the records share the major and minor number of their schema version and all that decides it:
hyper-parameters, learning rate, training settings, prompt format, training data, base model, tokens trained on; for a
score also the protocol it was made by, the judge for MT-Bench, for memory the meter. Device, driver, packages, commit,
threads and dates are what is compared: they stand at the top. Memory and speed do not depend on the base model's
values, nor on learning rate, schedule or AdamW's constants. Exit code 0: answered, whatever the answer; 2: bad input.

--csv writes a row a metric. --json prints one object: schema_version, kind (training or memory), a and b (folder and
conditions: experiment, record_version, device, driver, cuda, python, threads, precision, packages by name, git_commit,
git_dirty, lock_sha256, first_started, last_started; several values are joined by ' / '), counts (rows in both,
not_comparable of them, one_sided of them with a metric that one side lacks, only_a, only_b), only_a and only_b
(identities) and `rows`, a list of model, data (of runs), method, variant, setting (of cells), seeds (that both have),
compares (whether every metric does), code_changed (whether other sources made the runs), notes (sentences) and metrics,
a list of name (validation_loss, a benchmark, mt_bench, peak_memory_bytes, tokens_per_s, step_median_s; of cells also
predicted_peak_bytes), made (how scored, or by which judge), seeds, a_value, a_stderr, b_value, b_stderr (means over
these seeds, of peaks the largest; shares from 0 to 1, ratings from 1 to 10), difference (b - a, of scores and losses),
ratio (b / a, of memory and speed) and reasons (why the two do not compare; difference and ratio are then null, as they
are where only one side has the metric).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval import EvaluationError
from eval.side_by_side import Metric, Pair, SideBySide, side_by_side, table
from eval.sides import IDENTITY, Key, Side, read_side
from workflow.checks import check_known
from workflow.engine.errors import InputError
from workflow.form import known_around, read

SUMMARY = "two results folders side by side, and which rows do not compare"
FILTERS = ("model", "data", "method")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lisa-bench compare`."""
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="results/<experiment>, or a folder of run records")
    add("b", type=Path, metavar="B", help="likewise; differences are b - a, ratios b / a")
    add("--model", metavar="NAME", help="rows of this model only")
    add("--data", metavar="NAME", help="rows of this data set only")
    add("--method", metavar="NAME", help="rows of this method only")
    add("--csv", type=Path, metavar="FILE", help="write all metrics there too, one a row")
    form = parser.add_mutually_exclusive_group().add_argument
    form("--json", action="store_true", help="one JSON object instead of text")
    form("--markdown", action="store_true", help="Markdown instead of text")


def run(arguments: argparse.Namespace) -> None:
    """Answer on stdout."""
    from eval.tables import write_csv
    from workflow.commands import compare_text

    if arguments.csv and not arguments.csv.parent.is_dir():
        raise InputError(f"--csv: {str(arguments.csv.parent)!r} is no folder that exists.")
    try:
        found = compared(arguments)
    except EvaluationError as error:
        raise InputError(str(error)) from error
    if arguments.csv:
        try:
            write_csv(table(found), arguments.csv)
        except OSError as error:
            raise InputError(f"--csv: {arguments.csv} cannot be written: {error.strerror}.") from error
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        print(compare_text.markdown(found) if arguments.markdown else compare_text.page(found))


def compared(arguments: argparse.Namespace) -> SideBySide:
    """The two folders, as far as the filters leave them.

    Raises:
        InputError: a folder is none, both are one, their kinds differ, or a filter names nothing in them.
        EvaluationError: a file is damaged.
    """
    if arguments.a.resolve() == arguments.b.resolve():
        raise InputError(f"{arguments.a} and {arguments.b} are the same folder; nothing in it differs from itself.")
    a, b = _side(arguments.a), _side(arguments.b)
    if a.kind != b.kind:
        raise InputError(
            f"{a.folder} is of kind {a.kind!r}, {b.folder} of kind {b.kind!r}; trained runs and memory cells do not"
            " stand side by side. Legal: two folders of one kind."
        )
    chosen = {key: getattr(arguments, key) for key in FILTERS if getattr(arguments, key) is not None}
    _check_filters(chosen, a, b)
    return side_by_side(a.part(chosen), b.part(chosen))


def _side(folder: Path) -> Side:
    file = folder / "experiment.json"
    if not file.is_file() and (below := sorted(folder.glob("*/experiment.json"))):
        known = ", ".join(str(each.parent) for each in below)
        raise InputError(f"{folder} holds several experiments, or none of its own. Known: {known}.")
    side = read_side(folder, read(file) if file.is_file() else None)
    if side is None:
        raise InputError(
            f"No results in {str(folder)!r}: it has no experiment.json, nor a run.json below it.{known_around(folder)}"
        )
    return side


def _check_filters(chosen: dict[str, str], a: Side, b: Side) -> None:
    names = IDENTITY[a.kind]
    for key, value in chosen.items():
        if key not in names:
            raise InputError(f"--{key}: the cells of memory experiments have none. Legal: {_options(names)}.")
        known = dict.fromkeys(row[names.index(key)] for side in (a, b) for row in side.rows)
        check_known(f"--{key}", key, value, list(known))


def _options(names: Iterable[str]) -> str:
    return ", ".join(f"--{key}" for key in FILTERS if key in names)


# --- JSON


def as_json(found: SideBySide) -> dict[str, Any]:
    """Every key always stands, `data` and `setting` where the kind has them."""
    names = IDENTITY[found.a.kind]
    sides = {
        name: {"folder": str(s.folder), "conditions": s.conditions} for name, s in (("a", found.a), ("b", found.b))
    }
    alone = {"only_a": found.only_a, "only_b": found.only_b}
    return {
        "schema_version": "1.1.0",
        "kind": found.a.kind,
        **sides,
        "counts": found.counts,
        **{key: [_identity(names, each) for each in keys] for key, keys in alone.items()},
        "rows": [_row(names, pair) for pair in found.pairs],
    }


def _identity(names: Iterable[str], key: Key) -> dict[str, str]:
    return dict(zip(names, key, strict=True))


def _row(names: Iterable[str], pair: Pair) -> dict[str, Any]:
    about = {key: getattr(pair, key) for key in ("seeds", "compares", "code_changed", "notes")}
    return {**_identity(names, pair.key), **about, "metrics": [_metric(metric) for metric in pair.metrics]}


def _metric(metric: Metric) -> dict[str, Any]:
    values = {"a_value": metric.a.value, "a_stderr": metric.a.stderr}
    values |= {"b_value": metric.b.value, "b_stderr": metric.b.stderr}
    changes = {key: getattr(metric, key) for key in ("difference", "ratio", "reasons")}
    return {"name": metric.name, "made": metric.made, "seeds": metric.seeds, **values, **changes}
