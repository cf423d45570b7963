"""No training: the model as it was given, the row that every method has to beat."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from baselines import contract


class Method(contract.Method):
    summary = "no training"
    paper = "none"
    learning_rates = ()
    default_learning_rate = 0.0
    family = "none"
    state_formula = "none"
    trains = False

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(False)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        raise ValueError("Method vanilla does not train, so it has no optimizer.")
