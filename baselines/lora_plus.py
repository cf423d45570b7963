"""LoRA+: LoRA whose B learns faster than its A (Hayou et al. 2024, arXiv 2402.12354).

huggingface/peft does the work, also the optimizer's groups (`peft.optimizers.create_loraplus_optimizer`, the authors').
The learning rate is A's. 16 times that for B is the authors' recommendation; where a B needs the usual rate of LoRA, A
needs a smaller one, so the rates are the grid of A in their sweep of LLaMA-7B on MNLI (1e-6 to 1e-4). Rank and alpha
are `lora`'s. Weights decay as for every method here: matrices do, of which an adapter has no others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from baselines import lora


@dataclass(frozen=True)
class LoRAPlusHyperparameters(lora.LoRAHyperparameters):
    ratio: float = 16.0  # learning rate of B over that of A
    embedding_learning_rate: float = 1e-6  # of both, where an embedding is adapted; the authors' default

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio < 1:
            raise ValueError(f"ratio of LoRA+'s learning rates is {self.ratio}; legal: at least 1.")
        if not self.embedding_learning_rate > 0:
            raise ValueError(f"embedding_learning_rate of LoRA+ is {self.embedding_learning_rate}; legal: above 0.")


class Method(lora.Method):
    Hyperparameters = LoRAPlusHyperparameters
    summary = "LoRA with a higher learning rate for B than for A"
    paper = "Hayou et al. 2024, arXiv 2402.12354"
    learning_rates = (1e-6, 5e-6, 1e-5, 5e-5, 1e-4)
    default_learning_rate = 1e-5
    small_learning_rate = 1e-3
    hyperparameters: LoRAPlusHyperparameters

    def optimizer(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        from peft.optimizers import create_loraplus_optimizer

        return create_loraplus_optimizer(
            model,  # type: ignore[arg-type]
            torch.optim.AdamW,
            lr=lr,
            loraplus_lr_ratio=self.hyperparameters.ratio,
            loraplus_lr_embedding=self.hyperparameters.embedding_learning_rate,
            loraplus_weight_decay=self.adamw.weight_decay,
            **self.adamw.arguments(),
        )
