"""GaLore: Adam on a low-rank projection of each matrix's gradient (Zhao et al. 2024, arXiv 2403.03507).

The authors' package galore-torch does the work, with its settings: rank 128, a new projector every 200 steps, scale
0.25. Matrices of attention and MLP are projected, everything else gets plain Adam. The LISA paper ran GaLore untuned
at full fine-tuning's rate; users report 3e-5 (with rank 256 and scale 4, jiaweizhao/GaLore #15). The package has one
loop over the parameters: `adamw.implementation` does not reach it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from baselines._galore_projectors import PROJECTIONS, own_projectors
from lisa import decoder_layers


@dataclass(frozen=True)
class GaLoreHyperparameters:
    rank: int = 128  # of the projected gradient
    update_proj_gap: int = 200  # optimizer steps between two decompositions
    scale: float = 0.25  # of the projected update
    proj_type: str = "std"  # which side is projected; std: the longer one
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found

    def __post_init__(self) -> None:
        for name in ("rank", "update_proj_gap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of GaLore is {getattr(self, name)}; legal: at least 1.")
        if self.proj_type not in PROJECTIONS:
            raise ValueError(f"proj_type of GaLore is {self.proj_type!r}; legal: {', '.join(PROJECTIONS)}.")


class Method(contract.Method):
    Hyperparameters = GaLoreHyperparameters
    summary = "every parameter, Adam on low-rank projected gradients"
    optimizer_name = "GaLoreAdamW"
    paper = "Zhao et al. 2024, arXiv 2403.03507"
    learning_rates = (5e-6, 1e-5, 3e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 1e-5
    period_hyperparameter = "update_proj_gap"
    hyperparameters: GaLoreHyperparameters

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # galore_torch imports it, and it warns on CPUs
        from galore_torch import GaLoreAdamW

        hp, settings = self.hyperparameters, self.adamw
        projected = {id(p) for layer in decoder_layers(model, hp.layers) for p in layer.parameters() if p.ndim == 2}
        plain = [(name, p) for name, p in model.named_parameters() if id(p) not in projected]
        matrices = {
            "params": [p for p in model.parameters() if id(p) in projected],
            "weight_decay": settings.weight_decay,
            "rank": hp.rank,
            "update_proj_gap": hp.update_proj_gap,
            "scale": hp.scale,
            "proj_type": hp.proj_type,
        }
        groups = [*contract.parameter_groups(plain, settings.weight_decay), matrices]
        betas = (settings.beta1, settings.beta2)
        return own_projectors(
            GaLoreAdamW(groups, lr=lr, betas=betas, eps=settings.epsilon, no_deprecation_warning=True)
        )
