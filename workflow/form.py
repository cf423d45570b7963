"""The form of an experiment: words become numbers, a violation of the schema becomes one sentence, defaults are put in.

`read(path)`, then `completed(config, schema)`; what the values mean together is checked in `workflow/experiment.py` and
`workflow/memory_experiment.py`.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError

# what a word must look like to be read as another type, and how it is read
WORDS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "integer": (re.compile(r"[+-]?\d+"), int),
    "number": (re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"), float),
    "boolean": (re.compile(r"true|false|True|False"), lambda word: word.lower() == "true"),
    "null": (re.compile(r"null|None|~|"), lambda word: None),
}


def read(path: Path) -> dict[str, Any]:
    """An experiment as it stands in its file: a YAML of config/, or the resolved one, which is JSON.

    Raises:
        InputError: the file is not there, cannot be read, or holds no mapping.
    """
    import yaml

    if not path.is_file():
        raise InputError(f"No experiment at {path}. Give a results/<name>/experiment.json or a YAML from config/.")
    try:
        text = path.read_text(encoding="utf-8")
        # YAML takes JSON's 1e-08 for a word
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # json's and unicode's errors are ValueErrors
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: an experiment is a mapping of keys, not {type(content).__name__}."
            " config/README.md explains every key."
        )
    return content


def completed(config: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A copy in the schema's types, with all defaults.

    Raises:
        InputError: a violation of the schema.
    """
    config = typed(config, schema)
    check_form(config, schema)
    fill_defaults(config, schema)
    return config


def hint(value: object, known: list[str]) -> str:
    """The known name that a misspelt one is closest to, as a sentence to put after an error."""
    close = difflib.get_close_matches(str(value), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def known_around(folder: Path) -> str:
    """The folders beside one that hold an experiment, as a sentence to put after an error; empty where none does."""
    known = [str(file.parent) for file in sorted(folder.parent.glob("*/experiment.json"))]
    return f" Known: {', '.join(known)}." if known else ""


def _where(path: list[Any]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "the experiment"


def typed(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """A copy of the value in which words that must be numbers, booleans or null are.

    Snakemake reads nested values of `--config` as words, and YAML takes 1e-3 for one. `root` is the whole schema, which
    a `$ref` (to a key at the top) points into.
    """
    root = root or schema
    if "$ref" in schema:
        schema = root["properties"][schema["$ref"].removeprefix("#/properties/")]
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        return {key: typed(child, known.get(key, others or {}), root) for key, child in value.items()}
    if isinstance(value, list):
        return [typed(child, schema.get("items", {}), root) for child in value]
    types = schema.get("type", list(WORDS))  # free form (hyper-parameters, architecture): what the word looks like
    if isinstance(value, str):
        kinds = [types] if isinstance(types, str) else types
        if "string" in kinds:  # a word stays one, unless it says null where null is legal
            kinds = [kind for kind in kinds if kind == "null"]
        for kind in kinds:
            if kind in WORDS and WORDS[kind][0].fullmatch(value):
                return WORDS[kind][1](value)
    return value


def check_form(config: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise InputError for the first violation, outermost first."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend
    except ImportError as error:
        raise InputError(
            "A YAML is checked with the package jsonschema, which is not installed here: install it, or give the"
            " results/<name>/experiment.json that Snakemake wrote elsewhere."
        ) from error

    types = {"integer": lambda _, value: _is_whole(value), "number": lambda _, value: _is_finite(value)}
    checker = Draft202012Validator.TYPE_CHECKER.redefine_many(types)
    validator = extend(Draft202012Validator, type_checker=checker)(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: (len(error.path), str(error.path)))
    if errors:
        raise InputError(_describe(errors[0]))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # JSON Schema would take 100.0, and range() would not


def _is_finite(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _describe(error: Any) -> str:
    """One sentence for a schema error: path, value, legal set."""
    where, value = _where(list(error.absolute_path)), error.instance
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(value) - set(known), key=str)[0]
        return f"{where}: unknown key {unknown!r}.{hint(unknown, known)} Known: {', '.join(known)}."
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in value)
        return f"{where}: key {missing!r} is missing. Required: {', '.join(error.validator_value)}."
    if error.validator == "enum":
        return f"{where}: {value!r} is not one of {', '.join(map(repr, error.validator_value))}."
    if error.validator == "type":
        types = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return f"{where}: {value!r} is of the wrong type; expected {' or '.join(types)}."
    return f"{where}: {error.message}."


def fill_defaults(value: Any, schema: dict[str, Any]) -> None:
    """Put the schema's defaults where a key is absent, in place; none beyond a `$ref`, which holds differences only."""
    if isinstance(value, dict):
        for key, sub in schema.get("properties", {}).items():
            if "default" in sub:
                value.setdefault(key, copy.deepcopy(sub["default"]))
            if key in value:
                fill_defaults(value[key], sub)
        if isinstance(schema.get("additionalProperties"), dict):
            for child in value.values():
                fill_defaults(child, schema["additionalProperties"])
    elif isinstance(value, list) and "items" in schema:
        for child in value:
            fill_defaults(child, schema["items"])
