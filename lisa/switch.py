"""Freezing, and what becomes of optimizer state: one function makes a set of units the active one.

A unit is what is drawn as a whole: a decoder layer, or the embeddings, the head or the norm where they are drawn too.
The paper does not say what becomes of the optimizer state of a unit that is frozen again. Four readings exist:

drop     what is frozen loses its state, what stays active keeps its own. The state holds what is active and nothing
         else; a unit drawn again starts with fresh moments. The default. With every layer active nothing is ever
         dropped, so LISA is then full fine-tuning to the bit.
reset    all state is dropped at every draw, that of the units always on too, bias correction included: the authors'
         own runs, each interval a process of its own (LMFlow #729).
keep     nothing is dropped: the authors' public callback. The state grows with every unit visited, to that of full
         fine-tuning.
offload  as `keep`, with the state of what is frozen in host memory (`offload.py`). On a GPU the moments of two active
         sets share it from the switch until the copies are done, when neither activations nor gradients are there.

In all four the optimizer itself is never rebuilt, so learning rate and schedule go on unbroken.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn
from torch.optim import Optimizer

from lisa.offload import HostMemory

STATES = ("drop", "reset", "keep", "offload")


def activate(
    units: Sequence[Sequence[nn.Parameter]],
    active: Collection[int],
    optimizer: Optimizer,
    state: str = "drop",
    host: HostMemory | None = None,
) -> None:
    """Make exactly the units of index `active` trainable; what is in no unit is left as it is.

    The order matters. A gradient left standing, even one of zeros, lets momentum and weight decay go on moving a
    frozen layer: gradients go first. Then units are frozen and their state leaves before others are unfrozen, so that
    the moments of two active sets are not held at once.

    Args:
        units: for each unit, the parameters that train while it is active.
        active: indices into `units`.
        optimizer: holds all of these parameters.
        state: one of STATES, see above.
        host: where state is parked; required for "offload".
    """
    check_state(state)
    wanted = {id(p) for index in active for p in units[index]}
    parameters = [p for unit in units for p in unit]
    frozen = [p for p in parameters if id(p) not in wanted]  # a parameter shared with an active unit stays on
    for parameter in parameters:
        parameter.grad = None
    for parameter in frozen:
        parameter.requires_grad_(False)
    if state == "drop":
        for parameter in frozen:
            optimizer.state.pop(parameter, None)
    elif state == "reset":
        optimizer.state.clear()
    elif state == "offload":
        assert host is not None
        host.park(frozen)
        host.fetch(p for p in parameters if id(p) in wanted)
    for index in active:
        for parameter in units[index]:
            parameter.requires_grad_(True)


def check_state(state: str) -> None:
    """Raise ValueError unless `state` says what becomes of optimizer state at a switch."""
    if state not in STATES:
        raise ValueError(f"Unknown treatment of optimizer state {state!r}. Known: {', '.join(STATES)}.")
