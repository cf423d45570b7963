"""Series adapters: a bottleneck after every attention and every MLP (Houlsby et al. 2019, arXiv 1902.00751).

Two small linear layers and a residual connection, y + up(g(down(y))), before the decoder layer adds y to its input.
Only they and the layer norms train, as in the paper (section 2.1); `train_norms: false` leaves the norms alone, as
LLM-Adapters does (Hu et al. 2023, arXiv 2304.01933). The paper takes widths of 8, 64 and 256 (section 3.2); 256 is what
LLM-Adapters takes for LLaMA-7B. The rates are those the paper searches; 3e-4 is also LLM-Adapters'. The paper names no
nonlinearity: GELU is BERT's. On purpose it differs in this: the paper starts both layers near zero (deviation 0.01),
here up starts at zero and down does not, as in `parallel_adapter`, so that the start is exactly the given model.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from baselines._adapter_method import AdapterHyperparameters, AdapterMethod


@dataclass(frozen=True)
class SeriesAdapterHyperparameters(AdapterHyperparameters):
    bottleneck: int = 256  # numbers between the two layers
    nonlinearity: str = "gelu"  # gelu | relu | tanh
    scale: float = 1.0  # of what an adapter adds
    train_norms: bool = True
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found


class Method(AdapterMethod):
    Hyperparameters = SeriesAdapterHyperparameters
    summary = "bottlenecks after attention and MLP, and layer norms"
    paper = "Houlsby et al. 2019, arXiv 1902.00751"
    learning_rates = (3e-5, 3e-4, 3e-3)
    default_learning_rate = 3e-4
    adapted = ("attention", "MLP")
    parallel = False
    hyperparameters: SeriesAdapterHyperparameters

    def prepare(self, model: nn.Module) -> nn.Module:
        model = super().prepare(model)
        if self.hyperparameters.train_norms:
            for module in model.modules():
                if "norm" in type(module).__name__.lower():
                    module.requires_grad_(True)
        return model
