"""LoRA: frozen weights plus a trained low-rank product on every linear layer (Hu et al. 2021, arXiv 2106.09685).

huggingface/peft does the work. Rank 128 on all linear layers (the LM head is none of them) and the learning rates are
the LISA paper's (arXiv 2403.17919; rank 256 at 70B). It states no alpha: 256, twice the rank, is the common habit.
5e-5, the middle of the grid, is the default since adapters want a higher rate than weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from baselines._peft import PeftMethod, check_targets, names


@dataclass(frozen=True)
class LoRAHyperparameters:
    rank: int = 128
    alpha: float = 256.0  # the product is scaled by alpha / rank
    dropout: float = 0.0  # of the adapters' input
    target_modules: str | tuple[str, ...] = (
        "all-linear"  # or a list of module names' ends, e.g. "embed_tokens", "lm_head"
    )
    fp32_adapters: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank of LoRA's adapters is {self.rank}; legal: at least 1.")
        if not self.alpha > 0:
            raise ValueError(f"alpha of LoRA's adapters is {self.alpha}; legal: above 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of LoRA's adapters is {self.dropout}; legal: from 0 to below 1.")


class Method(PeftMethod):
    """Also the base of LoRA's variants, which name in `options` what they change in peft's `LoraConfig`."""

    Hyperparameters = LoRAHyperparameters
    summary = "low-rank adapters on all linear layers"
    paper = "Hu et al. 2021, arXiv 2106.09685"
    learning_rates = (5e-6, 1e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 5e-5
    small = {"rank": 4, "alpha": 16.0}
    options: ClassVar[Mapping[str, Any]] = {}
    hyperparameters: LoRAHyperparameters

    @classmethod
    def full_limit(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The full rank, scaled as at `small`."""
        rank = config.get("hidden_size", config.get("n_embd"))  # GPT-2 says n_embd
        return {"rank": rank, "alpha": cls.small["alpha"] * rank / cls.small["rank"]}

    def check(self, config: Mapping[str, Any]) -> None:
        super().check(config)
        check_targets(self.hyperparameters.target_modules, config)

    def config(self) -> Any:
        from peft import LoraConfig

        hp = self.hyperparameters
        scaled = {"r": hp.rank, "lora_alpha": hp.alpha, "lora_dropout": hp.dropout}
        return LoraConfig(target_modules=names(hp.target_modules), **scaled, **self.options)
