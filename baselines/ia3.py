"""(IA)^3: keys, values and the MLP's inner activations scaled by trained vectors (Liu et al. 2022, arXiv 2205.05638).

huggingface/peft does the work, with its table of which layers these are in a model of each kind (in some, as Qwen2, it
scales queries in place of keys; in GPT-2 all three, which are one layer there). Vectors start at one. The paper trains
them at 3e-3, by Adafactor; here AdamW does it, as for all methods, without weight decay: it would pull the vectors to
zero, which is not where they start but no activation at all. The other rates are around the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from baselines._peft import PeftMethod, hush_bitsandbytes, names


@dataclass(frozen=True)
class IA3Hyperparameters:
    target_modules: str | tuple[str, ...] | None = None  # "all-linear" or names' ends; None: peft's for such a model
    feedforward_modules: str | tuple[str, ...] | None = None  # those whose input is scaled; a string is a regex

    def __post_init__(self) -> None:
        if (self.target_modules is None) != (self.feedforward_modules is None):
            given = f"{self.target_modules} and {self.feedforward_modules}"
            raise ValueError(f"target_modules and feedforward_modules of (IA)^3 are {given}; legal: both or neither.")


class Method(PeftMethod):
    Hyperparameters = IA3Hyperparameters
    summary = "vectors that scale keys, values and inner activations"
    paper = "Liu et al. 2022, arXiv 2205.05638"
    learning_rates = (3e-4, 1e-3, 3e-3, 1e-2)
    default_learning_rate = 3e-3
    declared = {
        "models": "mixtures of experts (Mixtral), and types that are not in peft's table of layers (OLMo 2)",
        "full limit": "only one vector a layer trains, which scales what is there",
    }
    small = {"target_modules": "all-linear", "feedforward_modules": ".*mlp.*"}
    small_learning_rate = 0.12
    hyperparameters: IA3Hyperparameters

    def check(self, config: Mapping[str, Any]) -> None:
        super().check(config)
        hush_bitsandbytes()
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as KNOWN

        kind = config.get("model_type", "llama")
        if self.hyperparameters.target_modules is None and kind not in KNOWN:
            known = f"Known: {', '.join(sorted(KNOWN))}. Give target_modules and feedforward_modules for others."
            raise ValueError(f"peft knows no layers for (IA)^3 in models of type {kind!r}. {known}")

    def config(self) -> Any:
        from peft import IA3Config

        hp = self.hyperparameters
        chosen = {"target_modules": names(hp.target_modules), "feedforward_modules": names(hp.feedforward_modules)}
        return IA3Config(**chosen)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        return contract.adamw(model.named_parameters(), lr, replace(self.adamw, weight_decay=0.0))
