"""APOLLO: the raw gradient, each channel scaled as Adam would in a random low-rank space (Zhu et al. 2024, arXiv
2412.05270).

The authors' package apollo-torch does the work; its licence is CC BY-NC 4.0, so no commercial use. The defaults are
its README's: rank 256, scale 1, a new random projection every 200 steps, Fira's norm-growth limiter before the scale.
Matrices of attention and MLP are scaled so, everything else gets plain Adam. An author's fine-tuning scripts
(Kyriection/DoRA: Llama 3.2 1B and 3B, commonsense, rank 32, scale 1) run 1e-4, and 5e-5 to 5e-4 in the sweep;
LLaMA-Factory's example has 1e-5 with rank 128 and scale 32. The package seeds the projection of a matrix by its place
among all parameters; with our seed k, k times their number is added, so seed 0 is the package's own. It holds the
projections, which the paper draws anew from the seed at every step: rm more numbers a matrix than the paper counts. It
has one loop over the parameters: `adamw.implementation` does not reach it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from baselines._packages import check_installed
from baselines._projectors import check_low_rank, low_rank_groups, low_rank_state_bytes, own_projectors


@dataclass(frozen=True)
class APOLLOHyperparameters:
    rank: int = 256  # of the space in which the scaling is found
    update_proj_gap: int = 200  # optimizer steps between two random projections
    scale: float = 1.0  # the update is multiplied by its square root, to make up for a low rank
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found

    def __post_init__(self) -> None:
        check_low_rank("APOLLO", self.rank, self.update_proj_gap, self.scale)


class Method(contract.Method):
    Hyperparameters = APOLLOHyperparameters
    summary = "every parameter, gradients scaled by channel from a random low-rank Adam"
    optimizer_name = "APOLLOAdamW"
    paper = "Zhu et al. 2024, arXiv 2412.05270"
    learning_rates = (1e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4)
    default_learning_rate = 1e-4
    family = "projection"
    implementation = "apollo-torch 1.0.3, the authors'"
    state_formula = "s (sum of 2rn + rm, and 2R)"
    declared = {"full limit": "a matrix's gradient is scaled by channel at any rank, never by element"}
    small = {"rank": 4, "update_proj_gap": 3}
    period_hyperparameter = "update_proj_gap"
    hyperparameters: APOLLOHyperparameters
    scale_type: ClassVar[str] = "channel"

    def check(self, config: Mapping[str, Any]) -> None:
        check_installed("APOLLO", "apollo-torch", "bitsandbytes")

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # apollo_torch imports it, and it warns on CPUs
        from apollo_torch import APOLLOAdamW

        hp, settings = self.hyperparameters, self.adamw
        projection = {"rank": hp.rank, "update_proj_gap": hp.update_proj_gap, "scale": hp.scale}
        kind = {"proj": "random", "proj_type": "std", "scale_type": self.scale_type}
        groups = low_rank_groups(model, hp.layers, settings.weight_decay, **projection, **kind)
        optimizer = APOLLOAdamW(groups, lr=lr, betas=(settings.beta1, settings.beta2), eps=settings.epsilon)
        for state in optimizer.state.values():
            state["seed"] += self.draw_seed * len(optimizer.state)
        return own_projectors(optimizer, optimizer._initialize_projector)

    def state_bytes(self, model: nn.Module) -> int:
        rank = self.hyperparameters.rank

        def numbers(rows: int, columns: int) -> int:
            return rank * (2 * max(rows, columns) + min(rows, columns))

        return low_rank_state_bytes(model, self.hyperparameters.layers, numbers)
