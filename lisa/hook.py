"""When: `LISA` redraws the active layers every `period_steps` optimizer steps of any training loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lisa.adaptive import GradientNorms
from lisa.distributed import refuse_unsupported, watch_for_ddp
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
MAY_BE_EMPTY = "sampler='independent' may draw no layer, and nothing trains always."


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
        unit_parameters: of each unit, the parameters that train while it is active.
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
        watch_for_ddp(model)
        if hasattr(model, "_orig_mod"):
            what = "A model compiled as a whole compiles again for every new set of active layers"
            warnings.warn(f"{what}. Compile its layers: lisa.compile.compile_layers(model).", stacklevel=2)
        optimizer = _unwrapped(optimizer)
        chosen = {"embeddings": embeddings, "head": head, "norm": norm}
        check_seed(seed)
        check_arguments(gamma, period_steps, sampler=sampler, weights=weights, state=state, **chosen)
        found = parts(model, layers)
        if found.tied:
            check_tied(embeddings, head)
        outside = {"embeddings": found.embeddings, "head": found.head, "norm": found.norm}
        units = {f"layer {index}": parameters for index, parameters in enumerate(found.layers)}
        units |= {name: outside[name] for name in outside if chosen[name] == "drawn" and outside[name]}
        self.units = tuple(units)
        self.unit_parameters = [[p for p in parameters if p.requires_grad] for parameters in units.values()]
        self.model = model
        self.optimizer, self.gamma, self.period_steps, self.seed = optimizer, gamma, period_steps, seed
        self.sampler, self.state = sampler, state
        self.weights = check_sampler_weights(sampler, weights, len(self.units))
        self._always_on = chosen
        check_gamma(gamma, len(self.units))
        off = [p for name in outside if chosen[name] == "off" for p in outside[name]]
        always = {name: [p for p in outside[name] if p.requires_grad] for name in outside if chosen[name] == "on"}
        _check_trainable(dict(zip(self.units, self.unit_parameters, strict=True)), always, optimizer)
        _check_something_trains(model, self.unit_parameters, off, sampler)

        for parameter in off:
            parameter.requires_grad_(False)
            parameter.grad = None
            optimizer.state.pop(parameter, None)
        in_units = [p for parameters in self.unit_parameters for p in parameters]
        self._host = HostMemory(optimizer, in_units) if state == "offload" else None
        self._norms = GradientNorms(self.unit_parameters, optimizer) if sampler == "adaptive" else None
        self.active: tuple[int, ...] = ()
        self._period: int | None = None  # whose units are active
        self._norms_period: int | None = None  # whose gradients the adaptive sampler is gathering

    def before_step(self, step: int) -> None:
        """Redraw if a period begins; call before the first forward of optimizer step `step` (0-based).

        Raises:
            ValueError: `step` is no whole number of at least 0; model or optimizer hold other parameters by now.
        """
        period = check_step(step) // self.period_steps
        if period == self._period:
            return
        self._check_still_there()
        if self._norms is not None:
            self._end_period(self._norms, period, step)
        resumed = self._period is None and step % self.period_steps != 0  # into a period whose state was loaded
        self._period = self._norms_period = period
        self.active = self._draw(period)
        state = "drop" if self.state == "reset" and resumed else self.state
        activate(self.unit_parameters, self.active, self.optimizer, state, self._host)

    def close(self) -> None:
        """Take LISA's hooks off the optimizer. `requires_grad` stays as it is: before another LISA is built over the
        model, call `model.requires_grad_(True)`."""
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
        saved, own = state.get("settings", {}), self._settings()
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

    def _check_still_there(self) -> None:
        """Sharding replaces parameters; LISA would go on with those that nobody uses any more.

        In a model that was sharded before, `parameters()` may be the gathered ones, so there only the optimizer tells.
        """
        in_model = {id(p) for p in self.model.parameters()}
        in_optimizer = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for p in (p for parameters in self.unit_parameters for p in parameters):
            if id(p) not in in_optimizer or (id(p) not in in_model and not hasattr(p, "device_mesh")):
                what = "Model or optimizer hold other parameters than when LISA was built"
                raise ValueError(f"{what}. Build LISA last, after fully_shard, accelerator.prepare or peft.")

    def _settings(self) -> dict[str, Any]:
        numbers = {"gamma": self.gamma, "period_steps": self.period_steps, "seed": self.seed}
        draws = {"sampler": self.sampler, "weights": self.weights, "state": self.state, "units": list(self.units)}
        return {**numbers, **draws, **self._always_on}

    def _gathered(self) -> dict[str, Any]:
        return {} if self._norms is None else self._norms.state_dict()


def check_arguments(
    gamma: int,
    period_steps: int,
    *,
    sampler: str = "uniform",
    weights: Sequence[float] | None = None,
    state: str = "drop",
    embeddings: str = "on",
    head: str = "on",
    norm: str = "on",
    layers: str | None = None,
) -> None:
    """Raise ValueError for arguments of `LISA` that are wrong for any model, before there is one."""
    for name, number in (("gamma", gamma), ("period_steps", period_steps)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            what = {"gamma": "the number of layers drawn each period", "period_steps": "the steps between two draws"}
            raise ValueError(f"{name}, {what[name]}, is {number!r}; legal: a whole number, at least 1.")
    check_sampler(sampler)
    check_state(state)
    check_sampler_weights(sampler, weights, len(weights or ()))
    for name, choice in {"embeddings": embeddings, "head": head, "norm": norm}.items():
        if choice not in CHOICES:
            raise ValueError(f"{name} is {choice!r}; legal: {', '.join(CHOICES)}.")
    if sampler == "independent" and embeddings == head == norm == "off":
        raise ValueError(f"{MAY_BE_EMPTY} Leave head or norm on.")


def check_tied(embeddings: str, head: str) -> None:
    """Raise ValueError unless embeddings and head, one matrix, are chosen alike."""
    if embeddings != head:
        raise ValueError(f"Embeddings and head are one matrix, but embeddings={embeddings!r} and head={head!r}.")


def check_seed(seed: int) -> None:
    """Raise ValueError unless `seed` is a whole number."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; legal: a whole number.")


def check_step(step: int) -> int:
    """`step`; raise ValueError unless it is a whole number, at least 0."""
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"The optimizer step is {step!r}; legal: a whole number, at least 0.")
    return step


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


def _check_trainable(
    units: dict[str, list[nn.Parameter]], always: dict[str, list[nn.Parameter]], optimizer: Optimizer
) -> None:
    """What was frozen before LISA, or before the optimizer, was built would silently never train: refuse."""
    advice = "Build the optimizer over all parameters, then LISA, which does the freezing"
    frozen = [name for name, parameters in units.items() if not parameters]
    if frozen:
        again = "; where another LISA has frozen layers, call model.requires_grad_(True) first"
        raise ValueError(f"No parameter of {', '.join(frozen)} requires a gradient. {advice}{again}.")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    unknown = [name for name, part in (units | always).items() if any(id(p) not in held for p in part)]
    if unknown:
        raise ValueError(f"The optimizer does not hold all parameters of {', '.join(unknown)}. {advice}.")


def _check_something_trains(
    model: nn.Module, units: list[list[nn.Parameter]], off: list[nn.Parameter], sampler: str
) -> None:
    """A draw of no layer at all would leave a backward without anything to do."""
    not_always = {id(p) for parameters in [*units, off] for p in parameters}
    always = any(p.requires_grad and id(p) not in not_always for p in model.parameters())
    if sampler == "independent" and not always:
        raise ValueError(f"{MAY_BE_EMPTY} Leave head or norm on.")
