"""Prepare data: get the data root (generate, download or use in place), check it, write conversations and a manifest.

Once data, benchmarks and models are prepared nothing touches the network. Writes <prepared_root>/data/<key>/:
manifest.json and one folder a data set with train.jsonl, validation.jsonl and, where an experiment tunes, tuning.jsonl,
a conversation a line; where the experiment pretrains continually, `_text/` with train.jsonl and validation.jsonl, a
document a line.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError
from workflow.experiment import load
from workflow.places import DOWNLOADED, GENERATED, data_folder, text_folder
from workflow.stages import parser, stage_main
from workflow.stages.leaks import check_prompts
from workflow.stages.prepare_benchmarks import check_benchmarks, checksums

Row = tuple[int, dict[str, Any]]  # a record and its place in the file, which errors name


def main() -> None:
    """Command line."""
    experiment = load(parser(__doc__).parse_args().experiment)
    prepare(experiment, data_folder(experiment))


def prepare(experiment: dict[str, Any], folder: Path) -> None:
    """Fill `folder`; its manifest is written last, so that a killed run leaves none.

    Raises:
        InputError: data are missing, empty, damaged or of another schema than the experiment says.
    """
    from workflow.engine.records import write_json
    from workflow.engine.sources import verify_checksums

    folder.mkdir(parents=True, exist_ok=True)
    root, commits = _get_root(experiment, folder)
    verify_checksums("checksums", root, experiment["checksums"])
    tuning = experiment["tuning"]["items"] if experiment["tuning"] else 0
    sets = {
        entry["name"]: {**_write_conversations(entry, root, folder, tuning), "revision": commits.get(entry["dataset"])}
        for entry in experiment["data"]
    }
    text = _write_text(experiment, root, folder, commits)
    if experiment["data_root"] != DOWNLOADED:
        check_benchmarks(experiment, root)  # now, not after hours of training
        check_prompts(experiment, root)
    used = [*(root / "hub" / dataset for dataset in _needed(experiment)), root / "corpus"]
    used += [root / experiment["continual_pretraining"]["file"]] if text and "file" in text else []
    source = {"root": str(root), "source": experiment["data_root"], "revisions": commits}
    write_json(folder / "manifest.json", {**source, "data": sets, "text": text, "files": checksums(root, used)})


def _needed(experiment: dict[str, Any]) -> dict[str, set[str | None]]:
    """The data sets to train on, with their configurations."""
    needed: dict[str, set[str | None]] = {}
    for entry in [*experiment["data"], experiment["continual_pretraining"] or {}]:
        if "dataset" in entry:
            needed.setdefault(entry["dataset"], set()).add(entry["config"])
    return needed


def _get_root(experiment: dict[str, Any], folder: Path) -> tuple[Path, dict[str, str]]:
    """The data root, and the commits of what was downloaded into it."""
    from workflow.engine.sources import download_datasets

    source, root = experiment["data_root"], (folder / "root").resolve()
    if source == GENERATED:
        _generate(experiment, root)
        return root, {}
    if source == DOWNLOADED:
        return root, download_datasets(_needed(experiment), experiment["dataset_revisions"], root / "hub")
    return Path(source).resolve(), {}


def _generate(experiment: dict[str, Any], root: Path) -> None:
    from workflow.world.write import generate_world

    shutil.rmtree(root, ignore_errors=True)
    generate_world(root, **experiment["world"])


# --- training data


def _write_conversations(entry: dict[str, Any], root: Path, folder: Path, tuning_items: int) -> dict[str, Any]:
    """Write the splits of one data set; returns its part of the manifest."""
    from workflow.engine.conversations import is_answered
    from workflow.engine.models import sha256_file

    loaded = _load_splits(entry, root, folder, tuning_items)
    converted = {name: [_conversation(entry, name, row) for row in rows] for name, rows in loaded.items()}
    splits = {name: [row for row in rows if is_answered(row)] for name, rows in converted.items()}
    unanswered = sum(map(len, converted.values())) - sum(map(len, splits.values()))
    if unanswered:
        print(f"data {entry['name']!r}: {unanswered} records with an empty answer are left out", file=sys.stderr)
    for name in ("train", "tuning"):
        if not splits.get(name, True):
            where = f"data {entry['name']!r} ({entry['dataset']})"
            raise InputError(f"{where}: every record of the {name} split has an empty answer.")
    target = folder / entry["name"]
    target.mkdir(exist_ok=True)
    for name, conversations in splits.items():
        (target / f"{name}.jsonl").write_text(
            "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in conversations),
            encoding="utf-8",
        )
    return {
        **{name: len(rows) for name, rows in splits.items()},
        "unanswered": unanswered,
        "sha256": sha256_file(target / "train.jsonl"),
    }


def _conversation(entry: dict[str, Any], split: str, row: Row) -> list[dict[str, str]]:
    from workflow.engine.conversations import to_conversation

    index, record = row
    where = f"data {entry['name']!r} ({entry['dataset']}, {split}, record {index})"
    return to_conversation(record, entry["format"], where)


def _load_splits(entry: dict[str, Any], root: Path, folder: Path, tuning_items: int) -> dict[str, list[Row]]:
    """Shuffled rows to train on and to validate with, and to tune with where there is tuning."""
    count = entry["validation_items"]
    train = _load_split(entry, entry["train_split"], root, folder)
    random.Random(0).shuffle(train)
    if entry["validation_split"] is None:
        validation, train = train[:count], train[count:]
    else:
        validation = _load_split(entry, entry["validation_split"], root, folder)[:count]
    tuning, train = _hold_out(entry, train, tuning_items, validation)
    train = train[: entry["max_train_items"]]
    held_out = f"{count} validation items{f' and {tuning_items} tuning items' if tuning_items else ''}"
    if not train or len(tuning) < tuning_items:
        raise InputError(f"data {entry['name']!r}: nothing is left to train on after {held_out} were held out.")
    return {"train": train, "validation": validation, **({"tuning": tuning} if tuning_items else {})}


def _hold_out(
    entry: dict[str, Any], train: list[Row], count: int, validation: list[Row]
) -> tuple[list[Row], list[Row]]:
    """The first `count` rows of train that are not in validation too, and train without them and copies of them."""
    if count == 0:
        return [], train

    def said(row: Row) -> str:
        return json.dumps(_conversation(entry, "train", row))

    validated = {said(row) for row in validation}
    tuning = [row for row in train if said(row) not in validated][:count]
    held_out = {said(row) for row in tuning}
    return tuning, [row for row in train if said(row) not in held_out]


def _load_split(entry: dict[str, Any], split: str, root: Path, folder: Path) -> list[Row]:
    return list(enumerate(_open_split(f"data {entry['name']!r}", entry, split, root, folder).to_list()))


def _open_split(source: str, entry: dict[str, Any], split: str, root: Path, folder: Path) -> Any:
    """A split of a data set that is there, as `datasets` has it: its records are read when they are asked for."""
    source, hub = f"{source}: data set {entry['dataset']!r}", root / "hub"
    if not (hub / entry["dataset"]).is_dir():
        raise InputError(f"{source} is not in {hub}: no folder {hub / entry['dataset']}.")
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would log is in the error
    cache = str(folder.resolve() / "datasets_cache")  # absolute before the working directory changes
    try:
        with contextlib.chdir(hub):
            loaded = datasets.load_dataset(entry["dataset"], entry["config"], split=split, cache_dir=cache)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        reason = _reason(error, hub / entry["dataset"])
        raise InputError(f"{source}, configuration {entry['config']!r}, split {split!r}: {reason}") from error
    if not len(loaded):
        raise InputError(f"{source}: split {split!r} is empty.")
    return loaded


def _reason(error: Exception, folder: Path) -> str:
    """One line on why `datasets` could not read a folder; a file without rows and a damaged one hide behind others."""
    import pyarrow.parquet

    for file in sorted(folder.rglob("*.parquet")):
        with contextlib.suppress(pyarrow.ArrowInvalid, OSError):
            if pyarrow.parquet.read_metadata(file).num_rows == 0:
                return f"{file} is empty."
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


# --- text of continual pretraining


def _write_text(experiment: dict[str, Any], root: Path, folder: Path, commits: dict[str, str]) -> dict[str, Any] | None:
    """Write the documents to train on and those held out; returns their part of the manifest."""
    from workflow.engine.models import sha256_file
    from workflow.engine.plain_text import write_documents

    wanted = experiment["continual_pretraining"]
    if wanted is None:
        return None
    count, document = _documents(wanted, root, folder)
    order = list(range(count))
    random.Random(0).shuffle(order)
    held_out, rest = order[: wanted["validation_items"]], order[wanted["validation_items"] :]
    train = rest[: wanted["max_train_items"]]
    if not train:
        raise InputError(
            f"continual_pretraining: nothing is left of {count} documents after {len(held_out)} were held out."
        )
    target = text_folder(experiment)
    target.mkdir(exist_ok=True)
    counts = {
        name: write_documents((text for place in places if (text := document(place)).strip()), target / f"{name}.jsonl")
        for name, places in (("train", train), ("validation", held_out))
    }
    if not counts["train"]:
        raise InputError(f"continual_pretraining: every document to train on is empty ({len(train)} of them).")
    origin = {key: wanted[key] for key in ("file", "dataset") if key in wanted}
    checksum = sha256_file(target / "train.jsonl")
    return {**origin, **counts, "sha256": checksum, "revision": commits.get(wanted.get("dataset", ""))}


def _documents(wanted: dict[str, Any], root: Path, folder: Path) -> tuple[int, Callable[[int], str]]:
    """How many documents there are, and each of them by its place: a corpus may be larger than memory."""
    from workflow.engine.plain_text import documents_of, read_text_file

    if "file" in wanted:
        documents = documents_of(read_text_file(root / wanted["file"], "continual_pretraining.file"))
        return len(documents), documents.__getitem__
    loaded, field = _open_split("continual_pretraining", wanted, wanted["split"], root, folder), wanted["text_field"]
    where = f"continual_pretraining ({wanted['dataset']}, {wanted['split']}"

    def document(place: int) -> str:
        text = loaded[place].get(field)
        if not isinstance(text, str):
            found = ", ".join(loaded.column_names)
            raise InputError(f"{where}, record {place}): field {field!r} is {text!r}, no text; the record has {found}.")
        return text

    return len(loaded), document


if __name__ == "__main__":
    stage_main(main)
