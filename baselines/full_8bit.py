"""Full fine-tuning by AdamW with moments of 8 bits (Dettmers et al. 2021, arXiv 2110.02861).

bitsandbytes' AdamW8bit: both moments are quantised in blocks of 256 numbers, each with an fp32 scale, to a dynamic
8-bit code; a step dequantises a block, updates and quantises it again. 2 bytes a parameter and 1/32 for the scales,
where AdamW takes 8 on fp32 weights and 4 on bf16 ones. Tensors of fewer than 4096 numbers (norms, biases) keep moments
in fp32, the package's default. The paper runs it with the learning rates of 32-bit Adam: `full`'s, the grid of the
LISA paper (arXiv 2403.17919 v3).

It differs in one thing from that paper, whose embeddings have 32-bit moments and a norm of their own: here embeddings
are as all matrices, since the model's architecture is no method's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from baselines import contract, full
from baselines._bitsandbytes import bitsandbytes
from baselines._packages import check_installed

BLOCK = 256  # numbers of a moment that share a scale
CODE_BYTES = 2 * 256 * 4  # of the two tables of 8-bit values, which all parameters share


@dataclass(frozen=True)
class Full8bitHyperparameters:
    min_8bit_size: int = 4096  # numbers of a tensor from which on its moments are in 8 bits

    def __post_init__(self) -> None:
        if self.min_8bit_size < 0:
            raise ValueError(f"min_8bit_size of full_8bit is {self.min_8bit_size}; legal: at least 0.")


class Method(full.Method):
    Hyperparameters = Full8bitHyperparameters
    summary = "every parameter, AdamW with moments in 8 bits"
    paper = "Dettmers et al. 2021, arXiv 2110.02861"
    optimizer_name = "AdamW8bit"
    implementation = "bitsandbytes 0.50"
    state_formula = "2T + T/32; 8 a number in tensors below 4096; 2048 of codes"
    small = {"min_8bit_size": 256}
    hyperparameters: Full8bitHyperparameters

    def check(self, config: Mapping[str, Any]) -> None:
        check_installed("full_8bit", "bitsandbytes")

    def prepare(self, model: nn.Module) -> nn.Module:
        self.check(model.config.to_dict())  # type: ignore[operator, union-attr]
        return super().prepare(model)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        settings, size = self.adamw, self.hyperparameters.min_8bit_size
        groups = contract.parameter_groups(model.named_parameters(), settings.weight_decay)
        betas = (settings.beta1, settings.beta2)
        package = bitsandbytes().optim
        optimizer = package.AdamW8bit(groups, lr=lr, betas=betas, eps=settings.epsilon, min_8bit_size=size)
        # the package has one manager for the process, with what others made of their own models' layers, by number
        optimizer.mng = package.GlobalOptimManager.__new__(package.GlobalOptimManager)
        optimizer.mng.initialize()
        return optimizer

    def state_bytes(self, model: nn.Module) -> int:
        sizes = [p.numel() for p in model.parameters() if p.requires_grad]
        eight = [size for size in sizes if size >= self.hyperparameters.min_8bit_size]
        scales = sum(math.ceil(size / BLOCK) for size in eight)
        return 2 * sum(eight) + 8 * scales + 8 * (sum(sizes) - sum(eight)) + (CODE_BYTES if eight else 0)
