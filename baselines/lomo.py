"""LOMO: SGD on every parameter, stepped inside backward (Lv et al. 2023, arXiv 2306.09782).

Each gradient is used and freed as soon as backward has made it, and there is no optimizer state: weights and
activations are all that a step needs. The authors' configuration for LLaMA-7B on SuperGLUE's WiC (args_lomo.yaml) has
0.03, the default; the list is ours, around it: SGD wants rates far from AdamW's, and a narrow band of them.

The authors' package (lomo-optim 0.1.1) runs backward itself and is no optimizer that a loop could step or resume, so
the step is `_lomo.py`, bit for bit the package's in fp32 and bf16 (tests/baselines/test_lomo.py). On purpose it differs
in this: norms and biases have no weight decay, as for every method here, and the gradient's norm is not clipped, for
which the package runs every backward twice. Clipping by value, which it offers too, is `clip_value`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from baselines._lomo import Lomo


@dataclass(frozen=True)
class LOMOHyperparameters:
    clip_value: float | None = None  # magnitude to which gradients are cut; None: never

    def __post_init__(self) -> None:
        if self.clip_value is not None and not self.clip_value > 0:
            raise ValueError(f"clip_value of LOMO is {self.clip_value}; legal: above 0, or null.")


class Method(contract.Method):
    Hyperparameters = LOMOHyperparameters
    summary = "every parameter, SGD inside backward"
    paper = "Lv et al. 2023, arXiv 2306.09782"
    learning_rates = (3e-3, 1e-2, 3e-2, 1e-1)
    default_learning_rate = 3e-2
    steps_in_backward = True
    optimizer_name = "LOMO"
    family = "in-backward"
    implementation = "ours, bit for bit the authors' lomo-optim 0.1.1"
    state_formula = "none"
    small_learning_rate = 0.3
    hyperparameters: LOMOHyperparameters

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        groups = contract.parameter_groups(model.named_parameters(), self.adamw.weight_decay)
        return Lomo(groups, lr=lr, clip_value=self.hyperparameters.clip_value)

    def state_bytes(self, model: nn.Module) -> int:
        return 0
