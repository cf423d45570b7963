"""Checks of an experiment's meaning that all kinds of experiments share; each raises InputError with one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.general_text import SUFFIXES
from eval.published import published_tables
from workflow.engine.errors import InputError
from workflow.engine.step_in_backward import check_step_in_backward
from workflow.form import hint
from workflow.places import DOWNLOADED

RESERVED_NAMES = ("published", "reference")  # folders of results/ that git keeps


def check_name(config: dict[str, Any]) -> None:
    """The experiment's folder is its own."""
    if config["name"] in RESERVED_NAMES:
        raise InputError(f"name: {config['name']!r} is a folder of this repository; any other name is legal.")


def check_unique(key: str, entries: list[dict[str, Any]]) -> None:
    """No two entries of a list have the same name."""
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if entry["name"] in seen:
            raise InputError(f"{key}[{index}].name: {entry['name']!r} stands twice; names are unique within {key}.")
        seen.add(entry["name"])


def check_known(where: str, what: str, value: str, known: list[str]) -> None:
    """The value is one of the known names."""
    if value not in known:
        raise InputError(f"{where}: unknown {what} {value!r}.{hint(value, known)} Known: {', '.join(known)}.")


def check_published(config: dict[str, Any]) -> None:
    """The tables to show beside ours exist."""
    for index, table in enumerate(config["report"]["published"]):
        check_known(f"report.published[{index}]", "table", table, published_tables())


def check_text_file(key: str, name: str, data_root: str, instead: str) -> None:
    """It is the relative path of a text file below the data root, which is no download."""
    file = Path(name)
    if file.is_absolute() or ".." in file.parts or not file.name.endswith(SUFFIXES):
        raise InputError(
            f"{key}: {str(file)!r} is no path of a text file below the data root."
            f" Legal: a relative path that ends in {' or '.join(SUFFIXES)}."
        )
    if data_root == DOWNLOADED:
        raise InputError(
            f"{key}: data_root 'hub' downloads no text files. Legal: {instead}, or a local folder as data_root."
        )


def check_heads(where: str, shape: dict[str, Any]) -> None:
    """Attention heads divide the width, and the heads of keys and values the attention heads."""
    heads = shape["num_attention_heads"]
    groups = shape.get("num_key_value_heads", heads)
    for key, value, parts in (("hidden_size", shape["hidden_size"], heads), ("num_attention_heads", heads, groups)):
        if value % parts:
            divisor = "num_attention_heads" if key == "hidden_size" else "num_key_value_heads"
            raise InputError(f"{where}.{key}: {value} is not a multiple of {divisor}: {parts}.")


def check_one_gradient_at_a_time(who: str, training: dict[str, Any]) -> None:
    """The settings do without all gradients at once, which a step in backward never has."""
    check_step_in_backward(training["accumulation_steps"], training["max_grad_norm"], who)
