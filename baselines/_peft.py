"""What all methods share whose adapters huggingface/peft makes: wrapping, merging, the export.

    class Method(PeftMethod):
        def config(self) -> Any:                 # all that such a method must say
            from peft import VeraConfig

            return VeraConfig(r=self.hyperparameters.rank, target_modules="all-linear")

Adapters keep the weights' precision, where peft's own default would hold them in fp32 on a bf16 model: 5.4 GB more at
7B and LoRA's rank 128. They start from the method's own seed.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines import contract


class PeftMethod(contract.Method):
    """A method that is a configuration of peft's; a hyper-parameter `fp32_adapters` is heeded where there is one."""

    family = "adapters"
    implementation = "peft 0.21"

    def config(self) -> Any:
        """peft's configuration of the adapters."""
        raise NotImplementedError

    def prepare(self, model: nn.Module) -> nn.Module:
        self.check(model.config.to_dict())  # type: ignore[union-attr]
        hush_bitsandbytes()
        from peft import get_peft_model

        config, fp32 = self.config(), getattr(self.hyperparameters, "fp32_adapters", False)
        config.task_type = "CAUSAL_LM"
        with torch.random.fork_rng(devices=[]):  # peft draws the adapters' start on the CPU
            torch.default_generator.manual_seed(self.seed)
            return get_peft_model(model, config, autocast_adapter_dtype=fp32)

    def export(self, model: nn.Module, folder: Path) -> None:
        """The merged model, and in `folder/adapter` the adapter alone; `model` itself comes out as it was.

        Embedding and head that were one matrix are two once one of them is adapted, and are saved untied.
        """
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)  # type: ignore[operator]
        base = model.get_base_model()  # type: ignore[operator]
        adapted = adapted_modules(base)
        base.save_pretrained(folder, state_dict=merged_state_dict(base, adapted))
        if base.get_input_embeddings() in adapted.values() or base.get_output_embeddings() in adapted.values():
            untied = copy.deepcopy(base.config)
            untied.tie_word_embeddings = False
            untied.save_pretrained(folder)


def hush_bitsandbytes() -> None:
    """Before peft is imported: it imports bitsandbytes, which warns about CPU kernels that nothing here asks for."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def names(modules: str | tuple[str, ...] | None) -> str | list[str] | None:
    """A choice of modules as peft takes it: it knows "all-linear", regular expressions and lists."""
    return list(modules) if isinstance(modules, tuple) else modules


def adapted_modules(model: nn.Module) -> dict[str, Any]:
    """peft's modules, each around one adapted layer, by name; none in a model without adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "get_base_layer")}


def merged_state_dict(base: nn.Module, adapted: dict[str, Any]) -> dict[str, Tensor]:
    """The state of the model inside peft's wrapping, under its own names, as if it had never had adapters."""
    inside = {f"{name}.{key}" for name, module in adapted.items() for key in module.state_dict()}
    weights = {name: weight for name, weight in base.state_dict().items() if name not in inside}
    for name, module in adapted.items():
        weights |= {f"{name}.{key}": merged.cpu() for key, merged in merged_parameters(module).items()}
    return weights


@torch.no_grad()
def merged_parameters(module: Any) -> dict[str, Tensor]:
    """Weight and bias of one of `adapted_modules` with its adapter in them, as new tensors.

    peft's own `merge` does it, on a copy: its `unmerge` would not give back the weights bit for bit. What it adds or
    multiplies with depends on the method (DoRA's magnitudes, (IA)^3's biases), so nothing here knows any of them.
    """
    twin = copy.deepcopy(module)
    if hasattr(twin.get_base_layer(), "dequantise"):  # QLoRA's
        twin.get_base_layer().dequantise()
    twin.merge()
    return {name: parameter.detach() for name, parameter in twin.get_base_layer().named_parameters()}
