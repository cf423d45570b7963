"""Results item by item: what a run predicted for each item, and two runs beside each other on the items both have.

    a, b = (load_items(folder / "model/data/lisa/default/seed0"), load_items(folder / "model/data/lora/default/seed0"))
    pairs = paired(a, b)                  # an EvaluationError where an item's prompt is not the same in both
    compare(pairs)["gsm8k"].difference    # and both right, only a, only b, neither

Reads what the stages `evaluate` and `judge` leave in a run's folder: samples.jsonl.gz, answers.jsonl, judgments.jsonl.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from eval import EvaluationError
from eval.collect import Run
from eval.protocols import MT_BENCH, protocol

SCORED = ("benchmark", "task", "item", "item_id", "prompt_sha256", "correct", "prediction", "target", "metrics")
JUDGED = ("question_id", "category", "turn", "prompt_name", "prompt_sha256", "rating")
PER_ITEM = (
    "limit",
    "question_limit",
    "prompts_sha256",
)  # of a protocol: each item has its own prompt's hash, or is not there
AGAIN = "Run the pipeline again."
ROW_BYTES = 1 << 24  # the longest row that is read, texts of the model and all


@dataclass(frozen=True)
class Item:
    """One item as one run answered it.

    Args:
        task: lm-eval's name; a category of MT-Bench.
        item_id: the same in every run, and within a benchmark of one item only (two benchmarks may share a task):
            "<task>/<hash of the record>", or "mt_bench/<question_id>/<turn>".
        index: its place in the split that the task scores, from 0; the question_id of MT-Bench.
        prompt_sha256: of the prompt the model saw; MT-Bench: of the judge's prompt before anything is filled in.
        value: 1.0 right, 0.0 wrong; MT-Bench: the rating, None where no reply of the judge could be read.
        prediction: the text, or the number of the chosen option, from 0.
        target: likewise, or the numbers of several right options; MT-Bench has none.
        log_likelihoods: of the options; empty where the model writes.
        metrics: every metric of lm-eval, the headline number among them.
    """

    benchmark: str
    task: str
    item_id: str
    index: int
    prompt_sha256: str
    value: float | None
    prediction: str | int
    target: str | int | list[int] | None
    log_likelihoods: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What an item of one run and that of another have in common."""
        return (self.benchmark, self.item_id)


@dataclass(frozen=True)
class Pairs:
    """Items of two runs: those both have, and those that one has alone."""

    both: list[tuple[Item, Item]]
    only_a: list[Item]
    only_b: list[Item]


@dataclass(frozen=True)
class Comparison:
    """Two runs on one benchmark.

    Args:
        items: that both runs have, with a value in both.
        a_value, b_value: means over these items; None if there are none.
        a_higher, b_higher: items that one run alone has right, or has the higher rating of.
        both_right, both_wrong: None for ratings.
        equal: items of equal value.
        unrated: items that both have, and that lack a rating in one.
        missing_in_a, missing_in_b: items that the other run has alone.
    """

    items: int
    a_value: float | None
    b_value: float | None
    a_higher: int
    b_higher: int
    equal: int
    both_right: int | None
    both_wrong: int | None
    unrated: int
    missing_in_a: int
    missing_in_b: int

    @property
    def difference(self) -> float | None:
        """a - b, over the items both have."""
        return None if self.a_value is None or self.b_value is None else self.a_value - self.b_value


# --- reading


def load_items(folder: str | Path) -> list[Item]:
    """Every item of a run: those of the benchmarks in the order of evaluation, then MT-Bench's ratings, if any.

    Raises:
        EvaluationError: a file is missing or damaged, a row lacks a field, or an item stands twice.
    """
    folder = Path(folder)
    items = scored_items(read_samples(folder), str(folder / "samples.jsonl.gz"))
    return items + _judged_items(folder) if (folder / "judgments.jsonl").is_file() else items


