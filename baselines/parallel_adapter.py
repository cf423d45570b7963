"""Parallel adapters: a scaled bottleneck beside every MLP (He et al. 2021, arXiv 2110.04366).

MLP(x) + 4 up(relu(down(x))): the paper's "scaled parallel adapter", the best single one of its comparison. ReLU, the
scale of 4 and the start (down as in LoRA, up at zero) are the paper's and its code's. It takes a width of 512 at its
best, 256 is what LLM-Adapters takes for LLaMA-7B (Hu et al. 2023, arXiv 2304.01933). The rates are the authors' (5e-5
for summaries and translation, 1e-4 for GLUE) and LLM-Adapters' 3e-4, the default. Its dropout is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines._adapter_method import AdapterHyperparameters, AdapterMethod


@dataclass(frozen=True)
class ParallelAdapterHyperparameters(AdapterHyperparameters):
    bottleneck: int = 256  # numbers between the two layers
    nonlinearity: str = "relu"  # gelu | relu | tanh
    scale: float = 4.0  # of what an adapter adds
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found


class Method(AdapterMethod):
    Hyperparameters = ParallelAdapterHyperparameters
    summary = "scaled bottlenecks beside the MLP"
    paper = "He et al. 2021, arXiv 2110.04366"
    learning_rates = (5e-5, 1e-4, 3e-4)
    default_learning_rate = 3e-4
    adapted = ("MLP",)
    parallel = True
    hyperparameters: ParallelAdapterHyperparameters
