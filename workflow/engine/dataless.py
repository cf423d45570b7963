"""Tensors without data: inside `dataless()` every new tensor has shape, dtype and storage size, and holds nothing.

    with dataless():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)   # LLaMA-2-70B in seconds
        model(input_ids=ids, labels=ids).loss.backward()      # every operator runs, none computes

It is torch's FakeTensorMode on the CPU (fake CUDA tensors abort a CPU build of torch at the first autograd operator),
with answers where a program asks for data: a number read from a tensor is 1, two tensors of one shape are equal, and a
boolean mask selects every position. Optimizer state that LISA parks in host memory goes to the "meta" device, where
nothing on the "cpu" counts it: on a GPU it would be gone from the device.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lisa.offload import HostMemory

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


@contextlib.contextmanager
def dataless() -> Iterator[None]:
    """Within, tensors are made and used without data; not to be entered within itself."""
    with _disable_current_modes():  # which imports what it needs when it is first used
        pass
    with (
        FakeTensorMode(),
        _Answers(),
        patch.object(importlib.machinery.SourceFileLoader, "exec_module", _exec_module),
        patch.object(nn.Module, "_apply", _apply),
        patch.object(HostMemory, "park", _park),
        patch.object(HostMemory, "fetch", _fetch),
    ):
        yield


class _Answers(TorchDispatchMode):
    """Answers the operators whose result, or its shape, depends on data."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func in (aten.equal.default, aten.allclose.default):
            return args[0].shape == args[1].shape
        if func in INDEXING:
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        return func(*args, **(kwargs or {}))


def _places(index: Tensor | None) -> list[Tensor | None]:
    """The index, or in place of a mask the positions of all its elements, one tensor a dimension."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device=index.device) for _ in range(index.dim())]


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply`, which `.to()` and `.float()` call, for tensors that cannot be put into a Parameter's place.

    A parameter that changes is replaced, wherever it stands: shared ones stay shared.
    """
    changed: dict[int, nn.Parameter] = {}
    for part in module.modules() if recurse else (module,):
        for name, parameter in part._parameters.items():
            if parameter is None:
                continue
            with torch.no_grad():
                applied = fn(parameter)
            if applied is not parameter and _differs(applied, parameter):
                made = changed.setdefault(id(parameter), nn.Parameter(applied, parameter.requires_grad))
                part._parameters[name] = made
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fn(buffer)
    return module


def _exec_module(loader: importlib.machinery.SourceFileLoader, module: ModuleType) -> None:
    """Modules first imported within are executed with data: tensors that they make as constants outlive the mode."""
    with _disable_current_modes():
        super(importlib.machinery.SourceFileLoader, loader).exec_module(module)


def _park(host: HostMemory, parameters: Iterable[nn.Parameter]) -> None:
    _move(host, ((parameter, "meta") for parameter in parameters))


def _fetch(host: HostMemory, parameters: Iterable[nn.Parameter]) -> None:
    _move(host, ((parameter, parameter.device) for parameter in parameters))


def _move(host: HostMemory, places: Iterable[tuple[nn.Parameter, torch.device | str]]) -> None:
    """Put the moments of each parameter to its place; single numbers stay."""
    for parameter, place in places:
        state = host.optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.device != torch.device(place):
                state[name] = torch.empty_like(value, device=place)


def _differs(new: Tensor, old: Tensor) -> bool:
    return (new.dtype, new.device, new.shape) != (old.dtype, old.device, old.shape)
