"""PiSSA: LoRA that starts as the weights' principal singular vectors, with the rest frozen (Meng et al. 2024, arXiv
2404.02948).

huggingface/peft does the work: A and B are the first `rank` singular vectors and values of a weight, which keeps the
residual. The decomposition is exact and draws nothing; the paper's fast one (`pissa_niter_16` in peft) is random. Rank
128, alpha equal to the rank, no dropout, all linear layers and 2e-5 are the paper's; the other rates are the LISA grid.

`folder/adapter` holds A and B with `init_lora_weights: pissa`: peft repeats the decomposition on the original model
when it loads them, so it wants that model, not the residual, and time for the decomposition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baselines import lora


@dataclass(frozen=True)
class PiSSAHyperparameters(lora.LoRAHyperparameters):
    alpha: float = 128.0


class Method(lora.Method):
    Hyperparameters = PiSSAHyperparameters
    summary = "LoRA on the weights' principal singular vectors"
    paper = "Meng et al. 2024, arXiv 2404.02948"
    learning_rates = (5e-6, 1e-5, 2e-5, 5e-5, 3e-4)
    default_learning_rate = 2e-5
    small = {"rank": 4, "alpha": 4.0}
    options = {"init_lora_weights": "pissa"}

    def check(self, config: Mapping[str, Any]) -> None:
        super().check(config)
        targets = self.hyperparameters.target_modules
        if config.get("tie_word_embeddings") and "lm_head" in str(targets):
            raise ValueError(f"target_modules of PiSSA is {targets}, but the head is the embedding; legal: the others.")
