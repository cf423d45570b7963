"""What becomes of optimizer state at a switch: drop, reset, keep, offload."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from lisa.offload import HostMemory
from lisa.switch import STATES, activate
from tests.lisa.loops import PERIOD, make, moments_bytes, one_step, step_counts, train
from tests.models import LAYERS, changed, copies, state_bytes, tiny_llama

ALL = set(range(LAYERS))


@pytest.mark.parametrize("state", STATES)
def test_state_bytes_follow_the_formula_at_every_step(state):
    model = tiny_llama()
    lisa = make(model, state=state)
    visited: set[int] = set()
    for step in range(8 * PERIOD):
        one_step(model, lisa, step)
        visited |= set(lisa.active)
        held = visited if state in ("keep", "offload") else set(lisa.active)
        assert state_bytes(lisa.optimizer) == moments_bytes(model, held)
    assert visited == ALL


@pytest.mark.parametrize("state", STATES)
def test_every_reading_counts_steps_as_it_says(state):
    """The step count is AdamW's bias correction: who starts afresh is seen there."""
    model = tiny_llama()
    lisa = make(model, state=state)
    expected: list[int | None] = [None] * LAYERS
    embedding = model.get_input_embeddings().weight
    for step in range(8 * PERIOD):
        one_step(model, lisa, step)
        if step % PERIOD == 0 and state == "reset":
            expected = [None] * LAYERS
        if state == "drop":
            expected = [count if index in lisa.active else None for index, count in enumerate(expected)]
        expected = [(count or 0) + 1 if index in lisa.active else count for index, count in enumerate(expected)]
        assert step_counts(model, lisa) == expected
        always = step % PERIOD + 1 if state == "reset" else step + 1
        assert lisa.optimizer.state[embedding]["step"].item() == always


@pytest.mark.parametrize("state", STATES)
def test_frozen_layers_change_by_exactly_nothing_in_a_period(state):
    model = tiny_llama()
    lisa = make(model, state=state)
    for period in range(8):
        before = copies(model)
        train(model, lisa, period * PERIOD, (period + 1) * PERIOD)
        frozen = {f".layers.{index}." for index in ALL - set(lisa.active)}
        assert changed(model, before) == {name for name in before if not any(part in name for part in frozen)}


@pytest.mark.parametrize("state", STATES)
def test_the_schedule_goes_on_unbroken(state):
    model = tiny_llama()
    lisa = make(model, state=state)
    schedule = torch.optim.lr_scheduler.LambdaLR(lisa.optimizer, lambda step: 0.9**step)
    for step in range(4 * PERIOD):
        assert lisa.optimizer.param_groups[0]["lr"] == pytest.approx(3e-3 * 0.9**step)
        one_step(model, lisa, step)
        schedule.step()


def test_all_layers_without_reset_are_full_finetuning():
    losses = {state: train(model := tiny_llama(), make(model, gamma=LAYERS, state=state), 0, 12) for state in STATES}
    assert losses["drop"] == losses["keep"] == losses["offload"] != losses["reset"]


def test_offload_computes_what_keep_computes():
    models = {state: tiny_llama() for state in ("keep", "offload")}
    losses = {state: train(model, make(model, state=state), 0, 8 * PERIOD) for state, model in models.items()}
    assert losses["keep"] == losses["offload"]
    assert changed(models["keep"], copies(models["offload"])) == set()


def test_an_unknown_state_is_an_error():
    with pytest.raises(ValueError, match="'forget'. Known: drop, reset, keep, offload"):
        make(tiny_llama(), state="forget")


# --- offload on CUDA, in tensors that have a device and a shape but no data


