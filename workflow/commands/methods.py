"""Every registered method: where it is from, whose code runs, what trains, what its optimizer keeps, what it cannot do.

  lisa-bench methods                                all, by family; figures for llama-2-7b in bf16
  lisa-bench methods --family adapters --model qwen2.5-7b
  lisa-bench methods lisa                           one: its settings with their defaults, its learning rates
  lisa-bench methods --json | jq '.methods[] | {name, trainable_share}'
  lisa-bench methods --markdown                     the README's table

Figures are counted, not quoted: the model is really prepared, with default hyper-parameters, on tensors without data.
A method that does not go with the model, that lacks a package here or is not filled in yet says so in its row.

--json prints one object: schema_version, model, parameters, precision, letters (of state_formula), abilities (keys of
limits) and `methods`, a list of name, family, summary, paper, implementation, optimizer, steps_in_backward,
state_formula, limits (ability: reason), hyperparameters, learning_rates, default_learning_rate, status ("ok", "does not
train", "refused", "package missing" or "not filled in", with reason), trainable_parameters (always, sampled, total:
at a time), trainable_share (total over the model's parameters) and state_bytes; null where status is not "ok".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import baselines
from workflow.engine.errors import InputError
from workflow.form import hint

if TYPE_CHECKING:  # help and mistakes answer without loading torch
    from baselines.contract import Method

SUMMARY = "all methods: paper, code, trained share, optimizer state, limits"
PLACEHOLDER = "TODO"  # what `lisa-bench new-method` writes where the author has to choose
CALIBRATION_TOKENS = 16  # of the one sequence that methods look at which choose by data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lisa-bench methods`."""
    add = parser.add_argument
    add("name", nargs="?", metavar="METHOD", help="one method, in detail")
    add("--family", metavar="NAME", help="methods of this family only")
    add("--model", default="llama-2-7b", metavar="MODEL", help="a bundled shape (%(default)s), a hub id, or a folder")
    kinds = ("fp32", "bf16", "bf16-mixed")
    add("--precision", choices=kinds, default="bf16", metavar="KIND", help="%(choices)s (%(default)s)")
    form = parser.add_mutually_exclusive_group().add_argument
    form("--json", action="store_true", help="one JSON object instead of text")
    form("--markdown", action="store_true", help="the README's table, without figures")


def run(arguments: argparse.Namespace) -> None:
    """Answer on stdout."""
    from workflow.engine.fit import prepare_process

    prepare_process()
    from workflow.commands import methods_text

    names = _chosen(arguments.name, arguments.family)
    if arguments.markdown:
        print(methods_text.markdown([name for name in names if not placeholders(name)]))
        return
    catalogue = measure(names, arguments.model, arguments.precision)
    if arguments.json:
        print(json.dumps(catalogue.as_json(), indent=2))
    elif arguments.name:
        print(methods_text.details(catalogue))
    else:
        print(methods_text.table(catalogue))


@dataclass(frozen=True)
class Figures:
    """What a method costs on a model, or the reason why that has no answer."""

    status: str = "ok"
    reason: str | None = None
    trainable_parameters: Mapping[str, int] | None = None
    trainable_share: float | None = None
    state_bytes: int | None = None


@dataclass(frozen=True)
class Catalogue:
    """Methods with their figures for one model."""

    model: str
    parameters: int
    precision: str
    figures: Mapping[str, Figures]  # by method

    def as_json(self) -> dict[str, Any]:
        """Every key always stands."""
        from baselines.contract import ABILITIES, STATE_LETTERS

        head = {"schema_version": "1.0.0", "model": self.model, "parameters": self.parameters}
        head |= {"precision": self.precision, "letters": STATE_LETTERS, "abilities": ABILITIES}
        return head | {"methods": [_as_json(name, figures) for name, figures in self.figures.items()]}


