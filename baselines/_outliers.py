"""Layerwise Outlier Distribution: of each decoder layer, the share of weights that are outliers (OWL: Yin et al. 2023,
arXiv 2310.05175).

The score of a weight is |W_ij| ||X_j||_2, X_j being its input over all tokens (Wanda's); it is an outlier if that
exceeds `factor` times the mean score of its layer, all linear modules of the layer together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Batches = Sequence[Mapping[str, Tensor]]


@torch.no_grad()
def count_outliers(
    model: nn.Module, layers: Sequence[nn.Module], batches: Batches, factor: float
) -> list[tuple[int, int]]:
    """(outliers, weights) of the linear modules of each of the model's decoder layers.

    The model reads each sequence of the batches once, without its padding and without dropout.
    """
    linear = [list(_linear_modules(layer)) for layer in layers]
    norms = input_norms(model, [module for modules in linear for module in modules], batches)
    counts = []
    for modules in linear:
        weights = sum(module.weight.numel() for module in modules)
        mean = sum(scores(module, norms[module]).sum() for module in modules) / weights
        outliers = sum(int((scores(module, norms[module]) > factor * mean).sum()) for module in modules)
        counts.append((outliers, weights))
    return counts


def scores(module: Any, norms: Tensor) -> Tensor:
    """|W_ij| ||X_j||_2, in fp32, of the shape of the weight: (out, in), or GPT-2's (in, out)."""
    weight: Tensor = module.weight
    return weight.float().abs() * (norms if isinstance(module, nn.Linear) else norms[:, None])


@torch.no_grad()
def input_norms(model: nn.Module, modules: Sequence[Any], batches: Batches) -> dict[nn.Module, Tensor]:
    """||X_j||_2 of each input of each of these modules over all tokens that are no padding; each (in,)."""
    squares = {module: torch.zeros(_inputs(module), device=module.weight.device) for module in modules}

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        squares[module] += inputs[0].float().square().flatten(0, -2).sum(0)

    hooks = [module.register_forward_pre_hook(add) for module in modules]
    training = model.training
    model.eval()
    try:
        for batch in batches:
            for tokens, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):  # each (tokens,)
                model(input_ids=tokens[mask.bool()][None], use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {module: sums.sqrt() for module, sums in squares.items()}


def _inputs(module: Any) -> int:
    """Number of inputs of a linear module."""
    return int(module.weight.shape[1 if isinstance(module, nn.Linear) else 0])


def _linear_modules(layer: nn.Module) -> Iterator[Any]:
    from transformers.pytorch_utils import Conv1D

    return (module for module in layer.modules() if isinstance(module, nn.Linear | Conv1D))
