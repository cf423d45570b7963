"""Look for leaks before anything is trained: test items in their own prompts, and test items in the training data.

Builds every prompt of the experiment's benchmarks as the evaluation will, without a model, and stops if an evaluated
item or its gold answer stands among its own demonstrations (eval/leaks.py). Then counts how many items of each
benchmark, and of MT-Bench, stand in the training data, the text of continual pretraining among them (eval/overlap.py),
which stops nothing: the report shows it.
Writes results/<experiment>/leaks.json, or, when it finds a leak, leak_found.json, with which no run of the experiment
starts: training does not wait for this stage, since Snakemake would not see a changed run behind a changed benchmark.
The pipeline takes leak_found.json away as soon as what was checked has changed (`forget_former_leak`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval import EvaluationError
from workflow.continual_pretraining import named
from workflow.engine.errors import InputError
from workflow.engine.records import sha256_sources, sources
from workflow.experiment import load
from workflow.places import benchmarks_folder, data_folder, text_folder
from workflow.stages import parser, read_manifest, results_folder, stage_main

SCHEMA_VERSION = "1.0"
MT_BENCH = "mt_bench"
FOUND = "leak_found.json"


def main() -> None:
    """Command line."""
    arguments = parser(__doc__).parse_args()
    experiment = load(arguments.experiment)
    check(experiment, results_folder(experiment, arguments.results) / "leaks.json")


def check(experiment: dict[str, Any], file: Path) -> None:
    """Write leaks.json.

    Raises:
        EvaluationError: an evaluated item or its gold answer stands in its own prompt.
    """
    from eval.overlap import NGRAM_WORDS, count_overlap
    from workflow.engine.models import work_offline
    from workflow.engine.records import write_json

    work_offline()
    for former in (file, file.with_name(FOUND)):
        former.unlink(missing_ok=True)
    root = Path(read_manifest(benchmarks_folder(experiment))["root"])
    read_manifest(data_folder(experiment))  # is there training data to compare with?
    try:
        prompts, items = check_prompts(experiment, root)
    except EvaluationError as error:
        write_json(file.with_name(FOUND), {"error": str(error), "checked": _checked(experiment)})
        raise
    items |= _questions(experiment, root)
    overlap = {name: count_overlap(items, records) for name, records in _training_data(experiment).items()}
    found = {"ngram": NGRAM_WORDS, "prompts": prompts, "overlap": overlap}
    write_json(file, {"schema_version": SCHEMA_VERSION, "status": "ok", **found})


def refuse_known_leak(results: Path) -> None:
    """Raise InputError if this stage found a leak in the experiment whose results these are."""
    file = results / FOUND
    if file.is_file():
        raise InputError(f"Nothing is run while {file} stands: {json.loads(file.read_text())['error']}")


def forget_former_leak(experiment: dict[str, Any], results: Path) -> None:
    """Remove a leak found in other benchmarks than the experiment now has, in other data, or by another guard."""
    file = results / FOUND
    if file.is_file() and json.loads(file.read_text()).get("checked") != _checked(experiment):
        file.unlink()


def _checked(experiment: dict[str, Any]) -> dict[str, Any]:
    """What decides whether prompts leak; the folder is named by the benchmarks' data."""
    return {
        "data": benchmarks_folder(experiment).name,
        "benchmarks": experiment["evaluation"]["benchmarks"],
        "guard": sha256_sources(sources("eval/leaks.py")),
    }


def check_prompts(experiment: dict[str, Any], root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the prompts of each benchmark and task hold, and the items of each benchmark for eval.overlap."""
    prompts: dict[str, dict[str, Any]] = {}
    items: dict[str, list[Any]] = {}
    if not experiment["evaluation"]["benchmarks"]:
        return prompts, items
    from eval.benchmarks import AGIEVAL_DEMONSTRATIONS
    from eval.harness import build_prompts, item_ids
    from eval.leaks import shared_passages
    from eval.overlap import Item, item_text, passage

    for request, task, built in build_prompts(root, experiment["evaluation"]["benchmarks"]):
        name, docs = request.benchmark.name, item_ids(built)
        prompts.setdefault(name, {})[task.name] = {
            "shots": request.shots,
            "items": len(docs),
            "demonstrations": (task.demonstration_split or str(AGIEVAL_DEMONSTRATIONS)) if request.shots else None,
            "shared_passages": shared_passages(built, functools.partial(passage, task.dataset)),
        }
        items.setdefault(name, []).extend(Item(item, *item_text(task.dataset, doc)) for item, doc in docs.items())
    return prompts, items


def _questions(experiment: dict[str, Any], root: Path) -> dict[str, list[Any]]:
    """MT-Bench's questions, both turns."""
    if experiment["mt_bench"] is None:
        return {}
    from eval.mt_bench import load_mt_bench, select_questions
    from eval.overlap import Item

    questions = select_questions(load_mt_bench(root).questions, experiment["mt_bench"]["limit"])
    return {MT_BENCH: [Item(f"{MT_BENCH}/{entry['question_id']}", " ".join(entry["turns"])) for entry in questions]}


def _training_data(experiment: dict[str, Any]) -> dict[str, Iterator[str]]:
    """The texts of all that is trained on, by data set; last that of continual pretraining."""
    from workflow.engine.plain_text import read_documents

    folder, text = data_folder(experiment), experiment["continual_pretraining"]
    found = {entry["name"]: _records(folder / entry["name"] / "train.jsonl") for entry in experiment["data"]}
    if text is not None:
        found[f"{named(text)} (continual pretraining)"] = read_documents(text_folder(experiment) / "train.jsonl")
    return found


def _records(file: Path) -> Iterator[str]:
    """The texts of prepared conversations, every message of them."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield " ".join(message["content"] for message in json.loads(line)["messages"])


if __name__ == "__main__":
    stage_main(main)
