"""VeRA: two trained vectors a layer around one random low-rank product that all layers share (Kopiczko et al. 2023,
arXiv 2310.11454).

A layer computes W x + b * (B (d * (A x))), where A and B are drawn once from the seed, sized for the largest layer and
never trained; b starts at zero, d at `d_initial`. huggingface/peft does the work. Rank 256 on all linear layers is the
paper's for LLaMA-2-7B (its 1.4 M parameters), 0.1 its start of d. Rates are ten times LoRA's and more: 4e-3 for
instruction tuning, 1e-2 and 2e-2 for smaller models in the paper; 1e-3 is what peft's own comparison of methods runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from baselines._peft import PeftMethod


@dataclass(frozen=True)
class VeRAHyperparameters:
    rank: int = 256  # of the shared product
    d_initial: float = 0.1
    dropout: float = 0.0  # of the adapters' input

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank of VeRA's matrices is {self.rank}; legal: at least 1.")
        if not 0 < self.d_initial < math.inf:
            raise ValueError(f"d_initial of VeRA is {self.d_initial}; legal: a finite number above 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of VeRA is {self.dropout}; legal: from 0 to below 1.")


class Method(PeftMethod):
    Hyperparameters = VeRAHyperparameters
    summary = "two vectors a layer around shared random matrices"
    paper = "Kopiczko et al. 2023, arXiv 2310.11454"
    learning_rates = (1e-3, 4e-3, 1e-2, 2e-2)
    default_learning_rate = 4e-3
    declared = {"full limit": "only two vectors a layer train, whatever the rank of what they scale"}
    small = {"rank": 64}
    small_learning_rate = 1e-1
    hyperparameters: VeRAHyperparameters

    def config(self) -> Any:
        from peft import VeraConfig

        hp = self.hyperparameters
        start = {"d_initial": hp.d_initial, "projection_prng_key": self.seed}
        return VeraConfig(r=hp.rank, vera_dropout=hp.dropout, target_modules="all-linear", **start)
