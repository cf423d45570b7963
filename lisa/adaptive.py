"""What the adaptive sampler knows: the gradient norm of every unit when it was last active. Beyond the LISA paper.

The optimizer's own step tells: a hook before it adds up the squares of the gradients that the step is about to use,
after clipping and without a loss scale, on their device; the host reads them at a draw and when a checkpoint is
written. A unit's norm is the root of the mean square over the steps of its last period, to which a step whose gradients
are no finite numbers, as mixed precision has and skips, adds nothing. Under `fully_shard` every rank gets the norm of
the whole gradient, so all of them draw alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class GradientNorms:
    """Gradient norms of units of parameters, gathered at every step of `optimizer`."""

    def __init__(self, units: Sequence[Sequence[nn.Parameter]], optimizer: Optimizer) -> None:
        self.units = units
        self.norms: list[float | None] = [None] * len(units)  # of the last period in which the unit was active
        self._squares: dict[int, Tensor | float] = {}  # of this period, by unit, summed over its steps
        self._hook = optimizer.register_step_pre_hook(lambda *_: self._add(optimizer))

    def close(self) -> None:
        """Gather no more."""
        self._hook.remove()

    def end_period(self, steps: int) -> None:
        """What was gathered over `steps` steps becomes the norm of the units that were active."""
        for index, squares in self._squares.items():
            self.norms[index] = (float(squares) / steps) ** 0.5
        self._squares = {}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the norms, and the sums of the period under way as [unit, sum of squares]."""
        sums = [[index, float(squares)] for index, squares in self._squares.items()]
        return {"norms": list(self.norms), "squares": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.norms = list(state["norms"])
        self._squares = {int(index): float(squares) for index, squares in state["squares"]}

    @torch.no_grad()
    def _add(self, optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # GradScaler leaves unscaling to fused optimizers
        for index, parameters in enumerate(self.units):
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                squares = _square_of_norm(gradients) if scale is None else _square_of_norm(gradients) / scale**2
                finite = torch.where(squares.isfinite(), squares, torch.zeros_like(squares))
                self._squares[index] = self._squares.get(index, 0.0) + finite


def _square_of_norm(gradients: list[Tensor]) -> Tensor:
    """Sum of the squares of all entries, from a norm in fp32; of sharded gradients, over all ranks."""
    norm = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients])
    )
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole.double().square()
