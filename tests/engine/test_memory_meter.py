"""The memory meter: components against arithmetic on the shapes, phases, and CUDA with a played allocator."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workflow.engine.live_storage import Peak
from workflow.engine.memory import MemoryMeter, PhasePeak, allocator_peaks, components

KIB = 256  # float32 values in 1 KiB


# --- components


class Layers(nn.Module):
    """Two square matrices, the first of which can be frozen; no activation is as large as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(1, width) -> scalar."""
        return self.second(self.first(x)).sum()


def metered_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, meter: MemoryMeter) -> None:
    with meter.step():
        with meter.part("forward"):
            loss = model(x)
        with meter.part("backward"):
            loss.backward()
        with meter.part("step"):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def test_components_of_an_adamw_step_are_weights_gradients_and_two_moments():
    width, matrix = 256, 256 * 256 * 4  # bytes of one matrix
    model = Layers(width)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    meter = MemoryMeter("cpu")
    with meter.phase("train", model, optimizer):
        metered_step(model, optimizer, torch.ones(1, width), meter)
        metered_step(model, optimizer, torch.ones(1, width), meter)
    found = meter.record()["components"]
    assert found["weights"] == 2 * matrix
    assert found["gradients"] == 2 * matrix
    assert 4 * matrix <= found["optimizer_state"] <= 4 * matrix + 64  # step counters
    assert found["activations"] + found["temporaries"] + found["other"] < 8 * width * 4
    assert sum(found.values()) == meter.record()["allocated_peak_bytes"]


def test_freezing_a_matrix_takes_its_gradient_and_moments_away():
    width, matrix = 256, 256 * 256 * 4
    model = Layers(width)
    model.first.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.second.parameters(), fused=True)
    meter = MemoryMeter("cpu")
    with meter.phase("train", model, optimizer):
        metered_step(model, optimizer, torch.ones(1, width), meter)
    found = meter.record()["components"]
    assert found["weights"] == 2 * matrix and found["gradients"] == matrix
    assert 2 * matrix <= found["optimizer_state"] <= 2 * matrix + 64


def test_foreach_holds_more_temporaries_in_the_step_than_fused():
    def peak_of_step(**flags: bool) -> PhasePeak:
        model = Layers(256)
        optimizer = torch.optim.AdamW(model.parameters(), **flags)
        meter = MemoryMeter("cpu")
        with meter.phase("train", model, optimizer):
            metered_step(model, optimizer, torch.ones(1, 256), meter)
            metered_step(model, optimizer, torch.ones(1, 256), meter)
        return meter.phases["step"]

    matrix = 256 * 256 * 4
    assert peak_of_step(fused=True).live_by_role["temporaries"] < matrix / 8
    foreach = peak_of_step(foreach=True)
    assert foreach.live_by_role["temporaries"] >= 2 * matrix
    assert foreach.operator.startswith("aten._foreach_")


def test_state_inside_an_object_of_the_optimizer_is_optimizer_state():
    class Projected(torch.optim.SGD):
        """Keeps a matrix the way GaLore's projectors do."""

        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["projector"] = SimpleNamespace(ortho_matrix=torch.ones(KIB))

    model = Layers(4)
    optimizer = Projected(model.parameters(), lr=0.1)
    meter = MemoryMeter("cpu")
    with meter.phase("train", model, optimizer):
        metered_step(model, optimizer, torch.ones(1, 4), meter)
    assert meter.record()["components"]["optimizer_state"] == 2 * 1024


# --- phases


def test_phases_keep_their_own_peaks_and_interrupt_each_other():
    meter = MemoryMeter("cpu")
    with meter.phase("load"), meter.step():
        torch.zeros(9 * KIB)
    with meter.phase("train"):
        with meter.step():
            torch.zeros(2 * KIB)
        with meter.phase("evaluate"), meter.step():
            torch.zeros(7 * KIB)
        with meter.step():
            torch.zeros(3 * KIB)
    record = meter.record()
    assert record["phases"] == {"load": 9 * 1024, "train": 3 * 1024, "evaluate": 7 * 1024}
    assert record["allocated_peak_bytes"] == 3 * 1024
    assert record["metered_steps"] == 2


def test_parts_split_the_peak_of_training_and_do_not_take_it_away():
    meter = MemoryMeter("cpu")
    with meter.phase("train"), meter.step():
        torch.zeros(4 * KIB)
        for size in (2, 3):  # micro-batches
            with meter.part("forward"):
                kept = torch.zeros(size * KIB)
            with meter.part("backward"):
                torch.zeros(4 * KIB)
            del kept
        with meter.part("step"):
            torch.zeros(5 * KIB)
    kib = {name: peak / 1024 for name, peak in meter.record()["phases"].items()}
    assert kib == {"train": 7, "forward": 3, "backward": 7, "step": 5}
    assert list(kib) == ["train", "forward", "backward", "step"]
    at_peak = {role: size / 1024 for role, size in meter.record()["components"].items() if size}
    assert at_peak == {"activations": 3, "temporaries": 4}
    assert meter.phases["backward"].live_by_role == meter.phases["train"].live_by_role
    assert meter.phases["train"].operator == meter.phases["step"].operator == "aten.zeros.default"


def test_a_phase_inside_a_part_interrupts_it():
    meter = MemoryMeter("cpu")
    with meter.phase("train"), meter.part("step"):
        with meter.step():
            torch.zeros(2 * KIB)
        with meter.phase("evaluate"), meter.step():
            torch.zeros(9 * KIB)
        with meter.step():
            torch.zeros(3 * KIB)
    assert meter.record()["phases"] == {"train": 3 * 1024, "step": 3 * 1024, "evaluate": 9 * 1024}
    assert meter.record()["metered_steps"] == meter.phases["step"].metered == 2


