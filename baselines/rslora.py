"""rsLoRA: LoRA scaled by alpha / sqrt(rank), so that high ranks learn as fast as low ones (Kalajdzievski 2023, arXiv
2312.03732).

With LoRA's alpha / rank the steps shrink as the rank grows; with the square root, the paper's theorem, they do not.
huggingface/peft does the work. alpha 16 at rank 128 scales by 1.4, next to the 2 of `lora`, so that `lora`'s learning
rates, the LISA paper's, serve here too; the paper trains all its ranks, 4 to 2048, at one rate, 5e-5, the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baselines import lora


@dataclass(frozen=True)
class RsLoRAHyperparameters(lora.LoRAHyperparameters):
    alpha: float = 16.0  # the product is scaled by alpha / sqrt(rank)


class Method(lora.Method):
    Hyperparameters = RsLoRAHyperparameters
    summary = "LoRA scaled by alpha / sqrt(rank)"
    paper = "Kalajdzievski 2023, arXiv 2312.03732"
    small = {"rank": 4, "alpha": 8.0}
    options = {"use_rslora": True}

    @classmethod
    def full_limit(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The full rank, scaled as at `small`."""
        rank = super().full_limit(config)["rank"]
        return {"rank": rank, "alpha": cls.small["alpha"] * math.sqrt(rank / cls.small["rank"])}
