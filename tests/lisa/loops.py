"""The shortest training loop with LISA, for the tests of lisa."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lisa import LISA, decoder_layers
from tests.models import loss_of

PERIOD = 3
SAMPLERS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "independent": {},
    "weighted": {"weights": [1.0, 2.0, 3.0, 4.0]},
    "adaptive": {},
}


def adamw(model: nn.Module, **settings: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), **{"lr": 3e-3, "weight_decay": 0.1, **settings})


def make(model: nn.Module, gamma: int = 2, adamw_flags: dict[str, bool] | None = None, **arguments: Any) -> LISA:
    """LISA over a fresh AdamW."""
    return LISA(model, adamw(model, **(adamw_flags or {})), gamma=gamma, period_steps=PERIOD, seed=0, **arguments)


def one_step(model: nn.Module, lisa: LISA, step: int, set_to_none: bool = True) -> float:
    lisa.before_step(step)
    loss = loss_of(model, step)
    loss.backward()
    lisa.optimizer.step()
    lisa.optimizer.zero_grad(set_to_none=set_to_none)
    return loss.item()


def train(model: nn.Module, lisa: LISA, start: int, end: int) -> list[float]:
    return [one_step(model, lisa, step) for step in range(start, end)]


def saved(model: nn.Module, lisa: LISA) -> list[Any]:
    """A checkpoint: model, optimizer, LISA."""
    return copy.deepcopy([model.state_dict(), lisa.optimizer.state_dict(), lisa.state_dict()])


def load(model: nn.Module, lisa: LISA, checkpoint: list[Any]) -> None:
    for part, state in zip((model, lisa.optimizer, lisa), copy.deepcopy(checkpoint), strict=True):
        part.load_state_dict(state)


def step_counts(model: nn.Module, lisa: LISA) -> list[int | None]:
    """AdamW's own step count of each decoder layer; None where it holds no state."""
    weights = [next(layer.parameters()) for layer in decoder_layers(model)]
    states = [lisa.optimizer.state.get(weight) for weight in weights]
    return [None if not state else int(state["step"].item()) for state in states]


def moments_bytes(model: nn.Module, held: set[int]) -> int:
    """Two fp32 moments a weight and one fp32 step count a parameter, of all but the decoder layers not in `held`."""
    absent = [p for index, layer in enumerate(decoder_layers(model)) if index not in held for p in layer.parameters()]
    ids = {id(p) for p in absent}
    return sum(2 * 4 * p.numel() + 4 for p in model.parameters() if id(p) not in ids)
