"""Which layers exist: find the decoder layers of a decoder-only model by its structure, without naming classes.

`decoder_layers(model)` is the one list of modules that is as long as the model's configuration says
(`num_hidden_layers`) and lies in no other list. Where there is no such list, or more than one, the error says what to
pass instead. `parts(model)` divides all parameters: embeddings, decoder layers, head, and the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Parts:
    """The parameters of a model, each in exactly one part."""

    embeddings: list[nn.Parameter]  # of tokens, and of positions where they are learned
    layers: list[list[nn.Parameter]]  # one list a decoder layer
    norm: list[nn.Parameter]  # the final norm, and whatever else is in no other part
    head: list[nn.Parameter]  # of the LM head; without its matrix where that is the embedding's
    tied: bool  # embedding and head are one matrix, which then counts as embedding


def decoder_layers(model: nn.Module, path: str | None = None) -> list[nn.Module]:
    """The decoder layers of `model`, first to last.

    Args:
        model: any module that holds a decoder; wrappers (peft, compile) may stand around it.
        path: dotted name of the list of layers, e.g. "transformer.h", for models where it cannot be found.

    Raises:
        ValueError: `path` names no list of layers; or without it, none or several lists qualify.
    """
    if path is not None:
        return _layers_at(model, path)
    expected = layer_count(model)
    found = {name: layers for name, layers in _outermost_lists(model).items() if expected in (None, len(layers))}
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(_cannot_tell(model, found, expected))


def parts(model: nn.Module, layers: str | None = None) -> Parts:
    """Divide the parameters of `model` by what they belong to; `layers` as `path` in `decoder_layers`.

    The head is what `get_output_embeddings()` of transformers gives, or, in other models, the linear modules outside
    the decoder layers.

    Raises:
        ValueError: the decoder layers cannot be found.
    """
    modules = decoder_layers(model, layers)
    in_layers = {id(module) for layer in modules for module in layer.modules()}
    outside = [module for module in model.modules() if id(module) not in in_layers]
    embedding_modules = [_from_getter(model, "get_input_embeddings"), *_instances(outside, nn.Embedding)]
    output = _from_getter(model, "get_output_embeddings")
    head_modules = [output] if output is not None else _instances(outside, nn.Linear)

    taken: set[int] = set()
    per_layer = [_untaken(layer.parameters(), taken) for layer in modules]
    embeddings = [p for module in embedding_modules if module is not None for p in _untaken(module.parameters(), taken)]
    embedding_ids = {id(p) for p in embeddings}
    tied = any(id(p) in embedding_ids for module in head_modules for p in module.parameters())
    head = [p for module in head_modules for p in _untaken(module.parameters(), taken)]
    return Parts(embeddings, per_layer, _untaken(model.parameters(), taken), head, tied)


def layer_count(model: nn.Module) -> int | None:
    """Number of decoder layers by the model's own configuration (transformers' `num_hidden_layers`), if it has one."""
    config: Any = next((module.config for module in model.modules() if hasattr(module, "config")), None)
    text_config = getattr(config, "get_text_config", lambda: config)()
    count = getattr(text_config, "num_hidden_layers", None)
    return count if isinstance(count, int) else None


def _from_getter(model: nn.Module, name: str) -> nn.Module | None:
    """What the transformers method `name` of the model, or of the model that it wraps, returns."""
    getter = getattr(model, name, None)
    module = getter() if callable(getter) else None
    return module if isinstance(module, nn.Module) else None


def _instances(modules: Iterable[nn.Module], kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in modules if isinstance(module, kind)]


def _untaken(parameters: Iterable[nn.Parameter], taken: set[int]) -> list[nn.Parameter]:
    """Those that no part has yet; they are taken now."""
    fresh = {id(p): p for p in parameters if id(p) not in taken}
    taken.update(fresh)
    return list(fresh.values())


def _outermost_lists(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Every ModuleList that holds parameters and lies in no other (experts inside a layer are left out), by name."""
    lists: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside and any(True for _ in module.parameters()):
            lists[name] = list(module)
    return lists


def _layers_at(model: nn.Module, path: str) -> list[nn.Module]:
    modules = dict(model.named_modules())
    inside = [module for name, module in modules.items() if name.endswith(f".{path}")]  # of a wrapper
    layers = modules.get(path) or (inside[0] if len(inside) == 1 else None)
    if isinstance(layers, nn.ModuleList | nn.Sequential) and len(layers):
        return list(layers)
    lists = _names(_outermost_lists(model))
    raise ValueError(f"No list of layers at {path!r} in {type(model).__name__}. Lists there: {lists}.")


def _cannot_tell(model: nn.Module, found: Mapping[str, list[nn.Module]], expected: int | None) -> str:
    wanted = "" if expected is None else f" of {expected} layers (num_hidden_layers)"
    others = _names(_outermost_lists(model))
    what = f"Several lists{wanted}: {_names(found)}" if found else f"No list{wanted}; lists there: {others}"
    advice = "Pass layers='<dotted name of the list>', e.g. layers='model.layers'"
    return f"Cannot tell the decoder layers of {type(model).__name__}. {what}. {advice}."


def _names(lists: Mapping[str, list[nn.Module]]) -> str:
    return ", ".join(f"{name} ({len(layers)} layers)" for name, layers in lists.items()) or "none"
