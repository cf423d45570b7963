"""The optimizer's step inside backward, as `training.step_in_backward` asks: each parameter is updated as soon as its
gradient is whole, and the gradient is freed, so that the gradients never all exist (LOMO: Lv et al. 2023, arXiv
2306.09782, for any optimizer that keeps its state by parameter).

    stepper = StepInBackward(optimizer)
    loss.backward()          # the weights are new afterwards, and no gradient is left
    stepper.gradient_norm()  # what it was, over all of them

What needs all gradients at once is impossible with it: accumulation over several backward passes, clipping by the norm,
holding a step back for a gradient that is no finite number. The norm of all gradients can be had all the same, once
backward is done and the weights have changed: each parameter's is taken before its step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from workflow.engine.errors import InputError

if TYPE_CHECKING:  # experiments are checked without loading torch
    from torch import Tensor
    from torch.optim import Optimizer


def check_step_in_backward(accumulation_steps: int, max_grad_norm: float | None, who: str = "training") -> None:
    """Raise InputError if these settings need all gradients at once; `who` asks for the step in backward."""
    if accumulation_steps > 1 or max_grad_norm is not None:
        norm = "null" if max_grad_norm is None else max_grad_norm
        raise InputError(
            f"{who}: a step in backward has one gradient at a time, but accumulation_steps is {accumulation_steps} and"
            f" max_grad_norm {norm}; legal: accumulation_steps: 1 and max_grad_norm: null."
        )


class StepInBackward:
    """Hooks on every parameter of `optimizer`, also on those frozen now, which call `optimizer.step()` for it alone.

    The optimizer stays the one that schedule, checkpoint and method know. It must keep its state by parameter, as
    torch's do except LBFGS; a counter in the parameter group would not advance.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._discarding = False
        self._norms: dict[Tensor, Tensor] = {}  # of each parameter's gradient, one number on its device
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                trains = parameter.requires_grad
                parameter.requires_grad_(True)  # torch takes no hook on a frozen one, and keeps it when it is frozen
                parameter.register_post_accumulate_grad_hook(partial(self._step, index))
                parameter.requires_grad_(trains)

    def gradient_norm(self) -> float:
        """Norm of all gradients together, in fp32: those of one backward, if called after each; 0 if there were none.

        The host waits for the device here, and for no parameter alone.
        """
        import torch

        norms = list(self._norms.values())
        self._norms.clear()
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    @contextlib.contextmanager
    def discarding(self) -> Iterator[None]:
        """Within, gradients are freed without a step."""
        self._discarding = True
        try:
            yield
        finally:
            self._discarding = False

    def _step(self, index: int, parameter: Tensor) -> None:
        if not self._discarding:
            self._norms[parameter] = _norm(parameter.grad)
            groups = self.optimizer.param_groups  # looked up now: loading a checkpoint replaces the groups
            self.optimizer.param_groups = [{**groups[index], "params": [parameter]}]
            try:
                self.optimizer.step()
            finally:
                self.optimizer.param_groups = groups
        parameter.grad = None


def _norm(gradient: Tensor | None) -> Tensor:
    import torch

    assert gradient is not None
    return torch.linalg.vector_norm(gradient, dtype=torch.float32)
