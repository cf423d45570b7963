"""What each process of test_fsdp2.py runs: the same few functions, with a device mesh or, as reference, without one.

All of them return plain numbers and strings, which travel between processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from lisa import LISA, decoder_layers
from lisa.checkpoint import load, save
from lisa.compile import compile_layers
from tests.models import batch, tiny_llama

PERIOD = 3
STEPS = 4 * PERIOD
MAX_GRAD_NORM = 1.0
Mesh = tuple[int, ...] | None  # (2,): sharded over two ranks; (2, 1): replicated on two; None: one process


@dataclass
class Run:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    lisa: LISA
    schedule: torch.optim.lr_scheduler.LambdaLR
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    loss: float  # mean over the global batch
    grad_norm: float  # before clipping
    active: tuple[str, ...]  # units
    state_bytes: int  # of this rank
    holding: set[str]  # parameters with optimizer state
    moved: set[str]  # parameters of which this rank's share is not what it was before the step


def join(rank: int, ranks: int, rendezvous: str) -> None:
    """Make this process one of a group; one that is left alone by a failed other gives up in time."""
    torch.set_num_threads(1)
    where = {"init_method": f"file://{rendezvous}", "rank": rank, "world_size": ranks}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **where)


def trained(mesh: Mesh, settings: dict[str, Any], parts: int = 1, **model: bool) -> list[Step]:
    """A run from step 0; each step's batch in `parts` parts, whose gradients are accumulated."""
    run = start(mesh, settings, **model)
    train(run, 0, STEPS, parts)
    return run.steps


def graphs_after_each_period(mesh: Mesh) -> list[int]:
    """How many graphs torch.compile has made, layer by layer, by the end of each period."""
    torch._dynamo.reset()
    counters.clear()
    run, graphs = start(mesh, {}, compiled=True), []
    for begin in range(0, STEPS, PERIOD):
        train(run, begin, begin + PERIOD)
        graphs.append(counters["stats"]["unique_graphs"])
    return graphs


def saved_at(
    mesh: Mesh, settings: dict[str, Any], folder: Path, stops: list[int]
) -> tuple[list[Step], dict[int, dict[str, str]], dict[str, str]]:
    """An uninterrupted run that writes a checkpoint before each step of `stops`; fingerprints there and at its end."""
    run, fingerprints = start(mesh, settings), {}
    for begin, stop in zip([0, *stops], [*stops, STEPS], strict=True):
        train(run, begin, stop)
        if stop in stops:
            fingerprints[stop] = fingerprint(run)
            save(folder / str(stop), run.model, run.optimizer, run.lisa, schedule=run.schedule)
    return run.steps, fingerprints, fingerprint(run)


def resumed_at(mesh: Mesh, settings: dict[str, Any], folder: Path, stop: int) -> tuple[list[Step], dict, dict]:
    """Another run of other weights that takes up the checkpoint; fingerprints right then and at its end."""
    run = start(mesh, settings, seed=1)
    load(folder / str(stop), run.model, run.optimizer, run.lisa, schedule=run.schedule)
    loaded = fingerprint(run)
    train(run, stop, STEPS)
    return run.steps, loaded, fingerprint(run)


def start(mesh: Mesh, settings: dict[str, Any], seed: int = 0, tied: bool = False, compiled: bool = False) -> Run:
    model = tiny_llama(seed=seed, tied=tied)
    if compiled:
        compile_layers(model, backend="aot_eager")
    if mesh is not None:
        names = ("replicate", "shard") if len(mesh) == 2 else ("shard",)
        devices = init_device_mesh("cpu", mesh, mesh_dim_names=names)
        for layer in decoder_layers(model):
            fully_shard(layer, mesh=devices)
        fully_shard(model, mesh=devices)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    lisa = LISA(model, optimizer, **{"gamma": 2, "period_steps": PERIOD, "seed": 0, **settings})
    return Run(model, optimizer, lisa, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.05 * step)))


def train(run: Run, begin: int, end: int, parts: int = 1) -> None:
    parameters = dict(run.model.named_parameters())
    for step in range(begin, end):
        run.lisa.before_step(step)
        before = {name: share(p).clone() for name, p in parameters.items()}
        loss = backward(run.model, step, parts)
        norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), MAX_GRAD_NORM)
        run.optimizer.step()
        run.schedule.step()
        run.optimizer.zero_grad()
        state = run.optimizer.state
        run.steps.append(
            Step(
                loss=loss,
                grad_norm=whole(norm).item(),
                active=tuple(run.lisa.units[index] for index in run.lisa.active),
                state_bytes=sum(share(t).nbytes for tensors in state.values() for t in tensors.values()),
                holding={name for name, p in parameters.items() if p in state},
                moved={name for name, p in parameters.items() if not torch.equal(share(p), before[name])},
            )
        )


def backward(model: nn.Module, step: int, parts: int) -> float:
    """Gradients of the mean loss over the global batch, of which every rank takes as many rows; returns that loss."""
    ranks = dist.get_world_size() if isinstance(model, FSDPModule) else 1
    rows = batch(step).chunk(ranks)[dist.get_rank() if ranks > 1 else 0]  # (4 / ranks, 12)
    total = torch.zeros(())
    for index, tokens in enumerate(rows.chunk(parts)):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(index == parts - 1)  # ranks exchange gradients once a step
        loss = model(input_ids=tokens, labels=tokens).loss / parts
        loss.backward()
        total += loss.detach()
    if ranks > 1:
        dist.all_reduce(total)
    return total.item() / ranks


def fingerprint(run: Run) -> dict[str, str]:
    """A hash of every weight and of every tensor of optimizer state, put together from all ranks."""
    tensors = dict(run.model.named_parameters())
    tensors |= {f"{name} {key}": t for name, p in tensors.items() for key, t in run.optimizer.state.get(p, {}).items()}
    hashes = {name: hashlib.sha256(whole(t).numpy().tobytes()).hexdigest() for name, t in tensors.items()}
    return hashes | {"schedule": str(run.schedule.last_epoch)}


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from all ranks, each of which calls this."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def share(tensor: Tensor) -> Tensor:
    """What of the tensor lies on this rank."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()