class Streams:
    """Stands in for torch.cuda's streams; tells the order of events."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies", self.events))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("compute", self.events))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self.events.append("recorded"))


class Stream:
    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def __enter__(self) -> None:
        self.events.append(f"on {self.name}")

    def __exit__(self, *exception: object) -> None:
        self.events.append(f"off {self.name}")

    def wait_stream(self, other: Stream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.events.append(f"host waits for {self.name}")


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch):
    """One parameter with AdamW's state on a device that is not there, and its host memory."""
    streams = Streams(monkeypatch)
    copy = torch.ops.aten.copy_  # the method would look for a real driver first
    monkeypatch.setattr(torch.Tensor, "copy_", lambda to, value, non_blocking=False: copy(to, value, non_blocking))
    with FakeTensorMode():
        parameter = torch.nn.Parameter(torch.empty(8, device="cuda"))
        optimizer = torch.optim.AdamW([parameter], foreach=False, fused=False)
        moments = {name: torch.empty(8, device="cuda") for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.empty((), device="cuda"), **moments}
        yield parameter, optimizer, HostMemory(optimizer, [parameter]), streams.events


def devices(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, str]:
    return {name: value.device.type for name, value in optimizer.state[parameter].items()}


def test_a_switch_parks_what_is_frozen_and_fetches_what_is_drawn(on_cuda):
    parameter, optimizer, host, events = on_cuda
    activate([[parameter]], [], optimizer, "offload", host)
    assert devices(optimizer, parameter) == {"step": "cuda", "exp_avg": "cpu", "exp_avg_sq": "cpu"}
    events.clear()
    activate([[parameter]], [0], optimizer, "offload", host)
    assert set(devices(optimizer, parameter).values()) == {"cuda"}
    assert events == ["copies waits for compute", "on copies", "off copies", "recorded"] * 2


def test_copies_are_asynchronous_from_and_to_pinned_memory(on_cuda, monkeypatch):
    parameter, _, host, _ = on_cuda
    blocking, pinned, copy, like = [], [], torch.Tensor.copy_, torch.empty_like

    def watched_copy(to, value, non_blocking=False):
        blocking.append(not non_blocking)
        return copy(to, value, non_blocking)

    def watched_like(value, **settings):
        pinned.append(settings["pin_memory"])
        return like(value, **settings)

    monkeypatch.setattr(torch.Tensor, "copy_", watched_copy)
    monkeypatch.setattr(torch, "empty_like", watched_like)
    host.park([parameter])
    host.fetch([parameter])
    assert blocking == [False] * 4 and pinned == [True] * 2


def test_closing_waits_for_the_copies(on_cuda):
    parameter, _, host, events = on_cuda
    host.park([parameter])
    events.clear()
    host.close()
    assert events == ["compute waits for copies", "host waits for copies"]


def test_parked_moments_lie_in_host_memory_and_the_step_count_stays(on_cuda):
    parameter, optimizer, host, events = on_cuda
    host.park([parameter])
    assert devices(optimizer, parameter) == {"step": "cuda", "exp_avg": "cpu", "exp_avg_sq": "cpu"}
    assert events == ["copies waits for compute", "on copies", "off copies", "recorded"] * 2
    host.fetch([parameter])
    assert set(devices(optimizer, parameter).values()) == {"cuda"}


def test_the_step_waits_for_the_copies_on_the_device_and_a_checkpoint_on_the_host(on_cuda):
    parameter, optimizer, host, events = on_cuda
    host.park([parameter])
    host.fetch([parameter])
    events.clear()
    optimizer.step()  # no gradient: nothing but the hooks
    assert events == ["compute waits for copies"]
    optimizer.state_dict()
    assert events[-1] == "host waits for copies"


def test_a_loaded_checkpoint_does_not_fill_the_device(on_cuda):
    parameter, optimizer, host, _ = on_cuda
    host.park([parameter])
    checkpoint = optimizer.state_dict()
    optimizer.state.clear()
    optimizer.load_state_dict(checkpoint)
    assert devices(optimizer, parameter)["exp_avg"] == "cpu"


def test_offload_refuses_devices_it_does_not_know():
    parameter = torch.nn.Parameter(torch.empty(2, device="meta"))
    with pytest.raises(ValueError, match="moves moments from CUDA devices; a parameter is on meta"):
        HostMemory(torch.optim.AdamW([parameter]), [parameter])
