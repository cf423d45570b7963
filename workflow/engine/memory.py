"""The memory meter: peak memory of a run by phase and by component, one interface for CPU and CUDA.

    meter = MemoryMeter(device)
    with meter.phase("load"), meter.step():
        model = load()
        meter.watch(model)
    with meter.phase("train", model, optimizer):
        for step in ...:
            with meter.step() if metered else contextlib.nullcontext():
                with meter.part("forward"):  # parts split the training phase, and tell activations from temporaries
                    loss = ...
                with meter.part("backward"):
                    loss.backward()
                with meter.part("step"):
                    optimizer.step()
            with meter.phase("evaluate"), meter.step():  # phases nest: what happens in here is not the training's
                validate()
    record["memory"] = meter.record()

What the numbers are:

allocated_peak_bytes  The headline: the training phase's peak, or the largest phase's where nothing was trained.
    CUDA: `torch.cuda.max_memory_allocated` of the whole phase, reset at the borders of phases and parts.
    CPU: no allocator keeps statistics, so the live tensor storage (`LiveStorage`) of the phase's metered stretches;
    None if there were none. It agrees with the allocator's own trace (`torch.profiler`) to 0.1 %.
reserved_peak_bytes   CUDA: `torch.cuda.max_memory_reserved`. CPU: None.
process_peak_bytes    The whole process over all phases.
    CPU: peak resident set, interpreter and libraries included.
    CUDA: this process's device memory by NVML, context included, read at the ends of phases and metered stretches (the
    caching allocator returns nothing in between unless told to); None without `pynvml` or where a container hides the
    process from the driver.
phases                The same peak by phase, and by part of the training phase; a part's peaks are the phase's too.
components            The headline by role, as `live_storage.py` defines the roles; the roles sum to it exactly. On CUDA
    `other` also holds what no tensor explains: rounding to 512 bytes, workspaces of kernels, and the excess of steps
    that were not metered. None without a metered stretch.
metered_steps         Metered stretches in the headline's phase.

Which steps to meter: given a method, a step's peak depends on the shapes of its micro-batches and on the optimizer
state that exists. So meter the step with the largest micro-batch (rows x padded length); a step after the first, since
optimizer state appears only at the end of the first; for LISA and BAdam one in each of the first periods, until every
layer was drawn; for GaLore one with an SVD refresh. A metered step takes about 15 microseconds an operator longer and
must not count for the time; metering changes neither results nor the peak. Parts cost little, in any step.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from workflow.engine.devices import processes_on
from workflow.engine.live_storage import LiveStorage, Peak
from workflow.engine.timeline import Timeline

PHASES = ("load", "train", "evaluate")
PARTS = ("forward", "backward", "step")  # of "train"
METER_NAMES = {"cpu": "cpu-live-storage", "cuda": "cuda-allocator"}


@dataclass
class PhasePeak:
    """What one phase, or one part of the training phase, reached over all its stretches."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    live: Peak | None = None  # of the metered stretches and the borders
    metered: int = 0

    @property
    def live_bytes(self) -> int:
        """The largest live tensor storage."""
        return self.live.bytes if self.live else 0

    @property
    def live_by_role(self) -> dict[str, int] | None:
        """`live_bytes` by role."""
        return self.live.by_role if self.live else None

    @property
    def operator(self) -> str | None:
        """The operator that reached `live_bytes`; None where that stood when a stretch began."""
        return self.live.operator if self.live else None

    def take(self, live: Peak, allocator: tuple[int, int] | None) -> None:
        """Add a stretch: its peak in the ledger, and the allocator's (allocated, reserved) where there is one."""
        if live.bytes > self.live_bytes:
            self.live = live
        if allocator:
            self.allocated_bytes = largest(self.allocated_bytes, allocator[0])
            self.reserved_bytes = largest(self.reserved_bytes, allocator[1])
        elif self.metered:
            self.allocated_bytes = self.live_bytes


