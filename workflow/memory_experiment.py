"""Memory experiments: `kind: memory` YAMLs become checked settings, and those become cells to simulate and to measure.

`resolve(config)` fills the defaults of `workflow/schemas/memory_experiment.schema.json`, checks form and meaning, and
adds the list of cells; the result is what `results/<experiment>/experiment.json` holds and every stage reads. A cell is
one model under one variant of a method at one setting: `default`, or an entry of `settings`, which changes one thing.
Each error is one message: path in the file, value, legal set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.checks import (
    check_heads,
    check_known,
    check_name,
    check_one_gradient_at_a_time,
    check_published,
    check_unique,
)
from workflow.engine.abilities import check_abilities
from workflow.engine.errors import InputError
from workflow.form import completed, hint, read
from workflow.variants import hyperparameters, method_class, variants

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BASE = "default"  # the setting that changes nothing
SCHEMA_FILE = Path(__file__).parent / "schemas" / "memory_experiment.schema.json"


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """Check a memory experiment and return it with all defaults and its list of cells.

    Shapes of the hub are not downloaded here: whether a method suits them, `check_cell` finds when one is simulated.

    Raises:
        InputError: anything unknown, missing, contradictory or of the wrong type.
    """
    config = completed(config, json.loads(SCHEMA_FILE.read_text()))
    _check_meaning(config)
    config["card_bytes"] = _card_bytes(config["card"])
    config["cells"] = _expand(config)
    _check_methods_fit_models(config)
    return config


def load(path: Path) -> dict[str, Any]:
    """Read a resolved memory experiment (JSON) or resolve one from YAML."""
    content = read(path)
    if content.get("kind") != "memory":
        raise InputError(
            f"{path}: kind: {content.get('kind', 'training')!r} has no cells to simulate or measure; legal: memory."
        )
    return content if "cells" in content else resolve(content)


def find_cell(experiment: dict[str, Any], path: str) -> dict[str, Any]:
    """The cell with this path (model/method/variant/setting)."""
    cells = {cell["path"]: cell for cell in experiment["cells"]}
    if path not in cells:
        what = f"Unknown cell {path!r} of experiment {experiment['name']!r}."
        raise InputError(f"{what}{hint(path, list(cells))} Known: {', '.join(cells)}.")
    return cells[path]


# --- meaning


def _check_meaning(config: dict[str, Any]) -> None:
    from workflow.engine.measuring import Effort

    check_name(config)
    check_unique("models", config["models"])
    check_unique("settings", config["settings"])
    check_published(config)
    for index, model in enumerate(config["models"]):
        if "architecture" in model:
            if "shape" in model:
                raise InputError(f"models[{index}] ({model['name']}): give 'shape' or 'architecture', not both.")
            check_heads(f"models[{index}].architecture", model["architecture"])
    Effort(**{key: config["measure"][key] for key in ("warmup_steps", "timed_steps", "max_steps")})
    if config["training"]["step_in_backward"]:
        check_one_gradient_at_a_time("training.step_in_backward", config["training"])


def _card_bytes(card: str | None) -> int | None:
    """What a process can have on the card."""
    from workflow.engine.cards import card_memory_bytes

    try:
        return None if card is None else card_memory_bytes(card)
    except InputError as error:
        raise InputError(f"card: {error}") from error


def _check_methods_fit_models(config: dict[str, Any]) -> None:
    """Check every cell whose model's shape is known without a download."""
    from workflow.engine.shapes import needs_download, read_config

    for index, model in enumerate(config["models"]):
        cells = [cell for cell in config["cells"] if cell["model"] == model["name"]]
        if needs_download(cells[0]["shape"]):
            continue
        try:
            shape = read_config(cells[0]["shape"])
            for cell in cells:
                check_cell(cell, shape)
        except InputError as error:
            raise InputError(f"models[{index}] ({model['name']}): {error}") from error


def check_cell(cell: dict[str, Any], shape: PretrainedConfig) -> None:
    """Raise InputError if the cell's sequence or method does not suit a model of this shape."""
    from workflow.engine.shapes import check_length, check_room
    from workflow.engine.training_step import Conditions, build_method

    check_length(shape, cell["conditions"]["sequence_length"], "training.sequence_length")
    try:
        method = build_method(cell["method"], cell["hyperparameters"], Conditions(**cell["conditions"]), 0)
        method.check(shape.to_dict())
        check_room(method, shape.to_dict(), cell["conditions"]["sequence_length"])
    except ValueError as error:
        raise InputError(f"method {cell['method']} ({cell['variant']}): {error}") from error


# --- cells


def _expand(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The unchanged cells of all models and methods, then those of the settings, in the order of the file."""
    found = variants(config)
    for index, variant in enumerate(found):
        if not method_class(f"methods[{index}]", variant["method"]).trains:
            raise InputError(f"methods[{index}]: {variant['method']!r} trains nothing: it has no step to measure.")
    base = [_cell(config, model, variant) for model in config["models"] for variant in found]
    changed = (cell for index in range(len(config["settings"])) for cell in _changed(config, index, base))
    return [*base, *changed]


def _cell(config: dict[str, Any], model: dict[str, Any], variant: dict[str, Any]) -> dict[str, Any]:
    inline = {"model_type": "llama", **model["architecture"]} if "architecture" in model else None
    return {
        "path": f"{model['name']}/{variant['method']}/{variant['variant']}/{BASE}",
        "model": model["name"],
        "shape": inline or model.get("shape", model["name"]),
        "published_as": model.get("published_as"),
        **variant,
        "setting": BASE,
        "conditions": dict(config["training"]),
    }


def _changed(config: dict[str, Any], index: int, base: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cells of one entry of `settings`."""
    setting = config["settings"][index]
    where = f"settings[{index}] ({setting['name']})"
    if setting["name"] == BASE:
        raise InputError(f"settings[{index}].name: {BASE!r} is the experiment without a change; any other is legal.")
    models, methods = list(dict.fromkeys(cell["model"] for cell in base)), _method_names(base)
    for key, known in (("models", models), ("methods", methods)):
        for name in setting.get(key, ()):
            check_known(f"{where}.{key}", key.removesuffix("s"), name, known)
    for cell in base:
        if cell["model"] in setting.get("models", models) and {*_names(cell)} & {*setting.get("methods", methods)}:
            yield _with_setting(where, cell, setting)


def _with_setting(where: str, cell: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    name = f"{cell['method']}/{cell['variant']}"
    merged = {**cell["hyperparameters"], **setting["hyperparameters"]}
    changed = {
        **cell,
        "path": f"{cell['model']}/{name}/{setting['name']}",
        "setting": setting["name"],
        "hyperparameters": hyperparameters(f"{where} on {name}", cell["method"], merged),
        "conditions": {**cell["conditions"], **setting.get("training", {})},
    }
    if all(changed[key] == cell[key] for key in ("hyperparameters", "conditions")):
        raise InputError(f"{where} changes nothing of {name} on {cell['model']}; give training or hyperparameters.")
    method = method_class(where, cell["method"])
    check_abilities(f"{where} on {name}", method, changed["conditions"], "training.")
    if changed["conditions"]["step_in_backward"]:
        check_one_gradient_at_a_time(f"{where} on {name}", changed["conditions"])
    return changed


def _names(cell: dict[str, Any]) -> tuple[str, str]:
    """How a setting may name the method of a cell."""
    return cell["method"], f"{cell['method']}/{cell['variant']}"


def _method_names(cells: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for name in _names(cell)))
