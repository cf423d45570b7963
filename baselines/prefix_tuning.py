"""Prefix tuning: learned keys and values in front of every attention (Li and Liang 2021, arXiv 2101.00190).

huggingface/peft does the work. As in the paper, a two-layer MLP makes the prefix from small embeddings while it trains
(section 4.3) and is gone afterwards; 10 virtual tokens, a width of 512 and 5e-5 are its choices for table-to-text with
GPT-2. `projection_width: null` trains keys and values themselves, as LLM-Adapters does with LLaMA-7B (Hu et al. 2023,
arXiv 2304.01933: 10 tokens, 3e-2) and peft's method comparison with Llama-3.2-3B (1e-3 and 5e-3).

Virtual tokens take positions: a model with learned ones (GPT-2) has that many fewer for text. Prefix and MLP keep the
weights' precision, where peft's own default would hold them in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from baselines import _own_checkpoint, contract
from baselines._peft import hush_bitsandbytes

CACHE = "the prefix stands in the key-value cache, which transformers does without while it recomputes activations"


@dataclass(frozen=True)
class PrefixTuningHyperparameters:
    num_virtual_tokens: int = 10
    projection_width: int | None = 512  # of the MLP that makes the prefix; null: the prefix itself is trained

    def __post_init__(self) -> None:
        if self.num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens of prefix tuning is {self.num_virtual_tokens}; legal: at least 1.")
        if self.projection_width is not None and self.projection_width < 1:
            raise ValueError(f"projection_width of prefix tuning is {self.projection_width}; legal: null, at least 1.")


class Method(contract.Method):
    Hyperparameters = PrefixTuningHyperparameters
    summary = "learned keys and values in front of every attention"
    paper = "Li and Liang 2021, arXiv 2101.00190"
    learning_rates = (5e-5, 1e-3, 5e-3, 3e-2)
    default_learning_rate = 5e-5
    family = "adapters"
    implementation = "peft 0.21"
    declared = {
        "models": "GPT-J's and multi-query Falcon's key-value caches do not have the shape of peft's prefix",
        "plain export": _own_checkpoint.CODE,
        "checkpointing": CACHE,
        "full limit": "a prefix of any length leaves the model's own weights as they are",
    }
    refused_example = {"model_type": "gptj"}
    small = {"num_virtual_tokens": 16, "projection_width": 64}
    small_learning_rate = 3e-2
    hyperparameters: PrefixTuningHyperparameters

    def check(self, config: Mapping[str, Any]) -> None:
        kind = config.get("model_type")
        shared = kind == "falcon" and config.get("multi_query") and not config.get("new_decoder_architecture")
        if shared or kind == "gptj":
            raise ValueError(f"peft's prefix does not have the shape of the key-value cache of model type {kind!r}.")

    def extra_positions(self) -> int:
        return self.hyperparameters.num_virtual_tokens

    def prepare(self, model: nn.Module) -> nn.Module:
        """Raises ValueError if gradient checkpointing is on."""
        self.check(model.config.to_dict())  # type: ignore[operator, union-attr]
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            raise ValueError(f"Gradient checkpointing is on, which prefix tuning cannot do with: {CACHE}.")
        hush_bitsandbytes()
        from peft import PrefixTuningConfig, get_peft_model

        hp = self.hyperparameters
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=hp.num_virtual_tokens)
        config.prefix_projection, config.encoder_hidden_size = hp.projection_width is not None, hp.projection_width
        model.requires_grad_(False)
        dtype = next(model.parameters()).dtype
        with torch.random.fork_rng(devices=[]):  # peft draws the prefix's start on the CPU
            torch.default_generator.manual_seed(self.seed)
            prepared: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
        prepared.prompt_encoder.to(dtype)
        return prepared

    def export(self, model: Any, folder: Path) -> None:
        """Base and prefix with a modelling file, and in `folder/adapter` the prefix alone, in peft's format."""
        from baselines import _prefix

        model.save_pretrained(folder / "adapter")
        peft, base = model.peft_config["default"], model.get_base_model()
        heads, tokens = peft.num_attention_heads, peft.num_virtual_tokens
        made = model.get_prompt_embedding_to_save("default")  # (virtual tokens, layers x 2 x heads x head size)
        keys_values = made.view(tokens, peft.num_layers, 2, heads, -1).permute(1, 2, 3, 0, 4).contiguous()
        settings = {"virtual_tokens": tokens, "heads": heads, "head_size": peft.token_dim // heads}
        extra = {"prefix.keys_values": keys_values.to(base.dtype)}
        _own_checkpoint.save(base, folder, _prefix, settings, extra)
