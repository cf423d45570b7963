"""Full fine-tuning: AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) on every parameter.

The learning rates are the grid that the LISA paper (arXiv 2403.17919 v3) searches for full fine-tuning, LoRA and LISA
alike; 1e-5 is the one its ablation (v1, table 6) uses.
"""

from __future__ import annotations

from torch import nn

from baselines import contract


class Method(contract.Method):
    summary = "every parameter, AdamW"
    paper = "Loshchilov and Hutter 2019, arXiv 1711.05101"
    learning_rates = (5e-6, 1e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 1e-5
    family = "full"
    implementation = "torch"

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)
