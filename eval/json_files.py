"""Files of one JSON object: `read_json(file, fields)` is its content, checked; empty where there is no file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval import EvaluationError

AGAIN = "Delete the file and run the pipeline again, which writes it anew."

Json = Mapping[str, Any]


def read_json(file: Path, needed: Iterable[str]) -> dict[str, Any]:
    """The object in a file, empty if there is no file.

    Raises:
        EvaluationError: it is no JSON object, or lacks a field.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:  # json's and unicode's errors are ValueErrors
        raise EvaluationError(f"{file} is not JSON ({error}). {AGAIN}") from error
    if not isinstance(content, dict):
        raise EvaluationError(f"{file} holds a {type(content).__name__}, not an object. {AGAIN}")
    require(file, content, needed)
    return content


def require(file: Path, content: Json, keys: Iterable[str], prefix: str = "") -> None:
    """Raise an EvaluationError if the content of a file lacks one of the keys."""
    for key in keys:
        if key not in content:
            raise EvaluationError(f"{file}: field {prefix + key!r} is missing. {AGAIN}")
