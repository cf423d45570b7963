"""LISA on many devices with FSDP2: train, save in the middle of a period, resume.

    torchrun --nproc_per_node 2 examples/fsdp2_lisa.py              # weights, gradients and moments sharded
    torchrun --nproc_per_node 2 examples/fsdp2_lisa.py --replicate  # plain data parallelism: every rank holds them all

A tiny random Llama, some seconds on CPUs (gloo); on GPUs (nccl) the same. LISA needs no settings for it: the draw is a
function of the seed and the period, so all ranks draw the same layers. DistributedDataParallel is refused: it waits for
the gradients of layers that have been frozen since.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run from a clone that is not installed
from lisa import LISA, decoder_layers
from lisa.checkpoint import load, save

STEPS, PERIOD_STEPS, GAMMA = 12, 3, 2
CHECKPOINT_STEP = 7  # in the middle of the third period
ROWS, TOKENS, VOCABULARY = 8, 32, 64  # of the global batch


class Run(NamedTuple):
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    lisa: LISA


def build(mesh: DeviceMesh, seed: int) -> Run:
    """In this order: model, sharding, optimizer over all parameters, LISA."""
    torch.manual_seed(seed)
    # model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B", dtype=torch.bfloat16)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 6}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes)).to(mesh.device_type)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)  # embeddings, final norm and head
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return Run(model, optimizer, schedule, LISA(model, optimizer, gamma=GAMMA, period_steps=PERIOD_STEPS, seed=0))


def train(run: Run, begin: int, end: int) -> list[float]:
    """Losses of the steps `begin` to `end`, over the global batch."""
    model, optimizer, schedule, lisa = run
    losses = []
    for step in range(begin, end):
        lisa.before_step(step)
        tokens = my_rows(step).to(model.device)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(mean_over_ranks(loss))
        held = gathered(state_bytes(optimizer))
        say(f"step {step:2}  {layers_of(lisa)}  loss {losses[-1]:.4f}  optimizer state on each rank {held} bytes")
    return losses


def my_rows(step: int) -> Tensor:
    """This rank's rows of the step's batch, (ROWS / ranks, TOKENS): sequences that count up, each from anywhere."""
    first = torch.randint(VOCABULARY, (ROWS, 1), generator=torch.Generator().manual_seed(step))
    return ((first + torch.arange(TOKENS)) % VOCABULARY).chunk(dist.get_world_size())[dist.get_rank()]


def main(replicate: bool) -> None:
    if "RANK" not in os.environ:
        sys.exit("Start it with torchrun: torchrun --nproc_per_node 2 examples/fsdp2_lisa.py")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    ranks = dist.get_world_size()
    shape = (ranks, 1) if replicate else (1, ranks)
    mesh = init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard"))

    with tempfile.TemporaryDirectory() as own:
        folder = from_rank_0(own)  # with several hosts: on a file system that they share
        # Without a break, but for a checkpoint on the way.
        whole = build(mesh, seed=0)
        train(whole, 0, CHECKPOINT_STEP)
        save(folder, whole.model, whole.optimizer, whole.lisa, schedule=whole.schedule)
        expected = train(whole, CHECKPOINT_STEP, STEPS)

        # What a new process would do: build as before, load, go on with before_step of the step that comes next.
        say(f"resumed at step {CHECKPOINT_STEP}")
        resumed = build(mesh, seed=1)
        load(folder, resumed.model, resumed.optimizer, resumed.lisa, schedule=resumed.schedule)
        losses = train(resumed, CHECKPOINT_STEP, STEPS)

    off_losses = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
    off_weights = max(gathered(largest_difference(whole.model, resumed.model)))
    say(f"largest difference to the run without a break: losses {off_losses}, weights {off_weights}")
    dist.barrier()  # no rank takes its connections down while another still uses them
    dist.destroy_process_group()


def layers_of(lisa: LISA) -> str:
    return ", ".join(lisa.units[index] for index in lisa.active)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Of this rank: its shares of the moments, and the step counts."""
    tensors = [t for state in optimizer.state.values() for t in state.values()]
    return sum(share(t).nbytes for t in tensors)


def largest_difference(model: nn.Module, other: nn.Module) -> float:
    """Between the weights on this rank."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((share(a) - share(b)).abs().max().item() for a, b in pairs)


def share(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this rank."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def mean_over_ranks(loss: Tensor) -> float:
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def gathered(value: float) -> list[float]:
    values: list[float] = [0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(value: str) -> str:
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicate", action="store_true", help="replicate instead of shard")
    main(parser.parse_args().replicate)
