"""Checkpoints of a sharded run: save in the middle of a period, resume on the same or on another number of ranks.

`torch.distributed.checkpoint` (DCP) loads in place, so the optimizer must hold, before it loads, state for exactly the
parameters that had some when the checkpoint was made: under LISA a few layers of one period, or of all so far. Left to
itself DCP makes state for whatever requires a gradient, with a step count of 1 where the checkpoint has nothing to
load. So here only what the checkpoint holds requires a gradient meanwhile; the next `before_step` does the rest.

    save(folder, model, optimizer, lisa, schedule=schedule)  # after the step, by all ranks
    load(folder, model, optimizer, lisa, schedule=schedule)  # in a run built as the first one was; then before_step

The folder holds whole tensors in pieces, so it loads on any mesh, and without one in a single process.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer

from lisa.hook import LISA

Folder = str | os.PathLike[str]


def save(folder: Folder, model: nn.Module, optimizer: Optimizer, lisa: LISA, **others: Stateful) -> None:
    """Write weights, optimizer state, where LISA stands, and `others`; called by all ranks, between two steps.

    Args:
        folder: on a file system that all ranks share.
        model: plain, or sharded with `fully_shard`.
        optimizer: over the parameters of `model`.
        lisa: over both.
        others: what else a run consists of (schedule, data), each with `state_dict` and `load_state_dict`.
    """
    holding = {name for name, parameter in _named(model).items() if parameter in optimizer.state}
    dcp.save({**_parts(model, optimizer, lisa, holding), **others}, checkpoint_id=folder)


def load(folder: Folder, model: nn.Module, optimizer: Optimizer, lisa: LISA, **others: Stateful) -> None:
    """Take back in place what `save` wrote; called by all ranks, after `LISA` was built and before its `before_step`.

    Raises:
        ValueError: the optimizer holds state already; the checkpoint holds state of parameters that are not in
            `model`, or LISA would not go on as it did there.
    """
    if optimizer.state:
        raise ValueError("The optimizer holds state already. Load into a run that has not begun.")
    saved = dcp.FileSystemReader(folder).read_metadata().planner_data
    holding = {path[2] for path in saved.values() if path[:2] == ("optimizer", "state")}
    parts = {**_parts(model, optimizer, lisa, holding), **others}
    dcp.load(parts, checkpoint_id=folder)
    with _only_these_train(model, holding):
        set_state_dict(model, optimizer, model_state_dict=parts["model"], optim_state_dict=parts["optimizer"])
    lisa.load_state_dict(json.loads(parts["lisa"]))


def _parts(model: nn.Module, optimizer: Optimizer, lisa: LISA, holding: Collection[str]) -> dict[str, Any]:
    """What a checkpoint consists of, optimizer state for the parameters named in `holding`."""
    with _only_these_train(model, holding):
        weights, state = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": state, "lisa": json.dumps(lisa.state_dict())}


@contextmanager
def _only_these_train(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Within it, exactly the parameters of these names require a gradient."""
    parameters = _named(model)
    unknown = sorted(set(names) - set(parameters))
    if unknown:
        raise ValueError(f"The checkpoint holds optimizer state of parameters that are not in the model: {unknown}.")
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by the names that DCP gives them: without those of torch's wrappers (compile, checkpointing)."""
    wrappers = re.compile(r"(^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module)\.")
    return {wrappers.sub("", name): parameter for name, parameter in model.named_parameters()}
