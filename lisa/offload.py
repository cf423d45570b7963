"""Optimizer state of frozen parameters in host memory: parked when they are frozen, fetched when they are drawn again.

The state never leaves `optimizer.state`; it only lies on the CPU there while its parameter is frozen, where no step
touches it. So `optimizer.state_dict()` is always complete. On CUDA the host memory is pinned and copies run on a stream
of their own: parking goes on under the next forward, and only the first optimizer step waits for what was fetched. On
a CPU there is nothing to move: "offload" is then "keep".

The idea of layer-wise offloading beside a layer-wise draw is GRASS's (arXiv 2604.07808).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class HostMemory:
    """Moves the optimizer state of single parameters between their device and host memory.

    Args:
        optimizer: whose state it is.
        parameters: all that may ever be parked. State that is loaded for one of them stays in host memory until it is
            fetched: loading must not fill the device with what parking keeps off it.

    Raises:
        ValueError: a parameter is on a device other than CPU and CUDA, or sharded on CUDA.
    """

    def __init__(self, optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
        self.optimizer = optimizer
        self.parameters = list(parameters)
        _check_devices(self.parameters)
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._loading: dict[nn.Parameter, dict[str, Any]] = {}
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._wait_on_device()),
            optimizer.register_state_dict_pre_hook(lambda *_: self._wait_on_host()),
            optimizer.register_load_state_dict_pre_hook(self._take_out),
            optimizer.register_load_state_dict_post_hook(self._put_back),
        ]

    def close(self) -> None:
        """Take the hooks off the optimizer, all copies done; what is parked stays parked."""
        self._wait_on_device()
        self._wait_on_host()
        for hook in self._hooks:
            hook.remove()

    def park(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the state of `parameters` to host memory; what lies there already, and single numbers, stay."""
        for parameter in parameters:
            state = self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if _is_moments(value) and value.is_cuda:
                    state[name] = self._to_host(value)

    def fetch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the state of `parameters` back to where they are; it is there before the next optimizer step."""
        for parameter in parameters:
            state = self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if _is_moments(value) and value.device != parameter.device:
                    state[name] = self._to_device(value, parameter.device)

    def _to_host(self, value: Tensor) -> Tensor:
        stream = self._stream(value.device)
        stream.wait_stream(torch.cuda.current_stream(value.device))  # the step that wrote it
        host = _host_like(value, pinned=True)
        with torch.cuda.stream(stream):
            host.copy_(value, non_blocking=True)
        value.record_stream(stream)  # its memory is not given away before the copy has read it
        return host

    def _to_device(self, host: Tensor, device: torch.device) -> Tensor:
        value = torch.empty_strided(host.size(), host.stride(), dtype=host.dtype, device=device)
        stream = self._stream(device)  # one stream for both directions: parking is over before fetching begins
        stream.wait_stream(torch.cuda.current_stream(device))  # whoever had this memory before
        with torch.cuda.stream(stream):
            value.copy_(host, non_blocking=True)
        value.record_stream(stream)
        return value

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def _wait_on_device(self) -> None:
        """Kernels launched from here on run after all copies; the host does not wait."""
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)

    def _wait_on_host(self) -> None:
        """The host waits: it is about to read what was parked."""
        for stream in self._streams.values():
            stream.synchronize()

    def _take_out(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Before loading: torch would move all moments to their parameters' device; ours are put back afterwards."""
        in_order = [p for group in optimizer.param_groups for p in group["params"]]
        indices = [index for group in state_dict["param_groups"] for index in group["params"]]
        ours = {id(p) for p in self.parameters}
        pairs = zip(indices, in_order, strict=False)  # torch compares the lengths
        named = {index: p for index, p in pairs if id(p) in ours}
        saved = state_dict["state"]
        self._loading = {p: _moments_on_host(saved[index], p) for index, p in named.items() if index in saved}
        rest = {
            index: {name: value for name, value in state.items() if not (index in named and _is_moments(value))}
            for index, state in saved.items()
        }
        return {**state_dict, "state": rest}

    def _put_back(self, optimizer: Optimizer) -> None:
        for parameter, moments in self._loading.items():
            optimizer.state[parameter].update(moments)
        self._loading = {}


def _is_moments(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 1  # a single number is a step count, which stays where it is


def _moments_on_host(state: dict[str, Any], parameter: nn.Parameter) -> dict[str, Tensor]:
    """Copies in host memory of the moments saved for one parameter, pinned if a GPU will fetch them."""
    saved = {name: value for name, value in state.items() if _is_moments(value)}
    return {name: _host_like(value, pinned=parameter.is_cuda).copy_(value) for name, value in saved.items()}


def _host_like(value: Tensor, pinned: bool) -> Tensor:
    return torch.empty_like(value, device="cpu", pin_memory=pinned)


def _check_devices(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        if parameter.device.type not in ("cpu", "cuda"):
            raise ValueError(f"state='offload' moves moments from CUDA devices; a parameter is on {parameter.device}.")
        if parameter.is_cuda and hasattr(parameter, "device_mesh"):
            raise ValueError("state='offload' does not move sharded moments. Use state='drop' under fully_shard.")
