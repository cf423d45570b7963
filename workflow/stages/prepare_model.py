"""Prepare one base model: download it at its pinned revision, find it under model_root, or pretrain it here from text.

Writes <prepared_root>/models/<name>-<key>/manifest.json: folder of the checkpoint, revision, sha256, parameters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError
from workflow.engine.shapes import read_shape
from workflow.experiment import check_methods, load, named
from workflow.places import data_folder, model_folder
from workflow.stages import parser, stage_main


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="name of the model in the experiment")
    given = arguments.parse_args()
    experiment = load(given.experiment)
    if given.model not in {model["name"] for model in experiment["models"]}:
        known = ", ".join(model["name"] for model in experiment["models"])
        raise InputError(f"--model: unknown model {given.model!r}. Known: {known}.")
    prepare(experiment, given.model)


def prepare(experiment: dict[str, Any], name: str) -> None:
    """Get the checkpoint, check that every method can run on it and that its tokenizer knows the prompt format, write
    the manifest.

    Raises:
        InputError: gated or unknown model, missing or damaged file, no disk space, a method that does not fit, a
            tokenizer without the chat template that the experiment asks for.
    """
    from workflow.engine.models import sha256_folder
    from workflow.engine.records import write_json
    from workflow.engine.sources import verify_checksums

    model, target = named(experiment["models"], name), model_folder(experiment, name)
    target.mkdir(parents=True, exist_ok=True)
    extra: dict[str, Any] = {}
    if "pretrain" in model:
        folder = target / "checkpoint"
        extra = _pretrain(experiment, model["pretrain"], folder)
    else:
        folder = _get(experiment, model, target / "checkpoint")
    verify_checksums(f"models {name!r}", folder, model["checksums"])
    config = _read_config(folder)
    check_methods(experiment, name, config)
    _check_prompts(experiment, name, folder)
    revision = model.get("revision") if experiment["model_root"] is None else None  # in place: nobody checked it
    manifest = {
        "name": name,
        "folder": str(folder.resolve()),
        "revision": revision,
        "sha256": sha256_folder(folder),
        **extra,
    }
    write_json(target / "manifest.json", manifest)


def _check_prompts(experiment: dict[str, Any], name: str, folder: Path) -> None:
    from workflow.engine.models import load_tokenizer
    from workflow.engine.prompts import check_format

    if experiment["prompt_format"] == "chat":  # the others need no more of a tokenizer than training does
        try:
            check_format("chat", load_tokenizer(folder), answers=experiment["mt_bench"] is not None)
        except InputError as error:
            raise InputError(f"models {name!r}: {error}") from error


def _get(experiment: dict[str, Any], model: dict[str, Any], target: Path) -> Path:
    """The folder of a pretrained checkpoint: in place under model_root, else downloaded."""
    from workflow.engine.sources import download_model

    if experiment["model_root"] is None:
        download_model(model["hub_id"], model["revision"], target)
        return target
    folder = Path(experiment["model_root"]) / model["hub_id"]
    if not folder.is_dir():
        raise InputError(
            f"models {model['name']!r}: no folder {folder}; model_root holds <organisation>/<name>/ checkpoints."
        )
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint whose weights and tokenizer are there too."""
    needed = {
        "configuration": ("config.json",),
        "weights": ("*.safetensors",),
        "tokenizer": ("tokenizer.json", "tokenizer.model"),
    }
    for what, patterns in needed.items():
        if not any(list(folder.glob(pattern)) for pattern in patterns):
            raise InputError(f"{folder} has no {what}: looked for {' or '.join(patterns)}.")
    return read_shape(folder / "config.json")


def _pretrain(experiment: dict[str, Any], settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the base model from text; returns what the manifest says of it."""
    import torch

    from workflow.engine.data import read_conversations
    from workflow.engine.plain_text import pack, read_text_file
    from workflow.engine.pretraining import build_model, pretrain, split_off, train_tokenizer

    torch.set_num_threads(settings["threads"])
    data = data_folder(experiment)
    root = Path(json.loads((data / "manifest.json").read_text())["root"])
    text = read_text_file(root / settings["corpus"], "pretrain.corpus", settings.get("corpus_characters"))
    turns = [
        turn["content"]
        for entry in experiment["data"]
        for turns in read_conversations(data / entry["name"] / "train.jsonl")
        for turn in turns
    ]
    tokenizer = train_tokenizer([text, *turns], settings["vocabulary_size"])
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    model = build_model(settings["architecture"], tokenizer, settings["seed"])
    kept, held_out = split_off(tokens)
    for phase in settings["phases"]:
        parts = (pack(part, phase["sequence_length"], "pretrain.sequence_length") for part in (kept, held_out))
        loss = pretrain(model, *parts, {**phase, "seed": settings["seed"]}, folder.parent / "pretraining")
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"held_out_loss": loss, "corpus_tokens": len(tokens)}


if __name__ == "__main__":
    stage_main(main)
