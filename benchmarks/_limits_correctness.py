"""Section 1 of `lisa_limits.py`: figures that hold exactly or not at all, on a tiny fp32 model on the CPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks._limits_model import Everything, Run, Setup, adamw, build, moment_bytes, state_bytes, token_ids
from benchmarks._limits_report import Bound, Results, Table
from lisa import LISA, decoder_layers

SETUP = Setup("tiny", torch.device("cpu"), "fp32", batch_size=2, tokens=32)
FULL_STEPS, PERIOD_STEPS, PERIODS = 30, 3, 10


def correctness() -> Results:
    """LISA of all layers against full fine-tuning; frozen layers; optimizer state after every switch."""
    difference = all_layers_against_full()
    inactive, moved, ratios = frozen_and_state()
    rows = [
        [
            f"gamma = all layers against full FT, {FULL_STEPS} steps, weights and moments: largest difference",
            difference,
        ],
        [f"inactive layers, {PERIODS} periods: largest change of a weight within a period", inactive],
        ["active layers, for comparison: smallest of the largest changes of a layer within a period", moved],
        [f"optimizer state / formula, smallest of {len(ratios)} steps", min(ratios)],
        [f"optimizer state / formula, largest of {len(ratios)} steps", max(ratios)],
    ]
    table = Table(
        "1. Correctness", f"{SETUP.describe()}, period {PERIOD_STEPS} steps.", {"what": "", "value": ".6g"}, rows
    )
    bounds = [
        Bound("gamma = all layers: largest difference from full FT", "==", 0, difference),
        Bound("inactive layers: largest change in a period", "==", 0, inactive),
        Bound("optimizer state / formula, largest deviation from 1", "==", 0, max(abs(r - 1) for r in ratios)),
        Bound("resumed run = uninterrupted run", "==", 0, None, reason="see tests/lisa/test_resume.py"),
        Bound("FSDP2, 2 processes against 1: losses", "<=", 1e-5, None, reason="see tests/lisa/test_fsdp2.py"),
    ]
    return Results([table], bounds)


def all_layers_against_full() -> float:
    """Largest absolute difference between weights and moments of the two runs."""
    runs = []
    for _ in range(2):
        model = build(SETUP)
        optimizer = adamw(model)
        layers = len(decoder_layers(model))
        method = Everything() if runs else LISA(model, optimizer, layers, PERIOD_STEPS, 0)
        runs.append(Run(model, optimizer, method))
    for step in range(FULL_STEPS):
        for run in runs:
            run.step(torch.roll(token_ids(SETUP), step, dims=1))
    return max(largest_difference(*pair) for pair in zip(*(tensors(r.model, r.optimizer) for r in runs), strict=True))


def frozen_and_state() -> tuple[float, float, list[float]]:
    """Largest change of a frozen layer, smallest change of an active one, and state over formula after every step."""
    model = build(SETUP)
    optimizer = adamw(model)
    run, layers = Run(model, optimizer, LISA(model, optimizer, SETUP.gamma, PERIOD_STEPS, 0)), decoder_layers(model)
    inactive, moved, ratios = 0.0, float("inf"), []
    for _ in range(PERIODS):
        before = [[p.detach().clone() for p in layer.parameters()] for layer in layers]
        for _ in range(PERIOD_STEPS):
            run.step(token_ids(SETUP))
            ratios.append(state_bytes(optimizer) / moment_bytes([p for p in model.parameters() if p.requires_grad]))
        for index, layer in enumerate(layers):
            change = max(largest_difference(*pair) for pair in zip(layer.parameters(), before[index], strict=True))
            if index in run.method.active:
                moved = min(moved, change)
            else:
                inactive = max(inactive, change)
    return inactive, moved, ratios


def tensors(model: nn.Module, optimizer: Optimizer) -> Iterable[Tensor]:
    """Weights, then all of the optimizer's state by parameter."""
    yield from model.parameters()
    for parameter in model.parameters():
        yield from optimizer.state[parameter].values()


def largest_difference(one: Tensor, other: Tensor) -> float:
    return (one.detach() - other.detach()).abs().max().item()
