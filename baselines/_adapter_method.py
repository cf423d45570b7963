"""What series and parallel adapters share: freeze the model, put adapters onto some modules, export both together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from baselines import _bottleneck, _own_checkpoint, contract
from baselines._blank_model import blank_model
from lisa import decoder_layers

NAMES = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "MLP": ("mlp", "feed_forward", "ffn"),
}


@dataclass(frozen=True)
class AdapterHyperparameters:
    """What both kinds have, with the kind's own defaults."""

    bottleneck: int
    nonlinearity: str
    scale: float
    layers: str | None

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"bottleneck of the adapters is {self.bottleneck}; legal: at least 1.")
        if self.nonlinearity not in _bottleneck.NONLINEARITIES:
            legal = ", ".join(_bottleneck.NONLINEARITIES)
            raise ValueError(f"nonlinearity of the adapters is {self.nonlinearity!r}; legal: {legal}.")
        if not self.scale > 0:
            raise ValueError(f"scale of the adapters is {self.scale}; legal: above 0.")


class AdapterMethod(contract.Method):
    """Bottlenecks on the modules that `adapted` names, of every decoder layer."""

    family = "adapters"
    implementation = "ours"
    declared = {
        "models": "OPT's layers have no module for the MLP, BLOOM's modules add the residual themselves",
        "plain export": _own_checkpoint.CODE,
        "full limit": "adapters of any width leave the model's own weights as they are",
    }
    refused_example = {"model_type": "bloom", "vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    small = {"bottleneck": 16}
    adapted: ClassVar[tuple[str, ...]]
    parallel: ClassVar[bool]
    hyperparameters: Any

    def check(self, config: Mapping[str, Any]) -> None:
        self.modules(blank_model(config))

    def modules(self, model: nn.Module) -> list[str]:
        """Names of the modules to adapt.

        Raises:
            ValueError: a decoder layer has none.
        """
        names = {module: name for name, module in model.named_modules()}
        layers = decoder_layers(model, self.hyperparameters.layers)
        kind = model.config.model_type  # type: ignore[union-attr]
        return [names[part_of(layer, part, kind)] for layer in layers for part in self.adapted]

    def prepare(self, model: nn.Module) -> nn.Module:
        """Raises ValueError if a decoder layer has no module to adapt."""
        hp = self.hyperparameters
        self.settings = {
            "modules": self.modules(model),
            "bottleneck": hp.bottleneck,
            "nonlinearity": hp.nonlinearity,
            "scale": hp.scale,
            "parallel": self.parallel,
        }
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):  # adapters are drawn on the CPU
            torch.default_generator.manual_seed(self.seed)
            _bottleneck.insert(model, **self.settings)
        return model

    def export(self, model: nn.Module, folder: Path) -> None:
        """Base and adapters with a modelling file, and in `folder/adapter` what trained, alone."""
        _own_checkpoint.save(model, folder, _bottleneck, self.settings)
        _own_checkpoint.save_adapter(model, folder / "adapter", self.settings)


def part_of(layer: nn.Module, part: str, model_type: Any) -> nn.Module:
    """The attention or the MLP of a decoder layer, whose output is what the layer adds to its residual.

    Raises:
        ValueError: there is none under a known name, or it adds the residual itself (BLOOM).
    """
    found = [child for name, child in layer.named_children() if name in NAMES[part]]
    if len(found) == 1 and "residual" not in inspect.signature(found[0].forward).parameters:
        return found[0]
    children, kind = ", ".join(name for name, _ in layer.named_children()), type(layer).__name__
    raise ValueError(
        f"Cannot tell where the {part} of model type {model_type!r} ends: looked for one module named"
        f" {', '.join(NAMES[part])} that leaves the residual to the layer; {kind} has {children}."
    )
