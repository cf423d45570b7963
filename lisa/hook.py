"""When: `LISA` redraws the active layers every `period_steps` optimizer steps of any training loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lisa.adaptive import GradientNorms
from lisa.arguments import (
    check_arguments,
    check_sampler_weights,
    check_seed,
    check_something_trains,
    check_step,
    check_tied,
    check_trainable,
)
from lisa.distributed import refuse_unsupported, watch_for_ddp
from lisa.layers import parts
from lisa.offload import HostMemory
from lisa.sampling import (
    check_gamma,
    draw_adaptive,
    draw_independent,
    draw_uniform,
    draw_weighted,
    inclusion_probabilities,
)
from lisa.switch import activate


class LISA:
    """Layerwise importance sampled AdamW (Pan et al. 2024, arXiv 2403.17919 v3, Algorithm 1).

    The defaults are the paper's: embeddings, final norm and LM head train always, and exactly `gamma` decoder layers,
    drawn uniformly, at a time. Which units are active follows from the step (with the adaptive sampler, also from the
    gradients so far), so a run resumes at any step, in the middle of a period too.

    Args:
        model: a decoder-only model, nothing of which is frozen yet. In a layer that is partly frozen (adapters on
            frozen weights), what requires a gradient now is what LISA switches.
        optimizer: built over all parameters that will ever train; it is never rebuilt. accelerate's wrapper will do.
        gamma: units active at a time, 0..number of units (the paper: 2 up to 7B, 4 at 70B); with the independent
            sampler, on average. 0, the row "E+H" of the paper's table 1, leaves what trains always.
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
        weights: one a unit, which the independent and the weighted sampler draw by; new ones count from the next draw.

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
        check_trainable(dict(zip(self.units, self.unit_parameters, strict=True)), always, optimizer)
        check_something_trains(model, self.unit_parameters, off, gamma, sampler)

        for parameter in off:
            parameter.requires_grad_(False)
            parameter.grad = None
            optimizer.state.pop(parameter, None)
        in_units = [p for parameters in self.unit_parameters for p in parameters]
        self._host = HostMemory(optimizer, in_units) if state == "offload" else None
        self._norms = GradientNorms(self.unit_parameters, optimizer) if sampler == "adaptive" else None
        self._ddp_watch = watch_for_ddp(model)
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
        """Take LISA's hooks off model and optimizer. `requires_grad` stays as it is: before another LISA is built over
        the model, call `model.requires_grad_(True)`."""
        for part in (self._norms, self._host):
            if part is not None:
                part.close()
        if self._ddp_watch is not None:
            self._ddp_watch.remove()

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


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside accelerate's AcceleratedOptimizer, whose own hooks are never called."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, Optimizer) else optimizer
