"""Full fine-tuning with fp32 master weights: the mixed-precision recipe (Micikevicius et al. 2017, arXiv 1710.03740).

AdamW on every parameter, with moments, update and a copy of the weights (the master) in fp32, of which the weights are
the rounded form. Plain bf16 weights lose every update below about a 500th of a weight: at fine-tuning's rates, most
of them. A bf16 model takes 2 bytes a parameter for weights and 12 for the state, and at the peak 2 for gradients: 16,
or 14 with the step inside backward. Gradients are made fp32 one parameter at a time, so all of them in fp32, 4 bytes
more in common recipes, never exist. On fp32 weights there is nothing to copy: it is `full` to the bit.

Only weights differ from that paper, whose fp16 needs its gradients scaled; bf16 has fp32's range. The learning rates
are `full`'s, the grid of the LISA paper (arXiv 2403.17919 v3).
"""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from baselines import contract, full
from baselines._master_adamw import MasterAdamW, master_state_bytes


class Method(full.Method):
    summary = "every parameter, AdamW on an fp32 copy of the weights"
    paper = "Micikevicius et al. 2017, arXiv 1710.03740"
    implementation = "ours, around torch's AdamW"
    state_formula = "8T in fp32, 12T with the fp32 copy of other weights"

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        groups = contract.parameter_groups(model.named_parameters(), self.adamw.weight_decay)
        return MasterAdamW(groups, lr=lr, **self.adamw.arguments())

    def state_bytes(self, model: nn.Module) -> int:
        return master_state_bytes(model)
