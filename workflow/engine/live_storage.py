"""Live tensor storage, counted at every operator: what the allocator would hold, split by the role each tensor plays.

    ledger = LiveStorage("cpu")
    ledger.watch(model, optimizer)          # weights, gradients and optimizer state that exist already
    with ledger:                            # every operator of forward, backward and optimizer step is seen
        with ledger.forward():              # what this leaves behind is what backward needs: activations
            loss = model(**batch).loss
        loss.backward(); optimizer.step(); optimizer.zero_grad()
    ledger.peak_bytes, ledger.peak_by_role, ledger.peak_operator

A storage counts once however many tensors view it, from the operator that made it until its last owner lets go
(a weak reference says when). It has one role for its whole life, found late but applied from birth, also in peaks that
are past: a tensor that ends up in `parameter.grad` was a gradient when the backward operator allocated it.

weights          parameters and buffers of the watched model, adapters included
gradients        storages in `parameter.grad` when an optimizer step begins, or when counting begins or ends
optimizer_state  every tensor reachable from `optimizer.state`, also inside other objects (GaLore's projectors)
activations      made in a `forward()` and still alive when it ended: what backward needs
temporaries      all else that operators make: passing tensors of the forward, gradients of activations, layers that
                 checkpointing computes again, the optimizer step's own; outside a `forward()`, the forward's too
other            tensors made before counting or in Python (the batch)

Not seen: scratch memory inside one kernel, rounding and fragmentation of the allocator, `storage.resize_` outside an
operator, operators of other Python threads, and tensors no operator makes or reads (the generator states that
checkpointing saves: 5 kB a layer). Only sizes are asked for, so fake tensors can be counted too.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

ROLES = ("weights", "gradients", "optimizer_state", "activations", "temporaries", "other")
WEIGHTS, GRADIENTS, OPTIMIZER_STATE, ACTIVATIONS, TEMPORARIES, OTHER = range(len(ROLES))

# Bytes are counted at moments, numbered from 1: after every operator, after every scan, when a new peak begins.


@dataclass(eq=False)
class Peak:
    """The largest number of bytes alive at one moment of some stretch; its roles follow what is found out later."""

    bytes: int
    roles: list[int]  # bytes by ROLES
    moment: int
    maker: Any = None  # the operator; None where the peak stood when the stretch began, or was found and not made

    @property
    def by_role(self) -> dict[str, int]:
        """`bytes`, split by role; sums to it exactly."""
        return dict(zip(ROLES, self.roles, strict=True))

    @property
    def operator(self) -> str | None:
        """The operator that reached it, as "aten.mm.default"; None if no operator of the stretch did."""
        return None if self.maker is None else str(self.maker)


class Life(NamedTuple):
    """A storage's moments, from the first to the last at which it was alive."""

    born: int
    died: int
    nbytes: int
    role: int


