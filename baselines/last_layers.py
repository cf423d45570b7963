"""Last layers: train the last decoder layers, final norm and head, nothing below (Lee et al. 2019, arXiv 1911.03090).

"What would Elsa do?" finds for BERT and RoBERTa that a fourth of the layers reaches 90 % of full fine-tuning's quality:
a fourth of the model's, rounded up, is the default. As there, the output layer trains too. Backward stops at the lowest
layer that trains, so activations below it are not kept.

A head that is tied to the embedding is the embedding: `head` leaves it frozen, `embeddings` trains it. The learning
rates are the grid that the LISA paper (arXiv 2403.17919 v3) searches for full fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from baselines._selective import Selective
from lisa.layers import parts


@dataclass(frozen=True)
class LastLayersHyperparameters:
    layers_trained: int | None = None  # the last so many decoder layers; None: a fourth of them, rounded up
    norm: bool = True  # the final one
    head: bool = True  # unless it is tied to the embedding
    embeddings: bool = False  # of tokens, and of positions where they are learned
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found

    def __post_init__(self) -> None:
        if self.layers_trained is not None and self.layers_trained < 1:
            raise ValueError(f"layers_trained is {self.layers_trained}; legal: at least 1, or null for a fourth.")


class Method(Selective):
    Hyperparameters = LastLayersHyperparameters
    summary = "the last decoder layers, final norm and head"
    paper = "Lee et al. 2019, arXiv 1911.03090"
    learning_rates = (5e-6, 1e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 1e-5
    hyperparameters: LastLayersHyperparameters

    @classmethod
    def full_limit(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"layers_trained": config.get("num_hidden_layers", config.get("n_layer")), "embeddings": True}

    def chosen(self, model: nn.Module) -> list[nn.Parameter]:
        hp, found = self.hyperparameters, parts(model, self.hyperparameters.layers)
        count = math.ceil(len(found.layers) / 4) if hp.layers_trained is None else hp.layers_trained
        if count > len(found.layers):
            raise ValueError(f"layers_trained is {count}; legal: from 1 to {len(found.layers)}, the model's layers.")
        parameters = [parameter for layer in found.layers[-count:] for parameter in layer]
        for trains, part in ((hp.norm, found.norm), (hp.head, found.head), (hp.embeddings, found.embeddings)):
            parameters += part if trains else []
        return parameters
