"""LISA: train embeddings, final norm, LM head and gamma decoder layers that are drawn anew each period.

Pan et al. 2024, arXiv 2403.17919 v3; the algorithm is `lisa/`. gamma = 2 is the paper's choice up to 7B. The period is
searched in {1, 3, 5, 10, 50, 80} steps and no single choice is stated: 10, from the middle, makes 13 draws in the
paper's 122 steps. AdamW's state is held for what is active only. The learning rates are the paper's grid; 1e-5 is the
one its ablation (v1, table 6) uses. Variants (samplers, treatment of state, what trains always) are `lisa.LISA`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from lisa import LISA
from lisa.adamw import MOMENT_BITS, AdamW, moment_bytes
from lisa.arguments import check_arguments, check_sampler_weights, check_tied
from lisa.layers import parts
from lisa.sampling import check_gamma


@dataclass(frozen=True)
class LISAHyperparameters:
    gamma: int = 2  # decoder layers active at a time; 0 is the paper's "E+H"
    period_steps: int = 10  # optimizer steps between two draws
    sampler: str = "uniform"  # uniform | independent | weighted | adaptive
    weights: tuple[float, ...] | None = None  # one a unit, for independent and weighted
    state: str = "drop"  # optimizer state at a switch: drop | reset | keep | offload
    embeddings: str = "on"  # on | off | drawn (as if it were a layer)
    head: str = "on"
    norm: str = "on"
    always_on_moment_bits: int = 32  # 8: AdamW's moments of embeddings and head are held block-wise quantised
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found

    def __post_init__(self) -> None:
        check_arguments(self.gamma, self.period_steps, **self.draws(), **self.outside())
        if self.always_on_moment_bits not in MOMENT_BITS:
            raise ValueError(f"always_on_moment_bits is {self.always_on_moment_bits}; legal: {MOMENT_BITS}.")

    def draws(self) -> dict[str, Any]:
        """What is drawn, and what becomes of the rest's state."""
        return {"sampler": self.sampler, "weights": self.weights, "state": self.state}

    def outside(self) -> dict[str, str]:
        """What becomes of the parts outside the decoder layers."""
        return {"embeddings": self.embeddings, "head": self.head, "norm": self.norm}


class Method(contract.Method):
    Hyperparameters = LISAHyperparameters
    summary = "embeddings, norm, head and gamma drawn decoder layers"
    paper = "Pan et al. 2024, arXiv 2403.17919"
    learning_rates = (5e-6, 1e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 1e-5
    family = "block-wise"
    small = {"gamma": 2, "period_steps": 3}
    period_hyperparameter = "period_steps"
    hyperparameters: LISAHyperparameters

    def check(self, config: Mapping[str, Any]) -> None:
        layers, hp = config.get("num_hidden_layers", config.get("n_layer")), self.hyperparameters  # GPT-2 says n_layer
        if layers is None:
            return
        drawn = [part for part, choice in hp.outside().items() if choice == "drawn"]
        if config.get("tie_word_embeddings"):
            check_tied(hp.embeddings, hp.head)
            drawn = [part for part in drawn if part != "head"]  # one matrix
        check_gamma(hp.gamma, layers + len(drawn))
        check_sampler_weights(hp.sampler, hp.weights, layers + len(drawn))

    @classmethod
    def full_limit(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"gamma": config.get("num_hidden_layers", config.get("n_layer"))}

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Over every parameter, before any layer is frozen: one that the optimizer does not know would never train."""
        hp = self.hyperparameters
        optimizer = super().optimizer(model, lr) if hp.always_on_moment_bits == 32 else self._mixed_adamw(model, lr)
        choices = {**hp.draws(), **hp.outside()}
        self.lisa = LISA(model, optimizer, hp.gamma, hp.period_steps, self.draw_seed, **choices, layers=hp.layers)
        return optimizer

    def _mixed_adamw(self, model: nn.Module, lr: float) -> Optimizer:
        """One AdamW, with the moments of embeddings and head in fewer bits than the others."""
        outer = self._few_bits(model)
        named, decay = list(model.named_parameters()), self.adamw.weight_decay
        full = contract.parameter_groups(((name, p) for name, p in named if id(p) not in outer), decay)
        few = contract.parameter_groups(((name, p) for name, p in named if id(p) in outer), decay)
        few = [{**group, "moment_bits": self.hyperparameters.always_on_moment_bits} for group in few]
        return AdamW([*full, *few], lr=lr, **self.adamw.arguments())

    def _few_bits(self, model: nn.Module) -> set[int]:
        found = parts(model, self.hyperparameters.layers)
        return {id(p) for p in (*found.embeddings, *found.head)}

    def drawn_parameters(self) -> list[list[nn.Parameter]]:
        return self.lisa.unit_parameters if self.hyperparameters.gamma else []  # with 0 none of them ever trains

    def before_step(self, step: int) -> None:
        self.lisa.before_step(step)

    def trainable_parameters(self, model: nn.Module) -> dict[str, int]:
        """`sampled` is gamma times the mean unit: what the drawn layers of one period hold, so that `total` is what
        trains at a time; where units differ in size or are not drawn alike, on average of a uniform draw."""
        in_units = {id(p): p.numel() for unit in self.lisa.unit_parameters for p in unit}
        always = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in in_units)
        sampled = sum(in_units.values()) * self.hyperparameters.gamma // len(self.lisa.units)
        return {"always": always, "sampled": sampled, "total": always + sampled}

    def state_bytes(self, model: nn.Module) -> int:
        """For state that is dropped, reset or offloaded at a switch; what is kept is that of all units ever drawn."""
        hp = self.hyperparameters
        kept = {id(p) for unit in self.lisa.unit_parameters for p in unit} if hp.state == "keep" else set()
        few = self._few_bits(model) if hp.always_on_moment_bits == 8 else set()
        held = [p for p in model.parameters() if p.requires_grad or id(p) in kept]
        return sum(moment_bytes(p.numel()) if id(p) in few else 2 * p.nbytes for p in held)

    def state_dict(self) -> dict[str, Any]:
        return self.lisa.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lisa.load_state_dict(state)
