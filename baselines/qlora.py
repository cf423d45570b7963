"""QLoRA: LoRA on a base model whose weights are held in four bits (Dettmers et al. 2023, arXiv 2305.14314).

The base is NF4, 64 numbers to a scale, the scales in 8 bits, 256 to a second one (double quantisation): 4.127 bits a
weight. Every linear layer but the LM head is quantised and has adapters; embeddings, head, norms and biases stay as
they are. Products are in the precision of the experiment. Rank 64, alpha 16 and dropout are the paper's (0.1 up to 13B;
it takes 0.05 for 33B and 65B), so is 2e-4 (up to 13B; 1e-4 above); the other rates are the LISA paper's for LoRA
(arXiv 2403.17919), from 5e-5 on.

bitsandbytes quantises and dequantises, peft makes the adapters. The model is loaded into host memory and
quantised there, and only the small one goes to the device. The quantised weights depend on nothing but the base model.
On purpose it differs in this: norms are not cast to fp32, adapters have the model's precision, and no paged optimizer
moves state to the host, since memory is what is measured.

The export is the dequantised base with the adapters added, rounded once: as large as any other method's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from baselines import lora
from baselines._bitsandbytes import quantise
from baselines._packages import check_installed


@dataclass(frozen=True)
class QLoRAHyperparameters(lora.LoRAHyperparameters):
    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.1


class Method(lora.Method):
    Hyperparameters = QLoRAHyperparameters
    summary = "low-rank adapters on all linear layers, over a base in 4 bits"
    paper = "Dettmers et al. 2023, arXiv 2305.14314"
    learning_rates = (5e-5, 1e-4, 2e-4, 3e-4, 6e-4)
    default_learning_rate = 2e-4
    implementation = "peft 0.21, bitsandbytes 0.50"
    small = {"rank": 4, "alpha": 16.0, "dropout": 0.0}
    prepares_on_host = True
    hyperparameters: QLoRAHyperparameters

    def check(self, config: Mapping[str, Any]) -> None:
        super().check(config)
        check_installed("qlora", "bitsandbytes")

    def prepare(self, model: nn.Module) -> nn.Module:
        self.check(model.config.to_dict())  # type: ignore[operator, union-attr]
        head = model.get_output_embeddings()  # type: ignore[operator]
        for layer in [module for module in model.modules() if is_linear(module) and module is not head]:
            quantise(layer)
        return super().prepare(model)


def is_linear(module: nn.Module) -> bool:
    """Whether it is one of the layers that peft's "all-linear" means, the LM head included."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)
