from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval import EvaluationError
from tests.conftest import ROOT
from tests.engine.small_tokenizer import turns
from tests.eval.benchmark_data import REQUESTS, write_data_root, write_dataset
from tests.workflow.experiments import small
from workflow.engine.data import read_conversations
from workflow.engine.errors import InputError
from workflow.engine.plain_text import read_documents
from workflow.experiment import resolve
from workflow.places import benchmarks_folder, data_folder
from workflow.stages import prepare_benchmarks
from workflow.stages.prepare_data import prepare
from workflow.world.write import generate_world


def records(count: int, word: str = "sum") -> list[dict[str, Any]]:
    return [{"messages": turns(f"{word} {i}?", f"It is {i}.")} for i in range(count)]


def experiment(root: Path, prepared: Path, **changes: Any) -> dict[str, Any]:
    return resolve(small(**{"data_root": str(root), "prepared_root": str(prepared), "methods": ["vanilla"], **changes}))


def sums(**changes: Any) -> list[dict[str, Any]]:
    return [{**small()["data"][0], **changes}]


def run(config: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Prepare; the folder and its manifest."""
    folder = data_folder(config)
    prepare(config, folder)
    return folder, json.loads((folder / "manifest.json").read_text())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with one data set of nine conversations and a validation split of three."""
    folder = tmp_path / "root"
    splits = {("default", "train"): records(9), ("default", "validation"): records(3, "check")}
    write_dataset(folder / "hub", "org/sums", splits)
    return folder


def complaint(config: dict[str, Any], kind: type[Exception] = InputError) -> str:
    with pytest.raises(kind) as caught:
        run(config)
    assert not (data_folder(config) / "manifest.json").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is written


def test_validation_is_held_out_from_train_and_nothing_is_lost(root: Path, tmp_path: Path) -> None:
    folder, manifest = run(experiment(root, tmp_path, data=sums(validation_items=2)))
    train, validation = (read_conversations(folder / f"sums/{split}.jsonl") for split in ("train", "validation"))
    assert (len(train), len(validation)) == (7, 2)
    assert sorted(turn[0]["content"] for turn in train + validation) == [f"sum {i}?" for i in range(9)]
    assert {key: manifest["data"]["sums"][key] for key in ("train", "validation")} == {"train": 7, "validation": 2}


def test_a_named_validation_split_leaves_train_whole(root: Path, tmp_path: Path) -> None:
    folder, _ = run(experiment(root, tmp_path, data=sums(validation_split="validation", validation_items=2)))
    assert len(read_conversations(folder / "sums/train.jsonl")) == 9
    validation = read_conversations(folder / "sums/validation.jsonl")
    assert [turn[0]["content"] for turn in validation] == ["check 0?", "check 1?"]


def test_max_train_items_takes_the_first_of_the_same_order(root: Path, tmp_path: Path) -> None:
    all_of_it, _ = run(experiment(root, tmp_path, data=sums()))
    some, _ = run(experiment(root, tmp_path, data=sums(max_train_items=3)))
    assert some != all_of_it
    whole = read_conversations(all_of_it / "sums/train.jsonl")
    assert read_conversations(some / "sums/train.jsonl") == whole[:3]
    assert (some / "sums/validation.jsonl").read_bytes() == (all_of_it / "sums/validation.jsonl").read_bytes()


@pytest.mark.parametrize("split", [None, "validation"])
def test_tuning_records_are_held_out_after_validation_and_from_all_that_is_trained_on(
    root: Path, tmp_path: Path, split: str | None
) -> None:
    data = sums(validation_split=split, validation_items=2)
    plain, _ = run(experiment(root, tmp_path, data=data))
    folder, manifest = run(experiment(root, tmp_path, data=data, tuning={"trials": 2, "items": 3}))
    train, tuning = (read_conversations(folder / f"sums/{name}.jsonl") for name in ("train", "tuning"))
    assert tuning + train == read_conversations(plain / "sums/train.jsonl")
    assert (folder / "sums/validation.jsonl").read_bytes() == (plain / "sums/validation.jsonl").read_bytes()
    assert (len(tuning), manifest["data"]["sums"]["tuning"]) == (3, 3)
    assert not (plain / "sums/tuning.jsonl").exists()


def test_copies_of_tuning_records_are_trained_on_neither_and_those_of_validation_do_not_tune(tmp_path: Path) -> None:
    copies = [record | {"id": f"copy {i}"} for i, record in enumerate(records(6) * 3 + records(2, "check"))]
    splits = {("default", "train"): copies, ("default", "validation"): [r | {"id": "own"} for r in records(2, "check")]}
    write_dataset(tmp_path / "root/hub", "org/sums", splits)
    data = sums(validation_split="validation")
    config = experiment(tmp_path / "root", tmp_path, data=data, tuning={"trials": 2, "items": 2})
    folder, _ = run(config)
    said = {
        name: {turns[0]["content"] for turns in read_conversations(folder / f"sums/{name}.jsonl")}
        for name in ("train", "validation", "tuning")
    }
    assert said["tuning"] and not said["tuning"] & (said["train"] | said["validation"])
    assert said["tuning"] | said["train"] == {f"sum {i}?" for i in range(6)} | {"check 0?", "check 1?"}


def test_the_first_training_items_are_counted_after_the_tuning_records(root: Path, tmp_path: Path) -> None:
    few = sums(max_train_items=2)
    folder, _ = run(experiment(root, tmp_path, data=few, tuning={"trials": 2, "items": 3}))
    whole, _ = run(experiment(root, tmp_path, data=sums(), tuning={"trials": 2, "items": 3}))
    assert (folder / "sums/tuning.jsonl").read_bytes() == (whole / "sums/tuning.jsonl").read_bytes()
    assert read_conversations(folder / "sums/train.jsonl") == read_conversations(whole / "sums/train.jsonl")[:2]


def test_train_records_are_shuffled(tmp_path: Path) -> None:
    write_dataset(tmp_path / "root/hub", "org/sums", {("default", "train"): records(50)})
    folder, _ = run(experiment(tmp_path / "root", tmp_path, data=sums()))
    order = [turn[0]["content"] for turn in read_conversations(folder / "sums/train.jsonl")]
    assert order != sorted(order, key=lambda text: int(text[4:-1]))


def test_the_manifest_says_root_and_checksums_of_all_that_is_used(root: Path, tmp_path: Path) -> None:
    write_dataset(root / "hub", "org/unused", {("default", "train"): records(1)})
    folder, manifest = run(experiment(root, tmp_path))
    assert manifest["root"] == str(root)
    assert manifest["source"] == str(root)
    files = ["README.md", "default/train-00000-of-00001.parquet", "default/validation-00000-of-00001.parquet"]
    assert sorted(manifest["files"]) == [f"hub/org/sums/{file}" for file in files]
    for file, checksum in manifest["files"].items():
        assert hashlib.sha256((root / file).read_bytes()).hexdigest() == checksum
    train = (folder / "sums/train.jsonl").read_bytes()
    assert manifest["data"]["sums"]["sha256"] == hashlib.sha256(train).hexdigest()


def test_the_same_input_gives_the_same_bytes_whatever_the_global_generator(root: Path, tmp_path: Path) -> None:
    def written(prepared: str, seed: int) -> list[bytes]:
        random.seed(seed)
        folder, _ = run(experiment(root, tmp_path / prepared))
        return [(folder / name).read_bytes() for name in ("manifest.json", "sums/train.jsonl", "sums/validation.jsonl")]

    assert written("a", 1) == written("b", 2)


def test_changed_data_are_other_data(root: Path, tmp_path: Path) -> None:
    old_folder, before = run(experiment(root, tmp_path))
    splits = {("default", "train"): records(12, "other")}
    write_dataset(root / "hub", "org/sums", splits)
    folder, after = run(experiment(root, tmp_path))
    assert folder != old_folder
    assert before["data"]["sums"]["train"] == 7
    assert after["data"]["sums"]["train"] == 10
    assert "other" in (folder / "sums/train.jsonl").read_text()


def test_a_relative_data_root_is_found_from_where_the_command_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, manifest = run(experiment(Path("root"), Path("prepared")))
    assert manifest["root"] == str(root)
    assert (tmp_path / folder / "sums/train.jsonl").is_file()
    assert sorted(path.name for path in (root / "hub").iterdir()) == ["org"]  # nothing is written into the data root


# --- text of continual pretraining


def pretraining(root: Path, prepared: Path, **wanted: Any) -> dict[str, Any]:
    """An experiment that pretrains on `wanted`."""
    return experiment(root, prepared, continual_pretraining={"steps": 3, "batch_size": 2, **wanted})


def texts(folder: Path, split: str) -> list[str]:
    return list(read_documents(folder / f"_text/{split}.jsonl"))


def test_documents_of_a_data_set_are_held_out_and_shuffled_and_none_is_lost(root: Path, tmp_path: Path) -> None:
    pages = [{"url": f"{i}", "body": f"Page {i}."} for i in range(50)]
    write_dataset(root / "hub", "org/text", {("default", "train"): pages})
    config = pretraining(root, tmp_path, dataset="org/text", text_field="body", validation_items=8)
    folder, manifest = run(config)
    train, held_out = texts(folder, "train"), texts(folder, "validation")
    assert (len(train), len(held_out)) == (42, 8)
    assert sorted(train + held_out) == sorted(page["body"] for page in pages)
    assert train != sorted(train, key=lambda text: int(text[5:-1]))
    checksum = hashlib.sha256((folder / "_text/train.jsonl").read_bytes()).hexdigest()
    told = {"dataset": "org/text", "train": 42, "validation": 8, "sha256": checksum, "revision": None}
    assert manifest["text"] == told
    assert "hub/org/text/default/train-00000-of-00001.parquet" in manifest["files"]
    some, _ = run(
        pretraining(root, tmp_path, dataset="org/text", text_field="body", validation_items=8, max_train_items=5)
    )
    assert texts(some, "train") == train[:5] and texts(some, "validation") == held_out


def test_documents_of_a_file_stand_between_its_blank_lines(root: Path, tmp_path: Path) -> None:
    (root / "text").mkdir()
    (root / "text/pages.txt").write_text("\n\n".join(f"Page {i}.\nIt ends." for i in range(9)))
    folder, manifest = run(pretraining(root, tmp_path, file="text/pages.txt", validation_items=2))
    train, held_out = texts(folder, "train"), texts(folder, "validation")
    assert sorted(train + held_out) == [f"Page {i}.\nIt ends." for i in range(9)] and len(held_out) == 2
    assert {"file": "text/pages.txt", "train": 7, "validation": 2}.items() <= manifest["text"].items()
    checksum = hashlib.sha256((root / "text/pages.txt").read_bytes()).hexdigest()
    assert manifest["files"]["text/pages.txt"] == checksum


def test_the_generated_world_has_text_to_pretrain_on(tmp_path: Path) -> None:
    data = [{**small()["data"][0], "dataset": "world/instructions"}]
    wanted = {"file": "corpus/world.txt.gz", "steps": 3, "batch_size": 2, "max_train_items": 40}
    folder, manifest = run(experiment(tmp_path, tmp_path, data_root="world", data=data, continual_pretraining=wanted))
    assert manifest["text"]["train"] == len(texts(folder, "train")) == 40
    assert all(text.strip() for text in texts(folder, "train"))


def test_empty_documents_are_left_out(root: Path, tmp_path: Path) -> None:
    pages = [{"text": " \n" if i % 2 else f"Page {i}."} for i in range(20)]
    write_dataset(root / "hub", "org/text", {("default", "train"): pages})
    folder, manifest = run(pretraining(root, tmp_path, dataset="org/text", validation_items=4))
    train, held_out = texts(folder, "train"), texts(folder, "validation")
    assert len(train) + len(held_out) == 10 and all(text.strip() for text in train + held_out)
    assert (manifest["text"]["train"], manifest["text"]["validation"]) == (len(train), len(held_out))


def test_without_continual_pretraining_there_is_no_text(root: Path, tmp_path: Path) -> None:
    folder, manifest = run(experiment(root, tmp_path))
    assert manifest["text"] is None and not (folder / "_text").exists()


def test_a_record_without_its_text_is_named_with_its_place(root: Path, tmp_path: Path) -> None:
    write_dataset(root / "hub", "org/text", {("default", "train"): [{"body": "Page."}] * 3})
    message = complaint(pretraining(root, tmp_path, dataset="org/text", validation_items=1))
    assert "continual_pretraining (org/text, train, record " in message
    assert message.endswith("field 'text' is None, no text; the record has body.")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"dataset": "org/none"}, "continual_pretraining: data set 'org/none' is not in"),
        ({"dataset": "org/text", "split": "test"}, "continual_pretraining: data set 'org/text'"),
        ({"file": "no.txt"}, "continual_pretraining.file: "),
        ({"dataset": "org/text", "validation_items": 3}, "nothing is left of 3 documents after 3 were held out"),
        ({"dataset": "org/blank", "validation_items": 1}, "every document to train on is empty (2 of them)"),
    ],
)
def test_a_text_that_cannot_be_trained_on_is_named(root: Path, tmp_path: Path, wanted: Any, words: str) -> None:
    write_dataset(root / "hub", "org/text", {("default", "train"): [{"text": "Page."}] * 3})
    write_dataset(root / "hub", "org/blank", {("default", "train"): [{"text": " "}] * 3})
    assert words in complaint(pretraining(root, tmp_path, **wanted))


