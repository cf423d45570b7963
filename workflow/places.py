"""Where prepared things live: folders named by a digest of what they are made from, so that experiments share them and
a change of a source makes new ones.

Local data and models are used in place; their files count by size and time of change, as Snakemake counts its inputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.benchmarks import datasets_of
from workflow.engine.records import MODEL_CARD, method_files, sha256_sources, sources

GENERATED, DOWNLOADED = "world", "hub"  # data roots that are no folder
TEXT = ("file", "dataset", "config", "split", "text_field", "validation_items", "max_train_items")


def data_folder(experiment: dict[str, Any]) -> Path:
    """Folder of the prepared training data of a resolved experiment."""
    return Path(experiment["prepared"]["data"])


def text_folder(experiment: dict[str, Any]) -> Path:
    """Folder of the prepared text of continual pretraining; no data set's name begins with an underscore."""
    return data_folder(experiment) / "_text"


def benchmarks_folder(experiment: dict[str, Any]) -> Path:
    """Folder of what the evaluation of a resolved experiment reads besides checkpoints."""
    return Path(experiment["prepared"]["benchmarks"])


def model_folder(experiment: dict[str, Any], name: str) -> Path:
    """Folder of a prepared model of a resolved experiment."""
    return Path(experiment["prepared"]["models"][name])


def prepared(experiment: dict[str, Any]) -> dict[str, Any]:
    """{data: folder, benchmarks: folder, models: {name: folder}}, each named by all that decides its content.

    Resolved once, so that a source that changes meanwhile moves nothing. Benchmarks are apart from training data: one
    more trains nothing again. A model pretrained here depends on the data it is from.
    """
    root = Path(experiment["prepared_root"])
    models = {model["name"]: f"{model['name']}-{_digest(_model(experiment, model))}" for model in experiment["models"]}
    return {
        "data": str(root / "data" / _digest(_training_data(experiment))),
        "benchmarks": str(root / "benchmarks" / _digest(_benchmarks(experiment))),
        "models": {name: str(root / "models" / folder) for name, folder in models.items()},
    }


def _model(experiment: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {"model": {key: value for key, value in model.items() if key != "published_as"}}
    if "pretrain" in model:
        code = [*method_files("full"), *sources("workflow/stages/prepare_model.py")]
        return parts | {"data": _training_data(experiment), "code": sha256_sources(code)}
    local = experiment["model_root"]
    return parts | {"model_root": local, "files": _files(Path(local), [model["hub_id"]], MODEL_CARD) if local else None}


def _benchmarks(experiment: dict[str, Any]) -> dict[str, Any]:
    benchmarks, root = experiment["evaluation"]["benchmarks"], experiment["data_root"]
    text = experiment["evaluation"]["general_text"] and experiment["evaluation"]["general_text"]["file"]
    needed = list(datasets_of(benchmarks))
    parts: dict[str, Any] = {
        "source": _source(experiment),
        "benchmarks": [{key: entry.get(key) for key in ("name", "tasks", "shots")} for entry in benchmarks],
        "mt_bench": experiment["mt_bench"] is not None,  # whoever judges
        "general_text": text,  # whichever part of the file is measured
        "code": sha256_sources(sources("workflow/stages/prepare_benchmarks.py", "workflow/engine/sources.py")),
    }
    if root == DOWNLOADED:
        return parts | {"revisions": {dataset: experiment["dataset_revisions"][dataset] for dataset in needed}}
    if root == GENERATED:
        return parts
    below = [*(f"hub/{dataset}" for dataset in needed), "agieval", "mt_bench", *([text] if text else [])]
    return parts | {"files": _files(Path(root), below)}


def _training_data(experiment: dict[str, Any]) -> dict[str, Any]:
    entries, root = experiment["data"], experiment["data_root"]
    text = experiment["continual_pretraining"]
    datasets = [entry["dataset"] for entry in [*entries, text or {}] if "dataset" in entry]
    code = ("workflow/stages/prepare_data.py", "workflow/engine/conversations.py", "workflow/engine/sources.py")
    code += ("workflow/engine/plain_text.py",)
    parts = {"source": _source(experiment), "data": entries, "code": sha256_sources(sources(*code))}
    parts |= {"tuning_items": experiment["tuning"]["items"]} if experiment["tuning"] else {}
    if text:
        parts |= {"text": {key: text[key] for key in TEXT if key in text}}
    if root == DOWNLOADED:
        return parts | {"revisions": {dataset: experiment["dataset_revisions"][dataset] for dataset in datasets}}
    if root == GENERATED:
        return parts
    corpora = [model["pretrain"]["corpus"] for model in experiment["models"] if "pretrain" in model]
    corpora += [text["file"]] if text and "file" in text else []
    return parts | {"files": _files(Path(root), [*(f"hub/{dataset}" for dataset in datasets), *corpora])}


def _source(experiment: dict[str, Any]) -> dict[str, Any]:
    parts = {key: experiment[key] for key in ("data_root", "checksums")}
    if experiment["data_root"] == GENERATED:
        parts |= {"world": experiment["world"], "code": sha256_sources(sources("workflow/world/*.py"))}
    return parts


def _files(root: Path, below: Iterable[str], but: str | None = None) -> str:
    """Digest of names, sizes and times of change of local files, `but` those of one name."""
    found = [file for name in below for file in [root / name, *(root / name).rglob("*")] if file.is_file()]
    counted = sorted(file for file in found if file.name != but)
    stats = [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in counted]
    return _digest(stats)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