def _as_json(name: str, figures: Figures) -> dict[str, Any]:
    method = baselines.method_class(name)
    said = ("family", "summary", "paper", "implementation", "steps_in_backward", "state_formula")
    return {
        "name": name,
        **{key: getattr(method, key) for key in said},
        "optimizer": method.optimizer_name,
        "limits": method.limits(),
        "hyperparameters": asdict(baselines.hyperparameters(name, {})),
        "learning_rates": method.learning_rates,
        "default_learning_rate": method.default_learning_rate,
        **asdict(figures),
    }


# --- which methods


def _chosen(name: str | None, family: str | None) -> list[str]:
    """The methods asked for: in the order of their families, then of their names."""
    from baselines.contract import FAMILIES

    if name is not None and name not in baselines.names():
        known = ", ".join(baselines.names())
        raise InputError(f"Unknown method {name!r}.{hint(name, baselines.names())} Known: {known}.")
    if family is not None and family not in FAMILIES:
        raise InputError(f"--family: unknown {family!r}.{hint(family, list(FAMILIES))} Known: {', '.join(FAMILIES)}.")
    order = {known: place for place, known in enumerate(FAMILIES)}  # a family not filled in yet stands last
    families = {each: baselines.method_class(each).family for each in ([name] if name else baselines.names())}
    if name and family not in (None, families[name]):
        raise InputError(f"Method {name!r} is of family {families[name]!r}, not {family!r}.")
    chosen = [each for each, its in families.items() if family in (None, its)]
    return sorted(chosen, key=lambda each: (order.get(families[each], len(order)), each))


def placeholders(name: str) -> list[str]:
    """Class attributes that still say what has to be written there."""
    said = vars(baselines.method_class(name)).items()
    return [key for key, value in said if isinstance(value, str) and value.startswith(PLACEHOLDER)]


# --- figures


def measure(names: list[str], model: str, precision: str) -> Catalogue:
    """Prepare the model with each method.

    Raises:
        InputError: no such model.
    """
    from workflow.engine.models import count_parameters
    from workflow.engine.shapes import read_config

    config = read_config(model)
    parameters = count_parameters(_model(config, precision, device="meta"))
    return Catalogue(model, parameters, precision, {n: _figures(n, config, parameters, precision) for n in names})


def _figures(name: str, config: Any, parameters: int, precision: str) -> Figures:
    from workflow.engine.training_step import Conditions, build_method

    method = build_method(name, {}, Conditions(sequence_length=CALIBRATION_TOKENS, precision=precision), seed=0)
    if placeholders(name):
        return Figures("not filled in", f"{', '.join(placeholders(name))} of baselines/{name}.py still TODO")
    if not method.trains:
        return Figures("does not train")
    try:
        method.check(config.to_dict())
        trains, state_bytes = _prepared(method, config, precision)
    except ValueError as error:  # of `check`, or of what only a look at the model finds
        return Figures("refused", _words(error))
    except ModuleNotFoundError as error:
        return Figures("package missing", _words(error))
    except NotImplementedError as error:  # as `lisa-bench new-method` leaves it
        if not str(error).startswith(f"baselines/{name}.py"):
            raise
        return Figures("not filled in", _words(error))
    return Figures("ok", None, trains, trains["total"] / parameters, state_bytes)


def _prepared(method: Method, config: Any, precision: str) -> tuple[dict[str, int], int]:
    """What trains at a time, and the bytes of optimizer state, of a really prepared model without data."""
    from workflow.engine.dataless import dataless
    from workflow.engine.training_step import Conditions, synthetic_window

    conditions = Conditions(batch_size=1, sequence_length=CALIBRATION_TOKENS, precision=precision)
    with dataless():
        model = method.prepare(_model(config, precision, device="cpu"))
        optimizer = method.optimizer(model, method.default_learning_rate)
        method.calibrate(model, synthetic_window(config.vocab_size, conditions, "cpu", seed=0))
        method.before_step(0)
        optimizer.zero_grad(set_to_none=True)
        return method.trainable_parameters(model), method.state_bytes(model)


def _model(config: Any, precision: str, device: str) -> Any:
    from workflow.engine.models import random_model

    return random_model(config, precision=precision, attention="sdpa", device=device)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())
