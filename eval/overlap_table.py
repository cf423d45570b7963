"""Leaks: how many test items stand in the training data, and which prompts were checked.

leaks = read_leaks(results)                   # results/<experiment>/leaks.json, empty if there is none
lines = overlap(leaks, experiment)            # tables/overlap.csv, a line a data set and benchmark
table = overlap_table(lines, leaks, experiment)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.benchmarks import BENCHMARKS
from eval.json_files import read_json, require
from eval.protocols import MT_BENCH
from eval.text import EMPTY, Column, Table, build, number, plain

HEADING = "Test items in the training data"
COUNTED = ("items", "long_items", "overlapping", "short_overlapping", "share")

Json = Mapping[str, Any]
Line = dict[str, Any]


def read_leaks(results: Path) -> dict[str, Any]:
    """leaks.json of an experiment; empty if there is none.

    Raises:
        EvaluationError: it is no JSON object or lacks a field.
    """
    file = results / "leaks.json"
    leaks = read_json(file, ("status", "ngram", "prompts", "overlap"))
    for data, counted in leaks.get("overlap", {}).items():
        for name, entry in counted.items():
            require(file, entry, COUNTED, f"overlap.{data}.{name}.")
    return leaks


def overlap(leaks: Json, experiment: Json) -> list[Line]:
    """A line for each data set and benchmark."""
    return [
        {
            "experiment": experiment["name"],
            "data": data,
            "benchmark": name,
            **{key: entry[key] for key in COUNTED[:4]},
            "overlapping_percent": None if entry["share"] is None else 100 * entry["share"],
            "example": next((f"{one['item_id']}: {one['text']}" for one in entry.get("examples", [])), None),
            "ngram_words": leaks["ngram"],
        }
        for data, counted in leaks.get("overlap", {}).items()
        for name, entry in counted.items()
    ]


def overlap_table(lines: list[Line], leaks: Json, experiment: Json) -> Table:
    """The rows of `overlap` for people."""
    ngram = leaks["ngram"]
    columns = [
        Column("Training data", plain("data"), numeric=False),
        Column("Benchmark", lambda line: _label(line["benchmark"]), numeric=False),
        Column("Items", number("items", 0)),
        Column(f"Long ones (≥ {ngram} words)", number("long_items", 0)),
        Column("Found in the data (long ones)", number("overlapping", 0)),
        Column("Found in the data (% of long ones)", number("overlapping_percent", 2)),
        Column("Found in the data (short questions)", number("short_overlapping", 0)),
        Column("Example", _example, numeric=False),
    ]
    notes = [
        f"An item of {ngram} words or more counts if any {ngram} of them in a row, in lower case, without punctuation "
        "and letters of options, stand in one training record. Short questions, of fewer words, are counted apart "
        "where they stand whole in one, as so few words do by chance. Reworded items are not found.",
        _prompts_note(leaks["prompts"]),
        *_passages_notes(leaks["prompts"]),
    ]
    title = f"{experiment['name']}: test items in the training data"
    return build("overlap", title, columns, lines, notes, (), heading=HEADING)


def _label(name: str) -> str:
    return "MT-Bench" if name == MT_BENCH else BENCHMARKS[name].label if name in BENCHMARKS else name


def _example(line: Line) -> str:
    return EMPTY if line["example"] is None else line["example"][:120]


def _prompts_note(prompts: Json) -> str:
    """What was checked before anything was trained; a leak would have stopped the pipeline there."""
    tasks = [task for found in prompts.values() for task in found.values()]
    if not tasks:
        return "No benchmark's prompts were built, so none were checked."
    items = sum(task["items"] for task in tasks)
    counted = f"{len(tasks)} tasks" if len(tasks) > 1 else "the one task"
    return (
        f"Prompts: those of all {items:,} items of {counted} were checked before the first run: no item and "
        "no long gold answer stands in its own demonstrations. A leak would have stopped the experiment."
    )


def _passages_notes(prompts: Json) -> list[str]:
    """Reading passages that stand twice in a prompt, which the leak guard lets pass."""
    shared = [
        f"{task['shared_passages']} of {task['items']:,} items of {name}"
        for found in prompts.values()
        for name, task in found.items()
        if task.get("shared_passages")
    ]
    if not shared:
        return []
    return [
        f"Reading passages: {', '.join(shared)} share 13 words in a row or more of their passage with a demonstration "
        "in their own prompt. Question and answer do not stand there."
    ]
