"""Methods of an experiment and their variants: `methods` and `method_settings` of a YAML, with all settings filled in.

variants(config)      [{method, variant, hyperparameters, learning_rate}], in the order of `methods`
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import baselines
from workflow import continual_pretraining
from workflow.engine.abilities import check_abilities
from workflow.engine.errors import InputError


def variants(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Every entry of `methods`; the learning rate is None of a method that trains nothing, and where trials choose it.

    Raises:
        InputError: unknown method or hyper-parameter, an illegal value, or a variant that stands twice.
    """
    for name, shared in config["method_settings"].items():
        method_class(f"method_settings.{name}", name)
        hyperparameters(f"method_settings.{name}", name, shared["hyperparameters"])
    found = [_variant(config, index, entry) for index, entry in enumerate(config["methods"])]
    seen: set[tuple[str, str]] = set()
    for index, variant in enumerate(found):
        key = (variant["method"], variant["variant"])
        if key in seen:
            raise InputError(
                f"methods[{index}]: {key[0]!r} with variant {key[1]!r} stands twice; variants of a method are unique."
            )
        seen.add(key)
    return found


def method_class(where: str, name: str) -> Any:
    """The method's class; `where` is the place in the file that names it."""
    try:
        return baselines.method_class(name)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def hyperparameters(where: str, name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """All hyper-parameters of a method, `overrides` in place of its defaults."""
    try:
        return asdict(baselines.hyperparameters(name, overrides))
    except ValueError as error:
        raise InputError(f"{where}.hyperparameters: {error}") from error


def _variant(config: dict[str, Any], index: int, entry: str | dict[str, Any]) -> dict[str, Any]:
    """A method's variant with all its settings: the method's defaults < method_settings < the entry itself."""
    entry = {"method": entry, "variant": "default", "hyperparameters": {}} if isinstance(entry, str) else entry
    name = entry["method"]
    method = method_class(f"methods[{index}]", name)
    check_abilities(f"methods[{index}] ({name})", method, config["training"], "training.")
    if config.get("continual_pretraining") is not None:  # a memory experiment has no such key
        settings = continual_pretraining.training_of(config)
        check_abilities(f"methods[{index}] ({name})", method, settings, "continual_pretraining.")
    shared = config["method_settings"].get(name, {"hyperparameters": {}})
    overrides = {**shared["hyperparameters"], **entry["hyperparameters"]}
    sources = (entry, shared, config["training"], {"learning_rate": method.default_learning_rate})
    rate = next(source["learning_rate"] for source in sources if "learning_rate" in source)
    return {
        "method": name,
        "variant": entry["variant"],
        "hyperparameters": hyperparameters(f"methods[{index}] ({name})", name, overrides),
        "learning_rate": rate if method.trains and not config.get("tuning") else None,
    }
