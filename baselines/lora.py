"""LoRA: frozen weights plus a trained low-rank product on every linear layer (Hu et al. 2021, arXiv 2106.09685).

huggingface/peft does the work. Rank 128 on all linear layers (the LM head is none of them) and the learning rates are
the LISA paper's (arXiv 2403.17919; rank 256 at 70B). It states no alpha: 256, twice the rank, is the common habit.
Adapters keep the weights' precision, where peft's own default would hold them in fp32 on a bf16 model: 5.4 GB more at
7B. 5e-5, the middle of the grid, is the default since adapters want a higher rate than weights.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines import contract


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
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of LoRA's adapters is {self.dropout}; legal: from 0 to below 1.")


class Method(contract.Method):
    Hyperparameters = LoRAHyperparameters
    summary = "low-rank adapters on all linear layers"
    paper = "Hu et al. 2021, arXiv 2106.09685"
    learning_rates = (5e-6, 1e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 5e-5
    hyperparameters: LoRAHyperparameters

    def prepare(self, model: nn.Module) -> nn.Module:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns about CPU kernels
        from peft import LoraConfig, get_peft_model

        hp = self.hyperparameters
        targets = hp.target_modules if isinstance(hp.target_modules, str) else list(hp.target_modules)
        config = LoraConfig(r=hp.rank, lora_alpha=hp.alpha, lora_dropout=hp.dropout, target_modules=targets)
        config.task_type = "CAUSAL_LM"
        with torch.random.fork_rng(devices=[]):  # peft draws the adapters' start on the CPU
            torch.default_generator.manual_seed(self.seed)
            return get_peft_model(model, config, autocast_adapter_dtype=hp.fp32_adapters)

    def export(self, model: nn.Module, folder: Path) -> None:
        """The merged model, and in `folder/adapter` the adapter alone; `model` itself comes out as it was.

        Embedding and head that were one matrix are two once one of them is adapted, and are saved untied.
        """
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)  # type: ignore[operator]
        base = model.get_base_model()  # type: ignore[operator]
        weights = {k.replace(".base_layer.", "."): w for k, w in base.state_dict().items() if ".lora_" not in k}
        adapted = adapted_modules(base)
        weights |= {f"{name}.weight": merged_weight(module).cpu() for name, module in adapted.items()}
        base.save_pretrained(folder, state_dict=weights)
        if base.get_input_embeddings() in adapted.values() or base.get_output_embeddings() in adapted.values():
            untied = copy.deepcopy(base.config)
            untied.tie_word_embeddings = False
            untied.save_pretrained(folder)


def adapted_modules(model: nn.Module) -> dict[str, Any]:
    """peft's modules, each around one adapted weight, by name; none in a model without adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}


@torch.no_grad()
def merged_weight(module: Any) -> Tensor:
    """The weight of one of `adapted_modules` with its adapter added, as a new tensor, rounded once."""
    weight = module.get_base_layer().weight
    return (weight + module.get_delta_weight(module.active_adapters[0])).to(weight.dtype)