# --- what is refused


def test_a_missing_data_set_is_named_with_the_folder_looked_in(root: Path, tmp_path: Path) -> None:
    message = complaint(experiment(root, tmp_path, data=sums(dataset="org/sum")))
    assert "data 'sums'" in message
    assert "'org/sum'" in message
    assert str(root / "hub/org/sum") in message


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_data_set_is_named(root: Path, tmp_path: Path, split: str) -> None:
    import pyarrow.parquet as parquet

    file = root / f"hub/org/sums/default/{split}-00000-of-00001.parquet"
    parquet.write_table(parquet.read_table(file).slice(0, 0), file)
    message = complaint(experiment(root, tmp_path, data=sums(validation_split="validation")))
    assert "data 'sums': data set 'org/sums'" in message
    assert message.endswith(f"{file} is empty.")


def test_an_unknown_split_is_named(root: Path, tmp_path: Path) -> None:
    message = complaint(experiment(root, tmp_path, data=sums(train_split="training")))
    assert "data set 'org/sums'" in message
    assert "'training'" in message


def test_an_unknown_configuration_is_named(root: Path, tmp_path: Path) -> None:
    message = complaint(experiment(root, tmp_path, data=sums(config="main")))
    assert "configuration 'main'" in message
    assert "default" in message


def test_a_damaged_file_is_named_with_its_reason(root: Path, tmp_path: Path) -> None:
    (root / "hub/org/sums/default/train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    message = complaint(experiment(root, tmp_path))
    assert "data set 'org/sums'" in message
    assert "arquet" in message.split("split 'train'")[1]


def test_a_missing_file_of_a_data_set_is_named(root: Path, tmp_path: Path) -> None:
    (root / "hub/org/sums/default/train-00000-of-00001.parquet").unlink()
    assert "data set 'org/sums'" in complaint(experiment(root, tmp_path))


@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_record_without_its_field_is_named_with_its_place_in_the_file(tmp_path: Path, place: int) -> None:
    rows = [{"question": f"{i}?", "answer": None if i == place else f"{i}"} for i in range(9)]
    write_dataset(tmp_path / "root/hub", "org/sums", {("default", "train"): rows})
    message = complaint(experiment(tmp_path / "root", tmp_path, data=sums(format="gsm8k")))
    split = "validation" if f"validation, record {place}" in message else "train"
    assert f"data 'sums' (org/sums, {split}, record {place}): field 'answer' is missing" in message
    assert "'gsm8k' needs question, answer" in message


def test_records_of_another_format_are_named_with_what_they_have(root: Path, tmp_path: Path) -> None:
    message = complaint(experiment(root, tmp_path, data=sums(format="alpaca")))
    assert "'instruction' is missing" in message
    assert message.endswith("the record has messages.")


def test_a_conversation_without_an_answer_is_refused(tmp_path: Path) -> None:
    rows = [*records(3), {"messages": turns("and then?")}]
    write_dataset(tmp_path / "root/hub", "org/sums", {("default", "train"): rows})
    message = complaint(experiment(tmp_path / "root", tmp_path))
    assert "record 3" in message
    assert "does not end with an answer" in message


def test_empty_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*records(30), {"messages": turns("and then?", "")}]
    write_dataset(tmp_path / "root/hub", "org/sums", {("default", "train"): rows})
    _, manifest = run(experiment(tmp_path / "root", tmp_path))
    data = manifest["data"]["sums"]
    assert (data["unanswered"], data["train"] + data["validation"]) == (1, 30)


