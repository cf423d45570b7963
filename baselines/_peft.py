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
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines import contract
from baselines._blank_model import blank_model

EXPERTS = "mixtures of experts (Mixtral) hold them in tensors of three sides, and adapters merge into matrices only"


class PeftMethod(contract.Method):
    """A method that is a configuration of peft's; a hyper-parameter `fp32_adapters` is heeded where there is one."""

    family = "adapters"
    implementation = "peft 0.21"
    refused_example = {
        "model_type": "mixtral",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
    }

    @classmethod
    def limits(cls) -> dict[str, str]:
        return {"models": EXPERTS, **super().limits()}

    def check(self, config: Mapping[str, Any]) -> None:
        if experts(model := blank_model(config)):
            kind, name = model.config.model_type, type(self).__module__.rpartition(".")[2]  # type: ignore[union-attr]
            raise ValueError(
                f"Model type {kind!r} holds its experts in tensors of three sides; {name} merges matrices only."
            )

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

        Raises:
            RuntimeError: something trained would not be in the merged model, or would stand under another name.
        """
        base = model.get_base_model()  # type: ignore[operator]
        adapted = adapted_modules(base)
        merged = merged_state_dict(base, adapted)
        check_names(merged, base)
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)  # type: ignore[operator]
        base.save_pretrained(folder, state_dict=merged)
        if base.get_input_embeddings() in adapted.values() or base.get_output_embeddings() in adapted.values():
            untied = copy.deepcopy(base.config)
            untied.tie_word_embeddings = False
            untied.save_pretrained(folder)


def experts(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of three or more sides that are no convolution's, which is never adapted."""
    modules = [module for module in model.modules() if not isinstance(module, nn.Conv1d | nn.Conv2d)]
    return [p for module in modules for p in module.parameters(recurse=False) if p.ndim > 2]


def check_names(merged: Mapping[str, Tensor], base: nn.Module) -> None:
    """Raise RuntimeError unless the merged state has exactly the names of a model that was never wrapped."""
    wrong = sorted(merged.keys() ^ blank_model(base.config.to_dict()).state_dict().keys())  # type: ignore[operator, union-attr]
    if wrong:
        raise RuntimeError(f"Merging {type(base).__name__} loses or renames what was trained: {', '.join(wrong)}.")


def hush_bitsandbytes() -> None:
    """Before peft is imported: it imports bitsandbytes, which warns about CPU kernels that nothing here asks for."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def check_targets(targets: str | tuple[str, ...], config: Mapping[str, Any]) -> None:
    """Raise ValueError if they match no module of this model; of a list some may, as one serves several models."""
    if targets == "all-linear":
        return
    model = blank_model(config)
    every = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        try:
            found = any(re.fullmatch(targets, name) for name in every)
        except re.error as error:
            raise ValueError(f"target_modules is {targets!r}, which is no regular expression: {error}.") from error
    else:
        found = any(f".{name}".endswith(f".{end}") for name in every for end in targets)
    if not found:
        ends = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")})
        raise ValueError(
            f'target_modules is {names(targets)!r}, which matches no module; legal: "all-linear", a regular expression '
            f"of whole names, or a list of ends of names ({', '.join(ends)})."
        )


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
    for name, module in base.named_modules():  # QLoRA's layers that no adapter wraps; theirs are merged already
        if hasattr(module, "dequantise") and f"{name}.weight" in weights:
            weights[f"{name}.weight"] = module.weight.detach().cpu()
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