def test_without_training_the_largest_phase_is_the_headline():
    meter = MemoryMeter("cpu")
    model = Layers(64)
    with meter.phase("load"), meter.step():
        meter.watch(model)
    with meter.phase("evaluate"), meter.step(), torch.no_grad():
        model(torch.ones(1, 64))
    record = meter.record()
    assert record["phases"]["load"] == record["components"]["weights"] == 2 * 64 * 64 * 4
    assert record["allocated_peak_bytes"] == record["phases"]["evaluate"] > record["phases"]["load"]


def test_an_unmetered_phase_on_the_cpu_claims_no_peak():
    meter = MemoryMeter("cpu")
    with meter.phase("train"), meter.part("forward"):
        torch.zeros(KIB)
    assert meter.record()["phases"] == {"train": None, "forward": None}
    assert meter.record()["allocated_peak_bytes"] is None
    assert meter.record()["components"] is None


def test_peak_survives_the_error_that_ends_the_phase():
    meter = MemoryMeter("cpu")
    with contextlib.suppress(MemoryError), meter.phase("train"), meter.step():
        kept = torch.zeros(4 * KIB)
        raise MemoryError
    del kept
    assert meter.record()["allocated_peak_bytes"] == 4 * 1024


def test_misuse_is_named():
    meter = MemoryMeter("cpu")
    with pytest.raises(ValueError, match="Unknown phase 'trian'. Known: load, train, evaluate"):
        meter.phase("trian").__enter__()
    with pytest.raises(RuntimeError, match="open phase"):
        meter.step().__enter__()
    with meter.phase("train"), meter.step(), pytest.raises(RuntimeError, match="open already"):
        meter.step().__enter__()
    with pytest.raises(ValueError, match="Unknown part 'train'. Known: forward, backward, step"):
        meter.part("train").__enter__()
    with pytest.raises(RuntimeError, match="'forward'.* it is outside a phase"):
        meter.part("forward").__enter__()
    with meter.phase("evaluate"), pytest.raises(RuntimeError, match="it is in 'evaluate'"):
        meter.part("forward").__enter__()
    with meter.phase("train"), meter.part("forward"), pytest.raises(RuntimeError, match="it is in 'forward'"):
        meter.part("backward").__enter__()
    with pytest.raises(ValueError, match="No memory meter for device 'meta'"):
        MemoryMeter("meta")


def test_process_peak_follows_a_large_allocation():
    code = """
from workflow.engine.memory import process_peak_bytes
before = process_peak_bytes()
ballast = bytearray(b"x") * 2**28
del ballast
print(process_peak_bytes() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 2**28 - 2**24 <= grown <= 2**28 + 2**26


# --- CUDA, with the allocator's statistics played by a stand-in


class FakeAllocator:
    """What `torch.cuda` would report; the peak falls back to `live` when it is reset, and blocks are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live = self.peak = self.reserved = 0
        monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda device: self.statistics())
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: setattr(self, "peak", self.live))
        monkeypatch.setattr("workflow.engine.memory.driver_bytes", lambda device: self.live + 1000)

    def statistics(self) -> dict[str, Any]:
        """The part of them that is read."""
        return {"allocated_bytes": {"all": {"peak": self.peak}}, "reserved_bytes": {"all": {"peak": self.reserved}}}

    def reach(self, peak: int, live: int) -> None:
        """Allocate up to `peak`, then free down to `live`."""
        self.peak, self.live, self.reserved = max(self.peak, peak), live, max(self.reserved, peak + 100)


def test_cuda_peaks_are_reset_at_phase_borders(monkeypatch):
    allocator = FakeAllocator(monkeypatch)
    meter = MemoryMeter("cuda")
    with meter.phase("load"):
        allocator.reach(900, 300)
    with meter.phase("train"):
        allocator.reach(500, 300)
        with meter.phase("evaluate"):
            allocator.reach(700, 300)
        allocator.reach(450, 300)
    record = meter.record()
    assert record["phases"] == {"load": 900, "train": 500, "evaluate": 700}
    assert (record["allocated_peak_bytes"], record["reserved_peak_bytes"]) == (500, 1000)  # loading's blocks stay
    assert record["process_peak_bytes"] == 1300
    assert record["meter"] == "cuda-allocator"


def test_cuda_peaks_of_parts_are_their_own_and_the_phases_too(monkeypatch):
    allocator = FakeAllocator(monkeypatch)
    meter = MemoryMeter("cuda")
    with meter.phase("train"):
        allocator.reach(350, 300)
        for peak in (800, 500):  # the second step's are smaller
            with meter.part("forward"):
                allocator.reach(peak - 50, 400)
            with meter.part("backward"):
                allocator.reach(peak, 450)
            with meter.part("step"):
                allocator.reach(460, 300)
    record = meter.record()
    assert record["phases"] == {"train": 800, "forward": 750, "backward": 800, "step": 460}
    assert (record["allocated_peak_bytes"], record["reserved_peak_bytes"]) == (800, 900)
    assert meter.phases["forward"].reserved_bytes == 900


def test_before_cuda_is_initialised_nothing_is_allocated():
    assert allocator_peaks(torch.device("cuda")) == (0, 0)


def test_what_no_tensor_explains_is_other_and_an_excess_of_tensors_is_refused():
    live = Peak(43, [10, 5, 20, 6, 1, 1], moment=1)
    found = components(PhasePeak(allocated_bytes=50, live=live, metered=1))
    assert found == {**live.by_role, "other": 1 + 7} and sum(found.values()) == 50
    assert components(PhasePeak(allocated_bytes=42, live=live, metered=1)) is None
