"""The optimizers of LOMO (Lv et al. 2023, arXiv 2306.09782) and AdaLomo (Lv et al. 2023, arXiv 2310.10195).

Each updates one parameter after the other, so that the loop may call `step` for one parameter inside backward. They
compute in fp32 and round into the weights once, with the operators of the authors' lomo-optim in their order, but do
not make the host wait for the device. Temporaries are one parameter's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT


class _OneByOne(Optimizer):
    """An optimizer that says what happens to one parameter."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


class Lomo(_OneByOne):
    """SGD without momentum, so without state; weights decay by lr * weight_decay.

    Args:
        clip_value: gradients are cut to this magnitude; None: they are not.
    """

    def __init__(self, params: ParamsT, lr: float, weight_decay: float = 0.0, clip_value: float | None = None) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "clip_value": clip_value})

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        lr, decay, clip = group["lr"], group["weight_decay"], group["clip_value"]
        if clip is not None:
            gradient = gradient.clamp(-clip, clip)
        weight = parameter.float()  # fp32 weights themselves
        if decay:
            weight.mul_(1.0 - lr * decay)
        _round_into(parameter, weight.add_(gradient, alpha=-lr))


class AdaLomo(_OneByOne):
    """Adafactor without momentum: a factored second moment, and updates normalised by their own and the weights' size.

    State, in fp32: `row` (all sides but the last) and `column` (all but the last but one) of a matrix, `square` of a
    vector, and the number of steps. The gradient's mean square stands for the matrix's as row x column / mean(row).

    Args:
        epsilon: added to the squared gradient. smallest_scale: the least size that weights are taken to have.
        clip_threshold: root mean square above which an update is scaled down to it.
        decay_rate: the second moment's, beta2 = 1 - step ** decay_rate.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        weight_decay: float = 0.0,
        epsilon: float = 1e-30,
        smallest_scale: float = 1e-3,
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
    ) -> None:
        settings = {"epsilon": epsilon, "smallest_scale": smallest_scale}
        settings |= {"clip_threshold": clip_threshold, "decay_rate": decay_rate}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **settings})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which would round the state to the weights' precision."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, saved in state_dict["state"].items():
            moments = {name: value.to(parameters[index].device) for name, value in saved.items() if name != "step"}
            self.state[parameters[index]].update(moments)

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        beta2 = 1.0 - state["step"] ** group["decay_rate"]
        update = self._inverse_root(state, gradient, beta2, group["epsilon"]).mul_(gradient)
        update.div_((_rms(update) / group["clip_threshold"]).clamp_(min=1.0))
        scale = _rms(parameter).clamp_(min=group["smallest_scale"]).mul_(group["lr"])
        weight = parameter.float()
        if group["weight_decay"]:
            weight.mul_(1.0 - scale * group["weight_decay"])
        _round_into(parameter, weight.addcmul_(update, scale, value=-1.0))

    def _inverse_root(self, state: dict[str, Any], gradient: Tensor, beta2: float, epsilon: float) -> Tensor:
        """1 / sqrt(second moment), in the gradient's shape, once the moment has taken in the gradient."""
        squares = gradient.float().square().add_(epsilon)
        if gradient.ndim < 2:
            return _averaged(state, "square", squares, beta2).rsqrt()
        row = _averaged(state, "row", squares.mean(dim=-1), beta2)  # (..., m)
        column = _averaged(state, "column", squares.mean(dim=-2), beta2)  # (..., n)
        del squares  # as large as what is made now
        share = row / row.mean(dim=-1, keepdim=True)
        return share.rsqrt_().unsqueeze(-1) * column.rsqrt().unsqueeze(-2)  # (..., m, n)


def _round_into(parameter: nn.Parameter, weight: Tensor) -> None:
    """Take over a weight worked out in fp32, unless it is the parameter itself."""
    if weight.dtype != parameter.dtype:
        parameter.copy_(weight)


def _averaged(state: dict[str, Any], name: str, new: Tensor, beta2: float) -> Tensor:
    """The running average `name` in `state` with `new` taken in; it starts at zero, where the first beta2 is too."""
    if name not in state:
        state[name] = torch.zeros_like(new)
    average: Tensor = state[name].mul_(beta2).add_(new, alpha=1.0 - beta2)
    return average


def _rms(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dtype=torch.float32) / math.sqrt(tensor.numel())
