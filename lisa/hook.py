"""When: `LISA` redraws the active layers every `period_steps` optimizer steps of any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lisa.adaptive import GradientNorms
from lisa.distributed import refuse_unsupported
from lisa.layers import parts
from lisa.offload import HostMemory
from lisa.sampling import (
    check_gamma,
    check_sampler,
    check_weights,
    draw_adaptive,
    draw_independent,
    draw_uniform,
    draw_weighted,
    inclusion_probabilities,
)
from lisa.switch import activate, check_state

CHOICES = ("on", "off", "drawn")  # for what is outside the decoder layers


class LISA:
    """Layerwise importance sampled AdamW (Pan et al. 2024, arXiv 2403.17919 v3, Algorithm 1).

    The defaults are the paper's: embeddings, final norm and LM head train always, and exactly `gamma` decoder layers,
    drawn uniformly, at a time. Which units are active follows from the step (with the adaptive sampler, also from the
    gradients so far), so a run resumes at any step, in the middle of a period too.

    Args:
        model: a decoder-only model, nothing of which is frozen yet. In a layer that is partly frozen (adapters on
            frozen weights), what requires a gradient now is what LISA switches.
        optimizer: built over all parameters that will ever train; it is never rebuilt. accelerate's wrapper will do.
        gamma: units active at a time, 1..number of units (the paper: 2 up to 7B, 4 at 70B); with the independent
            sampler, on average.
        period_steps: optimizer steps between two draws (K in the paper), at least 1.
        seed: of the draws; nothing else is drawn from it.
        sampler: "uniform" (v3), "independent" (v1), "weighted", or "adaptive" (beyond the paper); see `sampling.py`.
        weights: for the independent and the weighted sampler: one positive number a unit; only their ratios count.
        state: what becomes of optimizer state at a switch: "drop", "reset", "keep" or "offload"; see `switch.py`.
        embeddings, head, norm: "on": trains always. "off": frozen here and now, and never trains. "drawn": one more
            unit, drawn as if it were a layer. `norm` is the final norm and whatever else lies in no other part. A
            matrix that embeddings and head share counts as `embeddings`.
        layers: dotted name of the list of layers, for models where it cannot be found.

    Attributes:
        units: names of what is drawn: "layer 0", "layer 1", ..., then "embeddings", "head", "norm" where drawn.
        active: indices into `units` of those that train now.

    Raises:
        ValueError: an argument out of its range; layers not found, frozen, or unknown to the optimizer; embeddings and
            head are one matrix and are not chosen alike; nothing would train; a wrapper that cannot follow a redraw.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        gamma: int,
        period_steps: int,
        seed: int,
        *,
        sampler: str = "uniform",
        weights: Sequence[float] | None = None,
        state: str = "drop",
        embeddings: str = "on",
        head: str = "on",
        norm: str = "on",
        layers: str | None = None,
    ) -> None:
        refuse_unsupported(model)
        optimizer = _unwrapped(optimizer)
        check_period_steps(period_steps)
        check_sampler(sampler)
        check_state(state)
        check_always_on(embeddings=embeddings, head=head, norm=norm)
        found = parts(model, layers)
        if found.tied and embeddings != head:
            raise ValueError(f"Embeddings and head are one matrix, but embeddings={embeddings!r} and head={head!r}.")
        outside = {"embeddings": found.embeddings, "head": found.head, "norm": found.norm}
        chosen = {"embeddings": embeddings, "head": head, "norm": norm}
        units = {f"layer {index}": parameters for index, parameters in enumerate(found.layers)}
        units |= {name: outside[name] for name in outside if chosen[name] == "drawn" and outside[name]}
        self.units = tuple(units)
        self.parameters = [[p for p in parameters if p.requires_grad] for parameters in units.values()]
        self.optimizer, self.gamma, self.period_steps, self.seed = optimizer, gamma, period_steps, seed
        self.sampler, self.state = sampler, state
        self.weights = check_sampler_weights(sampler, weights, len(self.units))
        self._always_on = chosen
        check_gamma(gamma, len(self.units))
        _check_trainable(dict(zip(self.units, self.parameters, strict=True)), optimizer)
        off = [p for name in outside if chosen[name] == "off" for p in outside[name]]
        _check_something_trains(model, self.parameters, off, sampler)

        for parameter in off:
            parameter.requires_grad_(False)
            parameter.grad = None
            optimizer.state.pop(parameter, None)
        in_units = [p for parameters in self.parameters for p in parameters]
        self._host = HostMemory(optimizer, in_units) if state == "offload" else None
        self._norms = GradientNorms(self.parameters, optimizer) if sampler == "adaptive" else None
        self.active: tuple[int, ...] = ()
        self._period: int | None = None  # whose units are active
        self._norms_period: int | None = None  # whose gradients the adaptive sampler is gathering

    def before_step(self, step: int) -> None:
        """Redraw if a period begins; call before the first forward of optimizer step `step` (0-based)."""
        period = step // self.period_steps
        if period == self._period:
            return
        if self._norms is not None:
            self._end_period(self._norms, period, step)
        self._period = self._norms_period = period
        self.active = self._draw(period)
        resumed = step % self.period_steps != 0  # in the middle of a period, whose state is the checkpoint's
        state = "drop" if self.state == "reset" and resumed else self.state
        activate(self.parameters, self.active, self.optimizer, state, self._host)

    def close(self) -> None:
        """Take LISA's hooks off the optimizer, before another LISA is built over it; `requires_grad` stays as it is."""
        for part in (self._norms, self._host):
            if part is not None:
                part.close()

    def state_dict(self) -> dict[str, Any]:
        """What the draws follow from, in plain numbers, strings and lists (JSON can hold it)."""
        return {"settings": self._settings(), "period": self._norms_period, **self._gathered()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the draws up where `state` left them; the next `before_step` sets them. Load the optimizer first.

        Raises:
            ValueError: it was made with other settings.
        """
        saved, own = state["settings"], self._settings()
        other = {name for name in saved | own if saved.get(name) != own.get(name)}
        if other:
            told = ", ".join(f"{name} {saved.get(name)!r} (here {own.get(name)!r})" for name in sorted(other))
            raise ValueError(f"The checkpoint's LISA draws other layers: it has {told}.")
        self._period, self._norms_period = None, state["period"]
        if self._norms is not None:
            self._norms.load_state_dict(state)

    def _draw(self, period: int) -> tuple[int, ...]:
        if self.sampler == "independent":
            return draw_independent(self.seed, period, inclusion_probabilities(self.weights, self.gamma))
        if self.sampler == "weighted":
            return draw_weighted(self.seed, period, self.weights, self.gamma)
        if self._norms is not None:
            return draw_adaptive(self.seed, period, self._norms.norms, self.gamma)
        return draw_uniform(self.seed, period, len(self.units), self.gamma)

    def _end_period(self, norms: GradientNorms, period: int, step: int) -> None:
        if self._norms_period is None and step > 0:
            what = f"The adaptive sampler cannot begin at step {step}: its draws follow from the gradients before"
            raise ValueError(f"{what}. Call load_state_dict with what state_dict gave.")
        if self._norms_period not in (None, period):
            norms.end_period(self.period_steps)

    def _settings(self) -> dict[str, Any]:
        numbers = {"gamma": self.gamma, "period_steps": self.period_steps, "seed": self.seed}
        draws = {"sampler": self.sampler, "weights": self.weights, "state": self.state, "units": list(self.units)}
        return {**numbers, **draws, **self._always_on}

    def _gathered(self) -> dict[str, Any]:
        return {} if self._norms is None else self._norms.state_dict()


def check_period_steps(period_steps: int) -> None:
    """Raise ValueError unless `period_steps` is a whole number, at least 1."""
    if isinstance(period_steps, bool) or not isinstance(period_steps, int) or period_steps < 1:
        what = f"period_steps, the optimizer steps between two draws, is {period_steps!r}"
        raise ValueError(f"{what}; legal: a whole number, at least 1.")


def check_always_on(**choices: str) -> None:
    """Raise ValueError unless each of embeddings, head and norm is one of CHOICES."""
    for name, choice in choices.items():
        if choice not in CHOICES:
            raise ValueError(f"{name} is {choice!r}; legal: {', '.join(CHOICES)}.")


def check_sampler_weights(sampler: str, weights: Sequence[float] | None, units: int) -> list[float]:
    """The weights that the sampler draws by, equal ones if none are given.

    Raises:
        ValueError: weights for a sampler that takes none; the weighted sampler without any; illegal or too few ones.
    """
    if weights is None:
        if sampler == "weighted":
            raise ValueError("sampler='weighted' needs weights: one positive number for each unit.")
        return [1.0] * units
    if sampler not in ("independent", "weighted"):
        raise ValueError(f"sampler={sampler!r} takes no weights; legal with: independent, weighted.")
    check_weights(weights, units)
    return [float(weight) for weight in weights]


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside accelerate's AcceleratedOptimizer, whose own hooks are never called."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, Optimizer) else optimizer


def _check_trainable(units: dict[str, list[nn.Parameter]], optimizer: Optimizer) -> None:
    """Units that were frozen before LISA, or before the optimizer, was built would silently never train: refuse."""
    advice = "Build the optimizer over all parameters, then LISA, which does the freezing."
    frozen = [name for name, parameters in units.items() if not parameters]
    if frozen:
        raise ValueError(f"No parameter of {', '.join(frozen)} requires a gradient. {advice}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    unknown = [name for name, parameters in units.items() if any(id(p) not in held for p in parameters)]
    if unknown:
        raise ValueError(f"The optimizer does not hold all parameters of {', '.join(unknown)}. {advice}")


def _check_something_trains(
    model: nn.Module, units: list[list[nn.Parameter]], off: list[nn.Parameter], sampler: str
) -> None:
    """A draw of no layer at all would leave a backward without anything to do."""
    not_always = {id(p) for parameters in [*units, off] for p in parameters}
    always = any(p.requires_grad and id(p) not in not_always for p in model.parameters())
    if sampler == "independent" and not always:
        raise ValueError("sampler='independent' may draw no layer, and nothing trains always. Leave head or norm on.")
