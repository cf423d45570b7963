"""What kernels hold inside and never return, for `simulator_accuracy.py`: a simulation cannot see it.

Every operator of a real step is put between two marks of the profiler. Its workspace is what the allocator's total
rises, between the marks, above the larger of the two ends: before it, and after it with its results.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._accuracy_allocator import Cell, running_bytes, start

MARK = "operator "


@dataclass(frozen=True)
class Workspace:
    """The largest of one operator in one step; both in bytes above the step's beginning."""

    operator: str
    hidden_bytes: int
    top_bytes: int  # the allocator's total with it


class Marks(TorchDispatchMode):
    """Puts marks around every operator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.profiler.record_function(f"{MARK}{func}"):
            return func(*args, **(kwargs or {}))


def step_workspaces(cell: Cell) -> tuple[list[Workspace], int]:
    """The largest workspace of every operator in a step, largest first, and that step's peak.

    It is one that begins a period, with its decomposition, when optimizer state exists.
    """
    step, window = start(cell)
    index = step.method.period() or 1
    for earlier in range(index):
        step(earlier, window)
    return workspaces(lambda: step(index, window))


def workspaces(function: Callable[[], Any]) -> tuple[list[Workspace], int]:
    """The same of any function."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile, Marks():
        function()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = [(0, 0), *running_bytes(events)]
    times = [time_ns for time_ns, _ in held]
    largest: dict[str, Workspace] = {}
    for event in events:
        if not event.name().startswith(MARK):
            continue
        first = bisect_left(times, event.start_ns()) - 1  # the last change before it
        last = bisect_right(times, event.start_ns() + event.duration_ns()) - 1
        inside = [bytes_ for _, bytes_ in held[first : last + 1]]
        found = Workspace(event.name().removeprefix(MARK), max(inside) - max(inside[0], inside[-1]), max(inside))
        if found.hidden_bytes > largest.get(found.operator, NONE).hidden_bytes:
            largest[found.operator] = found
    by_size = sorted(largest.values(), key=lambda workspace: -workspace.hidden_bytes)
    return by_size, max(bytes_ for _, bytes_ in held)


NONE = Workspace("", 0, 0)
