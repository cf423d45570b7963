"""LISA with GaLore: gamma drawn decoder layers train, their matrices by Adam on low-rank projected gradients.

LISA (Pan et al. 2024, arXiv 2403.17919) draws the layers, uniformly, with embeddings, final norm and head always on;
GaLore (Zhao et al. 2024, arXiv 2403.03507) trains the drawn matrices. It is OwLore (Li et al. 2024, arXiv 2405.18380)
without its weights, whose code runs it as `lisa_prob_mode uniform` with `galore`. No paper tunes the pair: gamma and
period are `lisa.py`'s defaults, the rest `galore.py`'s, whose package does the step. At a switch a frozen layer loses
moments and projector; drawn again, it decomposes its first gradient, so `update_proj_gap` counts within the time that a
layer stays active. The learning rates are those of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from baselines import galore
from baselines import lisa as lisa_method
from baselines._packages import check_installed
from baselines._projectors import galore_adamw, galore_state_bytes
from lisa import LISA
from lisa.sampling import check_gamma


@dataclass(frozen=True)
class LISAGaLoreHyperparameters(galore.GaLoreHyperparameters):
    gamma: int = 2  # decoder layers active at a time
    period_steps: int = 10  # optimizer steps between two draws

    def __post_init__(self) -> None:
        super().__post_init__()
        lisa_method.LISAHyperparameters(self.gamma, self.period_steps)  # which checks them


class Method(lisa_method.Method):
    Hyperparameters = LISAGaLoreHyperparameters
    summary = "LISA's drawn layers, Adam on their low-rank projected gradients"
    optimizer_name = "GaLoreAdamW"
    paper = "Pan et al. 2024, arXiv 2403.17919, with Zhao et al. 2024, arXiv 2403.03507"
    learning_rates = (5e-6, 1e-5, 3e-5, 5e-5, 3e-4, 6e-4)
    implementation = "ours, with galore-torch 1.0's step"
    state_formula = "s (sum of 2rn + rm, and 2R), of what trains"
    small = {"gamma": 2, "period_steps": 3, "rank": 4, "update_proj_gap": 2, "scale": 1.0}
    hyperparameters: LISAGaLoreHyperparameters

    def check(self, config: Mapping[str, Any]) -> None:
        check_installed("GaLore", "galore-torch", "bitsandbytes")
        layers = config.get("num_hidden_layers", config.get("n_layer"))
        if layers is not None:
            check_gamma(self.hyperparameters.gamma, layers)

    @classmethod
    def full_limit(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().full_limit(config), **galore.Method.full_limit(config)}

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Over every parameter, before any layer is frozen."""
        hp = self.hyperparameters
        optimizer = galore_adamw(model, lr, hp, self.adamw)
        self.lisa = LISA(
            model, optimizer, hp.gamma, hp.period_steps, self.draw_seed, layers=hp.layers, **self.draws(model)
        )
        return optimizer

    def draws(self, model: nn.Module) -> dict[str, Any]:
        """How layers are drawn, as `LISA` names it."""
        return {"sampler": "uniform"}

    def state_bytes(self, model: nn.Module) -> int:
        return galore_state_bytes(model, self.hyperparameters)
