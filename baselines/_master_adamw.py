"""AdamW in fp32 on weights of any precision: weights that are not fp32 have an fp32 copy, the master.

    optimizer = MasterAdamW(contract.parameter_groups(named, weight_decay), lr=lr, **settings.arguments())
    loss.backward(); optimizer.step()

The steps update the master and round it into the weights; moments and the gradients that a step uses are fp32 too. A
step takes the gradients: each is let go of once its fp32 form is there, so that both never exist for a whole model.
Masters are made when their parameters first step, and anew when the state of these was dropped. fp32 weights have none:
then it is torch's AdamW to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer, ParamsT


class MasterAdamW(Optimizer):
    """`state` holds for each parameter `master` (not for fp32 weights), `step`, `exp_avg`, `exp_avg_sq`.

    Args:
        together: update all parameters of a group at once, which holds all their gradients in fp32; else one by one.
            The result is the same to the bit.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        fused: bool,
        foreach: bool,
        together: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "fused": fused, "foreach": foreach})
        self.together = together

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient, and take the gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for some in [parameters] if self.together and parameters else [[one] for one in parameters]:
                self._update(some, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which would round the state to the weights' precision."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, saved in state_dict["state"].items():
            state = self.state[parameters[index]]
            for name in saved.keys() - {"step"}:
                state[name] = saved[name].to(parameters[index].device)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        states = [self._state_of(parameter, group["fused"]) for parameter in parameters]
        weights = [state.get("master", parameter) for parameter, state in zip(parameters, states, strict=True)]
        gradients = [_taken_gradient(parameter) for parameter in parameters]
        averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            gradients,
            averages,
            squares,
            [],
            steps,
            foreach=group["foreach"],
            fused=group["fused"],
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )
        for parameter, weight in zip(parameters, weights, strict=True):
            if weight is not parameter:
                parameter.copy_(weight)

    def _state_of(self, parameter: nn.Parameter, fused: bool) -> dict[str, Tensor]:
        state = self.state[parameter]
        if "step" not in state:
            device = parameter.device if fused else "cpu"  # where torch's AdamW wants it
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            if parameter.dtype != torch.float32:
                state["master"] = parameter.detach().float()
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.float32, memory_format=torch.preserve_format)
        return state


def _taken_gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient in fp32, no longer at the parameter."""
    assert parameter.grad is not None
    gradient = parameter.grad.float()
    parameter.grad = None
    return gradient


def master_state_bytes(model: nn.Module) -> int:
    """Bytes of its state for all that trains now: two moments, and the master of weights that are not fp32."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return sum(p.numel() * (8 if p.dtype == torch.float32 else 12) for p in trained)