def read_samples(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's samples.jsonl.gz, as `eval.harness` makes them."""
    return _read_rows(Path(folder) / "samples.jsonl.gz")


def read_right_or_wrong(folder: str | Path) -> Iterable[tuple[str, str, str, bool]]:
    """(benchmark, item_id, prompt_sha256, correct) of the rows of a run's samples.jsonl.gz: what tables of hundreds of
    runs need of them, read several times as fast as all of it.

    Raises:
        EvaluationError: the file is missing or damaged, or a row lacks a field.
    """
    from pyarrow import ArrowInvalid, bool_, json, schema, string

    file = Path(folder) / "samples.jsonl.gz"
    fields = schema([("benchmark", string()), ("item_id", string()), ("prompt_sha256", string()), ("correct", bool_())])
    parse = json.ParseOptions(explicit_schema=fields, unexpected_field_behavior="ignore")
    block = json.ReadOptions(block_size=ROW_BYTES)
    try:
        table = json.read_json(str(file), read_options=block, parse_options=parse)
    except (ArrowInvalid, OSError) as error:
        raise EvaluationError(f"{file} cannot be read: {error}. Delete it and run the pipeline again.") from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            row = column.is_null().to_pylist().index(True) + 1
            raise EvaluationError(f"{file}, row {row}: field {name!r} is missing. {AGAIN}")
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def read_judgments(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's judgments.jsonl, as `eval.judging` makes them."""
    return _read_rows(Path(folder) / "judgments.jsonl")


def read_comparisons(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's comparisons.jsonl, as `eval.pairwise` makes them."""
    return _read_rows(Path(folder) / "comparisons.jsonl")


def scored_items(rows: Iterable[Mapping[str, Any]], where: str = "samples") -> list[Item]:
    """The items of the rows of an evaluation; `where` names them in messages."""
    items: dict[tuple[str, str], Item] = {}
    for number, row in enumerate(rows, start=1):
        _require(f"{where}, row {number}", row, SCORED)
        _add(items, where, _scored(row))
    return list(items.values())


def _scored(row: Mapping[str, Any]) -> Item:
    same = {key: row[key] for key in ("benchmark", "task", "item_id", "prompt_sha256", "prediction", "target")}
    return Item(
        **same,
        index=row["item"],
        value=float(row["correct"]),
        log_likelihoods=tuple(row.get("log_likelihoods", ())),
        metrics=row["metrics"],
    )


def _judged_items(folder: Path) -> list[Item]:
    file = folder / "judgments.jsonl"
    answers = {row["question_id"]: row["turns"] for row in _read_rows(folder / "answers.jsonl")}
    items: dict[tuple[str, str], Item] = {}
    for number, row in enumerate(read_judgments(folder), start=1):
        where = f"{file}, row {number}"
        _require(where, row, JUDGED)
        if row["question_id"] not in answers:
            raise EvaluationError(f"{where}: answers.jsonl beside it has no question {row['question_id']}. {AGAIN}")
        _add(items, str(file), _judged(row, answers[row["question_id"]]))
    return list(items.values())


def _judged(row: Mapping[str, Any], turns: list[str]) -> Item:
    return Item(
        benchmark=MT_BENCH,
        task=row["category"],
        item_id=f"{MT_BENCH}/{row['question_id']}/{row['turn']}",
        index=row["question_id"],
        prompt_sha256=row["prompt_sha256"],
        value=row["rating"],
        prediction=turns[row["turn"] - 1],
        target=None,
    )


def _add(items: dict[tuple[str, str], Item], where: str, item: Item) -> None:
    if item.key in items:
        raise EvaluationError(f"{where}: item {item.item_id} of {item.benchmark} stands twice. {AGAIN}")
    items[item.key] = item


def _require(where: str, row: Mapping[str, Any], keys: Iterable[str]) -> None:
    missing = [key for key in keys if key not in row]
    if missing:
        raise EvaluationError(f"{where}: field {missing[0]!r} is missing. {AGAIN}")


def _read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, compressed or not."""
    if not file.is_file():
        raise EvaluationError(f"{file} does not exist: the run is not evaluated. {AGAIN}")
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return [json.loads(line) for line in content.decode().split("\n") if line]
    except (OSError, EOFError, ValueError) as error:  # no gzip, cut short, or no JSON
        raise EvaluationError(f"{file} cannot be read: {error}. Delete it and run the pipeline again.") from error


# --- comparing


def paired(a: Iterable[Item], b: Iterable[Item]) -> Pairs:
    """Items by benchmark and id.

    Raises:
        EvaluationError: a prompt of one item differs between the two.
    """
    of_a, of_b = ({item.key: item for item in items} for items in (a, b))
    both = [(item, of_b[key]) for key, item in of_a.items() if key in of_b]
    for one, other in both:
        if one.prompt_sha256 != other.prompt_sha256:
            raise EvaluationError(
                f"Item {one.item_id} of {one.benchmark}: the prompts differ ({one.prompt_sha256} and"
                f" {other.prompt_sha256}), and scores of different prompts do not pair. Evaluate both with the same"
                " shots, data and version of lm-eval."
            )
    only_a = [item for key, item in of_a.items() if key not in of_b]
    return Pairs(both, only_a, [item for key, item in of_b.items() if key not in of_a])


def check_scored_alike(a: Run, b: Run, benchmark: str) -> None:
    """Raise an EvaluationError if two runs' scores of a benchmark, or of `mt_bench`, were not made in one way.

    The items that are scored, and their prompts, are left to `paired`.
    """
    one, other = (protocol(run, benchmark) or {} for run in (a, b))
    for key in one.keys() & other.keys() - {*PER_ITEM}:
        if one[key] != other[key]:
            raise EvaluationError(
                f"{benchmark}: {a.path} was scored with {key} {one[key]}, {b.path} with {other[key]}; scores made"
                f" differently do not pair. {AGAIN}"
            )


def compare(pairs: Pairs) -> dict[str, Comparison]:
    """The two runs on each benchmark that one of them has, in the order of their items."""
    items = [*(one for one, _ in pairs.both), *pairs.only_a, *pairs.only_b]
    return {name: _comparison(pairs, name) for name in dict.fromkeys(item.benchmark for item in items)}


def _comparison(pairs: Pairs, benchmark: str) -> Comparison:
    both = [pair for pair in pairs.both if pair[0].benchmark == benchmark]
    values = [(a.value, b.value) for a, b in both if a.value is not None and b.value is not None]
    equal = [a for a, b in values if a == b]
    right = None if benchmark == MT_BENCH else equal.count(1.0)
    return Comparison(
        items=len(values),
        a_value=fmean(a for a, _ in values) if values else None,
        b_value=fmean(b for _, b in values) if values else None,
        a_higher=sum(a > b for a, b in values),
        b_higher=sum(b > a for a, b in values),
        equal=len(equal),
        both_right=right,
        both_wrong=None if right is None else len(equal) - right,
        unrated=len(both) - len(values),
        missing_in_a=sum(item.benchmark == benchmark for item in pairs.only_b),
        missing_in_b=sum(item.benchmark == benchmark for item in pairs.only_a),
    )


def differing(pairs: Pairs) -> list[tuple[Item, Item]]:
    """The items of unequal value, in their order."""
    return [(a, b) for a, b in pairs.both if a.value != b.value]