def test_holding_out_everything_is_refused(root: Path, tmp_path: Path) -> None:
    message = complaint(experiment(root, tmp_path, data=sums(validation_items=9)))
    assert "data 'sums': nothing is left to train on after 9 validation items" in message


@pytest.mark.parametrize("items", [7, 8])
def test_holding_out_everything_for_tuning_is_refused(root: Path, tmp_path: Path, items: int) -> None:
    message = complaint(experiment(root, tmp_path, tuning={"trials": 2, "items": items}))
    assert f"nothing is left to train on after 2 validation items and {items} tuning items were held out" in message


def test_tuning_records_without_any_answer_are_refused(tmp_path: Path) -> None:
    rows = [{"messages": turns(f"{i}?", "")} for i in range(30)] + records(1)
    write_dataset(tmp_path / "root/hub", "org/sums", {("default", "train"): rows})
    message = complaint(experiment(tmp_path / "root", tmp_path, tuning={"trials": 2, "items": 1}))
    assert "data 'sums' (org/sums): every record of the tuning split has an empty answer" in message


def test_a_pinned_checksum_is_compared(root: Path, tmp_path: Path) -> None:
    file = "hub/org/sums/README.md"
    right = hashlib.sha256((root / file).read_bytes()).hexdigest()
    run(experiment(root, tmp_path, checksums={file: right}))
    message = complaint(experiment(root, tmp_path, checksums={file: "0" * 64}))
    assert str(root / file) in message
    assert right in message
    assert "0" * 64 in message
    assert "does not exist" in complaint(experiment(root, tmp_path, checksums={"hub/org/sums/no": right}))


