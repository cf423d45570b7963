"""The registry of fine-tuning methods: every `baselines/<name>.py` is one, found by its file name.

    baselines.names()                                   ["badam", "full", "galore", ...]; imports nothing
    baselines.build("lisa", {"gamma": 4}, adamw, seed)  the method, its hyper-parameters checked

A method file imports torch at most. peft, galore_torch and transformers are imported inside the functions that use
them, so that looking at all methods stays cheap.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if typing.TYPE_CHECKING:
    from baselines.contract import AdamWSettings, Method


def names() -> list[str]:
    """Names of all methods, sorted."""
    stems = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(stem for stem in stems - {"contract"} if not stem.startswith("_"))


def method_class(name: str) -> type[Method]:
    """The class `Method` of `baselines/<name>.py`.

    Raises:
        ValueError: there is no such file, or no such class in it.
    """
    if name not in names():
        close = difflib.get_close_matches(str(name), names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        known = ", ".join(names())
        raise ValueError(f"Unknown method {name!r}. Known: {known}. Add baselines/{name}.py to define one.{hint}")
    module = importlib.import_module(f"baselines.{name}")
    if not hasattr(module, "Method"):
        raise ValueError(f"baselines/{name}.py defines no class Method; baselines/contract.py says what it holds.")
    return typing.cast("type[Method]", module.Method)


def hyperparameters(name: str, overrides: Mapping[str, Any]) -> Any:
    """The method's frozen dataclass of hyper-parameters, with `overrides` in place of its defaults.

    Raises:
        ValueError: unknown method, unknown key, wrong type, or a value that the method refuses.
    """
    kind = method_class(name).Hyperparameters
    hints = typing.get_type_hints(kind)
    for key, value in overrides.items():
        if key not in hints:
            known = ", ".join(field.name for field in dataclasses.fields(kind)) or "none"
            raise ValueError(f"Unknown hyper-parameter {key!r} (value {value!r}) of method {name}. Known: {known}.")
    return kind(**{key: _typed(name, key, value, hints[key]) for key, value in overrides.items()})


def build(
    name: str, overrides: Mapping[str, Any], adamw: AdamWSettings, seed: int, draw_seed: int | None = None
) -> Method:
    """The method `name`, ready to `prepare` a model; its `seed` and `draw_seed` are those of `contract.Method`.

    Raises:
        ValueError: see `hyperparameters`.
    """
    return method_class(name)(hyperparameters(name, overrides), adamw, seed, draw_seed)


def _typed(method: str, key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, a class, tuple[X, ...] or a union: a list serves as tuple, an int as float."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    for option in options:
        if _fits(value, option):
            converted = _converted(value, option)
            if not all(math.isfinite(x) for x in _numbers(converted)):
                raise ValueError(f"Hyper-parameter {key!r} of method {method} is {value!r}; legal: a finite number.")
            return converted
    legal = " or ".join(_type_name(option) for option in options)
    if isinstance(value, bool) and str in options:
        legal += " (YAML reads on, off, yes and no as booleans: put them in quotes)"
    given = f"{value!r}, of type {type(value).__name__}"
    raise ValueError(f"Hyper-parameter {key!r} of method {method} is {given}; legal: {legal}.")


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, int | float if hint is float else hint)


def _converted(value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        return tuple(_converted(item, typing.get_args(hint)[0]) for item in value)
    return float(value) if hint is float else value


def _numbers(value: Any) -> list[float]:
    """All floats in a converted value."""
    items = value if isinstance(value, tuple) else (value,)
    return [item for item in items if isinstance(item, float)]


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"list of {_type_name(typing.get_args(hint)[0])}"
    return "null" if hint is type(None) else str(hint.__name__)
