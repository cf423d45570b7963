"""Bottleneck adapters: two small linear layers with a nonlinearity between them, put onto modules of a trained model.

    insert(model, ["model.layers.0.mlp"], bottleneck=256, nonlinearity="relu", scale=4.0, parallel=True)

In series (Houlsby et al. 2019, arXiv 1902.00751): y = f(x) + scale * up(g(down(f(x)))).
In parallel (He et al. 2021, arXiv 2110.04366): y = f(x) + scale * up(g(down(x))).
The module f keeps its place and the names of its parameters; the adapter is its submodule `adapter`, added by a forward
hook. Down starts as He et al. start it (Kaiming uniform), up and the biases at zero, so that the model begins as the
one that was given.

Training and exported checkpoints run this same file: it is copied into them, so it imports torch only.
"""

import torch
from torch import nn

NONLINEARITIES = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


class Bottleneck(nn.Module):
    """scale * up(g(down(x))) on (..., width)."""

    def __init__(self, width: int, bottleneck: int, nonlinearity: str, scale: float, parallel: bool) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.nonlinearity = NONLINEARITIES[nonlinearity]()
        self.up = nn.Linear(bottleneck, width)
        self.scale, self.parallel = scale, parallel
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.up(self.nonlinearity(self.down(x)))


def insert(
    model: nn.Module, modules: list[str], bottleneck: int, nonlinearity: str, scale: float, parallel: bool
) -> None:
    """Put an adapter onto each of the named modules, on the model's device and in its precision."""
    place = next(model.parameters())
    for name in modules:
        module = model.get_submodule(name)
        adapter = Bottleneck(model.config.get_text_config().hidden_size, bottleneck, nonlinearity, scale, parallel)
        module.adapter = adapter.to(place.device, place.dtype)
        module.register_forward_hook(_add)


def _add(module: nn.Module, inputs: tuple, output):
    """What the module returns, a tensor or a tuple that begins with one, with the adapter's output added to it."""
    if isinstance(output, tuple):
        return _add(module, inputs, output[0]), *output[1:]
    return output + module.adapter(inputs[0] if module.adapter.parallel else output)
