"""Norm tuning: train the weights (and biases) of all normalisation layers (Zhao et al. 2023, arXiv 2312.11420).

A normalisation layer is a module whose class has "Norm" in its name (LlamaRMSNorm, LayerNorm); what trains are its own
parameters: the norms before attention and MLP, those of queries and keys where a model has them, the final one.

The paper turns language models into multi-modal ones and trains its vision connector, embeddings and head besides the
norms of the decoder layers; here nothing else trains, and the final norm does. So few numbers want BitFit's rates: the
list is that of `bitfit.py`, not one of the paper.
"""

from __future__ import annotations

from torch import nn

from baselines._selective import Selective


class Method(Selective):
    summary = "normalisation layers only"
    paper = "Zhao et al. 2023, arXiv 2312.11420"
    learning_rates = (1e-4, 3e-4, 1e-3, 3e-3)
    default_learning_rate = 1e-3
    declared = {
        "models": "norms without weights (OLMo) have nothing for it to train",
        "full limit": "norms alone train, whatever the settings",
    }
    refused_example = {"model_type": "olmo", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    small_learning_rate = 0.1
    small_steps = 100

    def chosen(self, model: nn.Module) -> list[nn.Parameter]:
        norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
        parameters = [parameter for module in norms for parameter in module.parameters(recurse=False)]
        if not parameters:
            raise ValueError(f"Model type {model.config.model_type!r} has no normalisation layers with parameters.")
        return parameters
