"""Many devices: FSDP2 (`torch.distributed.fsdp.fully_shard`) is what LISA trains under; the others are refused here.

FSDP2 shards every parameter for itself and looks at `requires_grad` in each forward, so layers are redrawn in place;
over a mesh that only replicates it is plain data parallelism. DistributedDataParallel, FSDP1 and DeepSpeed ZeRO-3 all
settle, when they wrap a model, which of its parameters train. Every rank draws the same layers, since a draw is a
function of the seed and the period alone.
"""

from __future__ import annotations

from typing import Any

import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

INSTEAD = (
    "Use FSDP2: torch.distributed.fsdp.fully_shard on every decoder layer and on the model; with "
    'init_device_mesh(device, (ranks, 1), mesh_dim_names=("replicate", "shard")) it is plain data parallelism.'
)
DDP_WAITS = "its reducer waits for a gradient of every parameter that required one when it was built"


def refuse_unsupported(model: nn.Module) -> None:
    """Raise ValueError if layers of `model` cannot be frozen and redrawn in place, on one device or on many.

    Raises:
        ValueError: `model`, or a module inside it, is a DistributedDataParallel or an FSDP1
            FullyShardedDataParallel; or DeepSpeed ZeRO-3 has partitioned its parameters.
    """
    for module in model.modules():
        names = {kind.__name__ for kind in type(module).__mro__}  # by name: importing FSDP1 to ask takes half a second
        if "DistributedDataParallel" in names:
            raise ValueError(_cannot_redraw("DistributedDataParallel", DDP_WAITS))
        if "FullyShardedDataParallel" in names:
            why = "it joins the weights it wraps to one flat parameter, which trains as a whole or not at all"
            raise ValueError(_cannot_redraw("FullyShardedDataParallel (FSDP1)", why))
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        why = "its optimizer holds flat partitions of all parameters that required a gradient when it was built"
        raise ValueError(_cannot_redraw("DeepSpeed ZeRO-3", why))


def watch_for_ddp(model: nn.Module) -> RemovableHandle | None:
    """In a distributed run, raise ValueError at the first forward of `model` within a DistributedDataParallel.

    For one that is wrapped around the model later. It would fail after a redraw, with torch's "Expected to have
    finished reduction in the prior iteration". Removing the returned handle ends the watch.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return model.register_forward_pre_hook(_refuse_ddp)
    return None


def _refuse_ddp(module: nn.Module, arguments: Any) -> None:
    if getattr(DistributedDataParallel, "_active_ddp_module", None) is not None:
        raise ValueError(_cannot_redraw("DistributedDataParallel", DDP_WAITS))


def _cannot_redraw(what: str, why: str) -> str:
    return f"LISA cannot redraw layers under {what}: {why}. {INSTEAD}"