class MemoryMeter:
    """Peak memory by phase and component on one device ("cpu", "cuda", "cuda:1")."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if self.device.type not in METER_NAMES:
            raise ValueError(f"No memory meter for device '{self.device}'. Known: {', '.join(METER_NAMES)}.")
        self.ledger = LiveStorage(self.device.type)
        self.phases: dict[str, PhasePeak] = {}  # parts too
        self.timeline: Timeline | None = None  # of the last stretch that asked for one
        self._open: list[str] = []  # phases, and at most one part behind each "train"
        self._metering = False
        self._recording: Timeline | None = None
        self._driver_peak: int | None = None

    def watch(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        """Whose weights, gradients and optimizer state to know from here on; call it again when one is replaced."""
        self.ledger.watch(model, optimizer)

    @contextlib.contextmanager
    def phase(
        self, name: str, model: nn.Module | None = None, optimizer: Optimizer | None = None
    ) -> Iterator[PhasePeak]:
        """Peaks reached inside belong to phase `name`, one of PHASES; `model` and `optimizer` as in `watch`.

        A phase may be entered again, and inside another, which it interrupts.
        """
        if name not in PHASES:
            raise ValueError(f"Unknown phase '{name}'. Known: {', '.join(PHASES)}.")
        self._read_driver()
        with self._opened(name) as phase:
            if model is not None:
                self.watch(model, optimizer)
            try:
                yield phase
            finally:
                self._read_driver()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[PhasePeak]:
        """Peaks reached inside belong to part `name` of the training phase, one of PARTS, and to the phase as before.

        What a metered "forward" leaves behind are the activations. A part may be entered again (accumulation).

        Raises:
            RuntimeError: outside phase "train", or within a part.
        """
        if name not in PARTS:
            raise ValueError(f"Unknown part '{name}'. Known: {', '.join(PARTS)}.")
        if self._open[-1:] != ["train"]:
            where = f"in '{self._open[-1]}'" if self._open else "outside a phase"
            raise RuntimeError(f"MemoryMeter.part('{name}') belongs directly into phase 'train'; it is {where}.")
        with self._opened(name) as part:
            part.metered += self._metering
            with self.ledger.forward() if self._metering and name == "forward" else contextlib.nullcontext():
                yield part

    @contextlib.contextmanager
    def step(self, *, timeline: bool = False) -> Iterator[None]:
        """A metered stretch, usually one optimizer step: every operator inside is counted.

        `timeline`: also keep what was alive at each of them, as `self.timeline`.

        Raises:
            RuntimeError: outside a phase, or within itself.
        """
        if not self._open:
            raise RuntimeError("MemoryMeter.step() needs an open phase: put `with meter.phase(...):` around it.")
        if self._metering:
            raise RuntimeError("MemoryMeter.step() is open already; it cannot be entered within itself.")
        for phase in self._innermost():
            phase.metered += 1
        self._metering = True
        try:
            with self._timeline() if timeline else contextlib.nullcontext(), self.ledger:
                yield
        finally:
            self._metering = False
            self._read_driver()

    def record(self) -> dict[str, Any]:
        """The `memory` object of a run record, in bytes; callable at any time, also after an out-of-memory error."""
        headline = self.phases.get("train") or max(
            self.phases.values(), key=lambda phase: phase.allocated_bytes or 0, default=PhasePeak()
        )
        return {
            "allocated_peak_bytes": headline.allocated_bytes,
            "reserved_peak_bytes": headline.reserved_bytes,
            "process_peak_bytes": self._driver_peak if self.device.type == "cuda" else process_peak_bytes(),
            "meter": METER_NAMES[self.device.type],
            "phases": {name: phase.allocated_bytes for name, phase in self.phases.items()},
            "components": components(headline),
            "metered_steps": headline.metered,
        }

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[PhasePeak]:
        self._harvest()
        self._open.append(name)
        self._mark()
        try:
            yield self.phases.setdefault(name, PhasePeak())
        finally:
            self._harvest()
            self._open.pop()
            self._mark()

    @property
    def _open_part(self) -> str | None:
        return self._open[-1] if self._open and self._open[-1] in PARTS else None

    def _innermost(self) -> list[PhasePeak]:
        """The innermost open phase, and its part where one is open."""
        return [self.phases[name] for name in self._open[-2 if self._open_part else -1 :]]

    def _harvest(self) -> None:
        """Close the current stretch: give its peaks to the innermost open phase and part, and start new ones."""
        allocator = allocator_peaks(self.device) if self.device.type == "cuda" else None
        for phase in self._innermost():
            phase.take(self.ledger.peak, allocator)
        self.ledger.reset_peak()
        if allocator:
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextlib.contextmanager
    def _timeline(self) -> Iterator[None]:
        self.timeline = self._recording = Timeline(self.ledger.moments)
        try:
            with self.ledger.recording() as lives:
                yield
        finally:
            self.timeline.lives, self.timeline.last = lives, self.ledger.moments
            self._recording = None

    def _mark(self) -> None:
        """Note in the timeline what part, if any, is open from here on."""
        if self._recording:
            self._recording.borders.append((self.ledger.moments, self._open_part or ""))

    def _read_driver(self) -> None:
        if self.device.type == "cuda":
            self._driver_peak = largest(self._driver_peak, driver_bytes(self.device))


def largest(*values: int | None) -> int | None:
    """The largest of the values that are known; None if none is."""
    return max((value for value in values if value is not None), default=None)


def allocator_peaks(device: torch.device) -> tuple[int, int]:
    """Allocated and reserved bytes at their peaks, in one call: `torch.cuda.max_memory_allocated` sorts all statistics
    to read one of them, and this runs several times in a step that is timed.
    """
    statistics = torch.cuda.memory_stats_as_nested_dict(device)
    if not statistics:  # nothing was allocated yet
        return 0, 0
    return statistics["allocated_bytes"]["all"]["peak"], statistics["reserved_bytes"]["all"]["peak"]


def components(phase: PhasePeak) -> dict[str, int] | None:
    """The phase's allocated peak by role, what no tensor explains under `other`.

    None if nothing was metered, or if the tensors exceed the allocator's peak: then they are not all the allocator's.
    """
    if phase.allocated_bytes is None or phase.live_by_role is None or not phase.metered:
        return None
    unexplained = phase.allocated_bytes - phase.live_bytes
    if unexplained < 0:
        return None
    return {**phase.live_by_role, "other": phase.live_by_role["other"] + unexplained}


def process_peak_bytes() -> int:
    """Peak resident set of this process since it started."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would also count the parent's pages between fork and exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS says bytes, others KiB


def driver_bytes(device: torch.device) -> int | None:
    """Device memory this process holds now by NVML, CUDA context included.

    None without `pynvml`, or if the driver does not show this process (another process-id namespace).
    """
    return (processes_on(device) or {}).get(os.getpid())
