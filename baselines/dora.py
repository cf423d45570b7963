"""DoRA: weights split into magnitude and direction, LoRA on the direction, magnitudes trained (Liu et al. 2024, arXiv
2402.09353).

W' = m (W + s B A) / ||W + s B A||, the norm over each output's row; it counts as a constant in backward (section 4.3).
huggingface/peft does the work. Rank 32, alpha 64 and dropout 0.05 are the paper's for commonsense reasoning, where
LLaMA-7B takes 1e-4 or 2e-4 by rank, LLaMA-2-7B 2e-4 and Llama-3-8B 1e-4; 3e-4 is the rate of its LoRA baseline. All
linear layers are adapted, as for every method here; the paper leaves out the attention's output and the gate.
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines import lora


@dataclass(frozen=True)
class DoRAHyperparameters(lora.LoRAHyperparameters):
    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.05


class Method(lora.Method):
    Hyperparameters = DoRAHyperparameters
    summary = "LoRA on the weights' directions, and their magnitudes"
    paper = "Liu et al. 2024, arXiv 2402.09353"
    learning_rates = (5e-5, 1e-4, 2e-4, 3e-4)
    default_learning_rate = 2e-4
    small = {"rank": 4, "alpha": 16.0, "dropout": 0.0}
    small_learning_rate = 5e-3
    options = {"use_dora": True}
