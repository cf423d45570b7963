"""What `LISA` accepts: every check raises ValueError with the argument, its value and what is legal.

`check_arguments` knows no model, so that a configuration can be refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from lisa.sampling import check_sampler, check_weights
from lisa.switch import check_state

CHOICES = ("on", "off", "drawn")  # for what is outside the decoder layers


def check_arguments(
    gamma: int,
    period_steps: int,
    *,
    sampler: str,
    weights: Sequence[float] | None,
    state: str,
    embeddings: str,
    head: str,
    norm: str,
) -> None:
    """Raise ValueError for arguments of `LISA` that are wrong for any model, before there is one."""
    _check_whole("gamma, the number of layers drawn each period,", gamma, least=0)
    _check_whole("period_steps, the steps between two draws,", period_steps, least=1)
    check_sampler(sampler)
    check_state(state)
    check_sampler_weights(sampler, weights, len(weights or ()))
    for name, choice in {"embeddings": embeddings, "head": head, "norm": norm}.items():
        if choice not in CHOICES:
            raise ValueError(f"{name} is {choice!r}; legal: {', '.join(CHOICES)}.")
    _check_not_empty(gamma, sampler, always="on" in (embeddings, head, norm))


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


def check_trainable(
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


def check_something_trains(
    model: nn.Module, units: list[list[nn.Parameter]], off: list[nn.Parameter], gamma: int, sampler: str
) -> None:
    """Raise ValueError if a draw can leave nothing in `model` that trains."""
    not_always = {id(p) for parameters in [*units, off] for p in parameters}
    _check_not_empty(gamma, sampler, any(p.requires_grad and id(p) not in not_always for p in model.parameters()))


def _check_not_empty(gamma: int, sampler: str, always: bool) -> None:
    """A draw of no layer at all, where nothing trains `always`, would leave a backward without anything to do."""
    if not always and (gamma == 0 or sampler == "independent"):
        draw = "gamma=0 draws no layer" if gamma == 0 else "sampler='independent' may draw no layer"
        raise ValueError(f"{draw}, and nothing trains always. Leave head or norm on.")


def _check_whole(what: str, number: int, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{what} is {number!r}; legal: a whole number, at least {least}.")
