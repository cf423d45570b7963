"""The contract of a fine-tuning method: everything a file in `baselines/` may decide, on one screen.

One training loop (`workflow/engine/training.py`) serves every method; a method changes only what is its own: which
parameters train, with which optimizer, what happens between steps, and how the result becomes a plain checkpoint.
It may not touch the model's architecture beyond its own modules, the data order, the loss or the evaluation.

A method is one file `baselines/<name>.py` with a class `Method` that derives from `contract.Method`; the registry
(`baselines.names`, `baselines.build`) finds it by file name. The loop calls, in this order: `check`, `prepare`,
`optimizer`, on a new run `calibrate`, on a resumed one `load_state_dict`, then for every optimizer step `before_step`;
`export` at the end.

The tests of the contract (tests/baselines/test_contract.py) hold every method to `ABILITIES`; one that lacks an ability
says so in `declared`, with the reason, which tests, reports and `lisa-bench methods` repeat.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

FAMILIES = ("none", "full", "adapters", "selective", "projection", "in-backward", "block-wise")

ABILITIES = {
    "models": "trains decoder-only transformers of every kind",
    "accumulation": "accumulates gradients over several batches",
    "clipping": "lets gradients be clipped by their common norm",
    "checkpointing": "recomputes activations (gradient checkpointing) with the same result",
    "plain export": "exports a checkpoint that loads as the base model's own architecture, without further code",
    "full limit": "tends to full fine-tuning as its size grows to the model's",
}
STATE_LETTERS = {
    "T": "parameters that train at a time",
    "s": "bytes of a trained parameter (bf16: 2, fp32: 4)",
    "m, n": "sides of a matrix, m the shorter",
    "r": "rank",
    "sum": "over all matrices that are projected",
    "R": "parameters that are not in them",
}
ONE_GRADIENT = "the step happens inside backward, where one gradient exists at a time"


@dataclass(frozen=True)
class AdamWSettings:
    """AdamW as every method of an experiment shares it (Loshchilov and Hutter 2019, arXiv 1711.05101).

    `implementation` moves both speed and peak memory (foreach holds temporaries as large as the gradients), so it is
    explicit and stands in every run record.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    implementation: str = "fused"  # fused | foreach | for-loop

    def flags(self) -> dict[str, bool]:
        """The keyword arguments of `torch.optim.AdamW` that select the implementation."""
        return {"fused": self.implementation == "fused", "foreach": self.implementation == "foreach"}

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `torch.optim.AdamW` that all its groups share, learning rate aside."""
        return {"betas": (self.beta1, self.beta2), "eps": self.epsilon, **self.flags()}


@dataclass(frozen=True)
class NoHyperparameters:
    """For methods that have none."""


class Method:
    """Base class of all methods; the defaults are those of plain full fine-tuning.

    Class attributes a method sets:
        Hyperparameters: frozen dataclass, defaults from the paper; `__post_init__` raises ValueError on illegal values.
        paper: where the method comes from.
        learning_rates: the list to sweep; tuning is part of a method.
        default_learning_rate: used where an experiment names none.
        trains: False for a method that only exports the model it was given.
        steps_in_backward: True for methods that are defined by it (LOMO, layer-wise GaLore); the loop then steps the
            optimizer for each parameter as soon as its gradient is there, and refuses accumulation and clipping.
        optimizer_name: as it stands in run records; only "AdamW" heeds `AdamWSettings.implementation`.
        family: one of `FAMILIES`.
        implementation: whose code does the work, with its version: "peft 0.21"; "ours", and what it is tested against.
        state_formula: bytes of optimizer state in the letters of `STATE_LETTERS`; `state_bytes` computes them.
        declared: abilities of `ABILITIES` that the method lacks, each with the reason; see `limits`.
        refused_example: a `config.json` that `check` refuses, of a method that declares "models".
        small: hyper-parameters over the defaults that suit a model of width 32 and runs of a few steps: small ranks,
            periods of 3 steps. Tests take them.
        small_learning_rate: one that suits such a model.
        small_steps: after which the loss of such a model has fallen by a quarter; more for methods that train little.
        prepares_on_host: True for methods whose `prepare` makes the weights smaller (4-bit): the model is loaded into
            host memory, and what `prepare` returns goes to the device.
        period_hyperparameter: the hyper-parameter that says every how many steps something happens that costs memory
            (a redraw, a decomposition), if there is one; a simulation shortens it to two steps.
        summary: one clause for tables and help.
    """

    Hyperparameters: ClassVar[type] = NoHyperparameters
    summary: ClassVar[str]
    paper: ClassVar[str]
    learning_rates: ClassVar[tuple[float, ...]]
    default_learning_rate: ClassVar[float]
    trains: ClassVar[bool] = True
    steps_in_backward: ClassVar[bool] = False
    optimizer_name: ClassVar[str] = "AdamW"
    family: ClassVar[str]
    implementation: ClassVar[str] = "ours"
    state_formula: ClassVar[str] = "2sT"
    declared: ClassVar[Mapping[str, str]] = {}
    refused_example: ClassVar[Mapping[str, Any]] = {}
    small: ClassVar[Mapping[str, Any]] = {}
    small_learning_rate: ClassVar[float] = 1e-2
    small_steps: ClassVar[int] = 30
    prepares_on_host: ClassVar[bool] = False
    period_hyperparameter: ClassVar[str | None] = None

    def __init__(self, hyperparameters: Any, adamw: AdamWSettings, seed: int, draw_seed: int | None = None) -> None:
        """`seed` starts what the method adds to the model (adapters); `draw_seed`, by default the same, is for what it
        draws as it trains (layers, blocks, projections). The order of the data has a seed of its own.
        """
        self.hyperparameters = hyperparameters
        self.adamw = adamw
        self.seed = seed
        self.draw_seed = seed if draw_seed is None else draw_seed

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ValueError if the method cannot run on a model with this `config.json` (say, too few layers)."""

    @classmethod
    def limits(cls) -> dict[str, str]:
        """All of `ABILITIES` that the method lacks, with the reasons: `declared`, and what a step in backward costs."""
        stepping = dict.fromkeys(("accumulation", "clipping"), ONE_GRADIENT) if cls.steps_in_backward else {}
        return {**stepping, **cls.declared}

    @classmethod
    def full_limit(cls, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Hyper-parameters at which the method is, or comes close to, full fine-tuning of a model with this
        `config.json`: the full rank, all layers. None: there are none, and `declared` says why under "full limit".
        """
        return None if "full limit" in cls.declared else {}

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze or wrap the freshly loaded model.

        Every parameter that will ever train must require a gradient afterwards, or be known to `optimizer`.
        """
        return model

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Build the optimizer over the prepared model; the loop puts its schedule on it."""
        return adamw(model.named_parameters(), lr, self.adamw)

    def calibrate(self, model: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Look at data before step 0 of a new run (not of a resumed one), for methods that choose by it.

        Args:
            model: as prepared.
            batches: those of the first step; input_ids, attention_mask, labels, each (batch, tokens).
        """

    def before_step(self, step: int) -> None:
        """Called before the first forward of optimizer step `step` (0-based): redraw layers, refresh, re-rank."""

    def extra_positions(self) -> int:
        """Positions of the model that the method takes in front of every sequence (a prefix)."""
        return 0

    def period(self) -> int | None:
        """Every so many steps something happens that costs memory (a redraw, a decomposition): one such is metered."""
        name = self.period_hyperparameter
        return None if name is None else int(getattr(self.hyperparameters, name))

    def drawn_parameters(self) -> Sequence[Sequence[nn.Parameter]]:
        """Units of which a few train at a time; none where all that trains trains always.

        Asked for after `optimizer`. Peak memory is known only once each of them has trained.
        """
        return ()

    def eval_weights(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model holds the weights to evaluate (averages, merged adapters)."""
        return contextlib.nullcontext()

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write a plain Hugging Face checkpoint to `folder`, adapters merged, that any tool loads."""
        model.save_pretrained(folder)  # type: ignore[operator]

    def trainable_parameters(self, model: nn.Module) -> dict[str, int]:
        """Number of parameters that train {always, sampled, total}.

        `sampled` is what trains at a time of those that train only while drawn; `total` is their sum.
        """
        always = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return {"always": always, "sampled": 0, "total": always}

    def state_bytes(self, model: nn.Module) -> int:
        """Bytes of optimizer state once all that trains at a time has stepped, without single numbers (step counters).

        Asked for after `optimizer`. `state_formula` says the same in letters.
        """
        return 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)

    def state_dict(self) -> dict[str, Any]:
        """All of the method's own state that a resumed run needs (the loop saves model, optimizer and schedule)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; model, optimizer and schedule have theirs already."""


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two AdamW groups over the parameters that require a gradient: matrices decay, vectors (norms, biases) do not.

    The same division as `transformers.Trainer` makes.
    """
    trainable = [p for _, p in named if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(named: Iterable[tuple[str, nn.Parameter]], lr: float, settings: AdamWSettings) -> torch.optim.AdamW:
    """AdamW over `parameter_groups` with the experiment's shared settings."""
    return torch.optim.AdamW(parameter_groups(named, settings.weight_decay), lr=lr, **settings.arguments())
