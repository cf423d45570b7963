"""GaLore: Adam on a low-rank projection of each matrix's gradient (Zhao et al. 2024, arXiv 2403.03507).

The authors' package galore-torch does the work, with its settings: rank 128, a new projector every 200 steps, scale
0.25. Matrices of attention and MLP are projected, everything else gets plain Adam. The LISA paper ran GaLore untuned
at full fine-tuning's rate; users report 3e-5 (with rank 256 and scale 4, jiaweizhao/GaLore #15). The package has one
loop over the parameters: `adamw.implementation` does not reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from baselines._packages import check_installed
from baselines._projectors import PROJECTIONS, check_low_rank, galore_adamw, galore_state_bytes


@dataclass(frozen=True)
class GaLoreHyperparameters:
    rank: int = 128  # of the projected gradient
    update_proj_gap: int = 200  # optimizer steps between two decompositions
    scale: float = 0.25  # of the projected update
    proj_type: str = "std"  # which side is projected; std: the longer one
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found

    def __post_init__(self) -> None:
        check_low_rank("GaLore", self.rank, self.update_proj_gap, self.scale)
        if self.proj_type not in PROJECTIONS:
            raise ValueError(f"proj_type of GaLore is {self.proj_type!r}; legal: {', '.join(PROJECTIONS)}.")


class Method(contract.Method):
    Hyperparameters = GaLoreHyperparameters
    summary = "every parameter, Adam on low-rank projected gradients"
    optimizer_name = "GaLoreAdamW"
    paper = "Zhao et al. 2024, arXiv 2403.03507"
    learning_rates = (5e-6, 1e-5, 3e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 1e-5
    family = "projection"
    implementation = "galore-torch 1.0, the authors'"
    state_formula = "s (sum of 2rn + rm, and 2R)"
    small = {"rank": 4, "update_proj_gap": 3, "scale": 1.0}
    period_hyperparameter = "update_proj_gap"
    hyperparameters: GaLoreHyperparameters

    def check(self, config: Mapping[str, Any]) -> None:
        check_installed("GaLore", "galore-torch", "bitsandbytes")

    @classmethod
    def full_limit(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Adam in a rotated basis, the gradient's own."""
        return {"rank": config.get("hidden_size", config.get("n_embd")), "update_proj_gap": 200, "scale": 1.0}

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        return galore_adamw(model, lr, self.hyperparameters, self.adamw)

    def state_bytes(self, model: nn.Module) -> int:
        return galore_state_bytes(model, self.hyperparameters)