def test_the_default_world_and_the_experiments_worlds_can_be(tmp_path: Path) -> None:
    worlds = {"default": resolve(small())["world"]}
    for file in sorted((ROOT / "config").rglob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        if content.get("kind", "training") == "training" and content.get("data_root", "world") == "world":
            worlds[file.name] = resolve(content)["world"]
    assert "smoke.yaml" in worlds
    for name, world in worlds.items():
        generate_world(tmp_path / name, **world)


# --- benchmarks are read before any training


def evaluation(*names: str) -> dict[str, Any]:
    return {"benchmarks": [entry for entry in REQUESTS if entry["name"] in names]}


def test_benchmarks_that_are_there_pass_and_are_in_the_manifest(root: Path, tmp_path: Path) -> None:
    write_data_root(root)
    config = experiment(root, tmp_path, evaluation=evaluation("mmlu", "agieval", "winogrande", "gsm8k"))
    _, manifest = run(config)
    folders = {"/".join(file.split("/")[:3]) for file in manifest["files"] | benchmarks_of(config)["files"]}
    assert {"hub/cais/mmlu", "hub/openai/gsm8k", "hub/org/sums", "agieval/few_shot_prompts.csv"} <= folders


def benchmarks_of(config: dict[str, Any]) -> dict[str, Any]:
    """Manifest of the benchmarks of an experiment whose data are prepared."""
    folder = benchmarks_folder(config)
    prepare_benchmarks.prepare(config, folder)
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("name", ["mmlu", "agieval", "winogrande", "gsm8k"])
def test_a_missing_benchmark_is_found_when_data_are_prepared(root: Path, tmp_path: Path, name: str) -> None:
    folders = {"mmlu": "cais/mmlu", "agieval": "hails/agieval", "winogrande": "winogrande", "gsm8k": "openai/gsm8k"}
    assert folders[name] in complaint(experiment(root, tmp_path, evaluation=evaluation(name)), EvaluationError)


def test_missing_mt_bench_questions_are_found_when_data_are_prepared(root: Path, tmp_path: Path) -> None:
    config = experiment(root, tmp_path, mt_bench={"judge": "rule-based"})
    assert "mt_bench/question.jsonl" in complaint(config, EvaluationError)


GENERAL_TEXT = {"file": "text/general.txt", "sequence_length": 8}


def test_a_general_text_that_is_there_is_in_the_manifest_with_its_checksum(root: Path, tmp_path: Path) -> None:
    (root / "text").mkdir()
    (root / "text/general.txt").write_text("Ann walks to town and back.")
    config = experiment(root, tmp_path, evaluation={"general_text": GENERAL_TEXT})
    run(config)
    checksum = hashlib.sha256(b"Ann walks to town and back.").hexdigest()
    assert benchmarks_of(config)["files"] == {"text/general.txt": checksum}


def test_a_general_text_that_cannot_be_measured_is_found_when_data_are_prepared(root: Path, tmp_path: Path) -> None:
    config = experiment(root, tmp_path, evaluation={"general_text": GENERAL_TEXT})
    assert "text/general.txt does not exist" in complaint(config, EvaluationError)
    (root / "text").mkdir()
    (root / "text/general.txt").write_text("Ann.")
    config = experiment(root, tmp_path, evaluation={"general_text": GENERAL_TEXT})
    assert "less than one window of sequence_length 8" in complaint(config, EvaluationError)


# --- real data


def test_real_data_are_prepared(shared_data: Path, tmp_path: Path) -> None:
    data = [
        {"name": "alpaca", "dataset": "yahma/alpaca-cleaned", "format": "alpaca", "max_train_items": 20},
        {"name": "gsm8k", "dataset": "openai/gsm8k", "config": "main", "format": "gsm8k", "validation_items": 10},
    ]
    evaluation = {"benchmarks": [{"name": "mmlu", "tasks": ["mmlu_anatomy"]}, {"name": "gsm8k"}]}
    config = experiment(shared_data, tmp_path, data=data, evaluation=evaluation, mt_bench={"judge": "rule-based"})
    folder, manifest = run(config)
    counts = {name: (entry["train"], entry["validation"]) for name, entry in manifest["data"].items()}
    assert counts == {"alpaca": (20, 64), "gsm8k": (7473 - 10, 10)}
    for name in counts:
        for talk in read_conversations(folder / name / "train.jsonl"):
            assert [turn["role"] for turn in talk] == ["user", "assistant"]
            assert all(turn["content"].strip() for turn in talk)
    assert "mt_bench/question.jsonl" in benchmarks_of(config)["files"]