class _Entry(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to one storage, with what the ledger knows about it."""

    __slots__ = ("born", "key", "nbytes", "role")
    born: int  # the first moment at which it counts
    key: int
    nbytes: int
    role: int


class LiveStorage(TorchDispatchMode):
    """Ledger of the live storages on one kind of device ("cpu", "cuda"); entering it turns the counting on.

    Between two entries frees are noticed and new storages are not; entering again finds those of the watched model and
    optimizer. It cannot be entered twice at once.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.model: nn.Module | None = None
        self.optimizer: Optimizer | None = None
        self._entries: dict[int, _Entry] = {}
        self._bytes = [0] * len(ROLES)
        self.moments = 0
        self._lives: list[Life] | None = None
        self._peaks: weakref.WeakSet[Peak] = weakref.WeakSet()  # all that somebody still holds
        self._hooks: list[Any] = []
        self.reset_peak()

    @property
    def live_bytes(self) -> int:
        """Bytes of all storages known and alive now."""
        return sum(self._bytes)

    @property
    def live_by_role(self) -> dict[str, int]:
        """`live_bytes`, split by role."""
        return dict(zip(ROLES, self._bytes, strict=True))

    @property
    def peak_bytes(self) -> int:
        """The largest `live_bytes` since the peak was last reset."""
        return self.peak.bytes

    @property
    def peak_by_role(self) -> dict[str, int]:
        """`peak_bytes`, split by role; sums to it exactly."""
        return self.peak.by_role

    @property
    def peak_operator(self) -> str | None:
        """The operator that reached `peak_bytes`; None if that stood when the peak was reset."""
        return self.peak.operator

    def reset_peak(self) -> None:
        """Start a new `peak` from what is alive now; whoever holds the old one sees its roles follow."""
        self.moments += 1
        self.peak = Peak(self.live_bytes, list(self._bytes), self.moments)
        self._peaks.add(self.peak)

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """What operators make in here and is alive at the end becomes activations, from birth."""
        start = self.moments
        try:
            yield
        finally:
            for entry in list(self._entries.values()):
                if entry.born > start and entry.role == TEMPORARIES:
                    self._relabel(entry, ACTIVATIONS)

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Life]]:
        """The lives of all storages that are alive at some moment in here; complete once it is left.

        A storage that is resized counts as if it always had its last size.
        """
        self._lives = lives = []
        try:
            yield lives
        finally:
            self._lives = None
            lives += [Life(e.born, self.moments, e.nbytes, e.role) for e in list(self._entries.values())]

    def watch(self, model: nn.Module | None, optimizer: Optimizer | None = None) -> None:
        """Take the roles from this model and optimizer, and count their tensors from now on."""
        self.model, self.optimizer = model, optimizer
        self._scan()

    def __enter__(self) -> LiveStorage:
        self._scan()
        self._hooks = [
            register_optimizer_step_pre_hook(self._before_optimizer_step),
            register_optimizer_step_post_hook(self._after_optimizer_step),
        ]
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()
        self._scan()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note_all(args, OTHER)
        if kwargs:
            self._note_all(kwargs.values(), OTHER)
        result = func(*args, **(kwargs or {}))
        self._note_all((result,), TEMPORARIES)
        self._count(func)
        return result

    def _note_all(self, values: Any, role: int) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                self._note(value, role)
            elif isinstance(value, list | tuple):
                self._note_all(value, role)

    def _note(self, tensor: torch.Tensor, role: int) -> _Entry | None:
        """The tensor's entry, made with `role` if its storage is new, its size corrected if it was resized."""
        if tensor.device.type != self.device_type or tensor.layout is not torch.strided:
            return None
        storage = tensor.untyped_storage()
        entry = self._entries.get(storage._cdata)
        if entry is None:
            entry = self._add(storage, role)
        elif entry.nbytes != storage.nbytes():
            self._bytes[entry.role] += storage.nbytes() - entry.nbytes
            entry.nbytes = storage.nbytes()
        return entry

    def _add(self, storage: torch.UntypedStorage, role: int) -> _Entry:
        entry = _Entry(storage, self._remove)
        entry.key, entry.nbytes, entry.role, entry.born = storage._cdata, storage.nbytes(), role, self.moments + 1
        self._entries[entry.key] = entry
        self._bytes[role] += entry.nbytes
        return entry

    def _remove(self, entry: _Entry) -> None:
        """Called by the interpreter when the storage dies."""
        del self._entries[entry.key]
        self._bytes[entry.role] -= entry.nbytes
        if self._lives is not None and entry.born <= self.moments:
            self._lives.append(Life(entry.born, self.moments, entry.nbytes, entry.role))
        entry.nbytes = 0  # whoever is relabelling it just now moves nothing

    def _count(self, maker: Any = None) -> None:
        """End the moment: everything known and alive now was alive in it."""
        self.moments += 1
        live, peak = sum(self._bytes), self.peak
        if live > peak.bytes:
            peak.bytes, peak.roles, peak.moment, peak.maker = live, list(self._bytes), self.moments, maker

    def _assign(self, tensor: torch.Tensor, role: int) -> None:
        """Give the tensor's storage its true role. Weights stay weights."""
        entry = self._note(tensor, role)
        if entry is not None and entry.role not in (role, WEIGHTS):
            self._relabel(entry, role)

    def _relabel(self, entry: _Entry, role: int) -> None:
        """Change the role of a living storage, also in every peak since its birth: it was alive there."""
        self._bytes[entry.role] -= entry.nbytes
        self._bytes[role] += entry.nbytes
        for peak in self._peaks:
            if entry.born <= peak.moment:
                peak.roles[entry.role] -= entry.nbytes
                peak.roles[role] += entry.nbytes
        entry.role = role

    def _scan(self) -> None:
        """Find and label everything the watched model and optimizer hold."""
        if self.model is not None:
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                self._assign(tensor, WEIGHTS)
            self._assign_gradients(self.model.parameters())
        if self.optimizer is not None:
            self._assign_state(self.optimizer)
        self._count()

    def _assign_gradients(self, parameters: Any) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                self._assign(parameter.grad, GRADIENTS)

    def _assign_state(self, optimizer: Optimizer) -> None:
        for tensor in tensors_in(dict(optimizer.state)):
            self._assign(tensor, OPTIMIZER_STATE)

    def _before_optimizer_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in optimizer.param_groups:
            self._assign_gradients(group["params"])

    def _after_optimizer_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._assign_state(optimizer)


def tensors_in(value: Any, _seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Every tensor reachable from `value` through mappings, sequences and the attributes of plain objects."""
    seen = set() if _seen is None else _seen
    if id(value) in seen or isinstance(value, str | bytes | int | float | type | None):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        parts: Any = value.values()
    elif isinstance(value, list | tuple | set):
        parts = value
    else:
        parts = getattr(value, "__dict__", {}).values()
    for part in parts:
        yield from tensors_in(part, seen)
