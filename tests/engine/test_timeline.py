"""The memory timeline against planted tensors, and against the peak that the ledger found by itself."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from workflow.engine.live_storage import ROLES, Life
from workflow.engine.memory import MemoryMeter
from workflow.engine.timeline import HEADER, Timeline

KIB = 256  # float32 values in 1 KiB


def sizes_by_part(timeline: Timeline) -> list[tuple[str, int]]:
    """(part, KiB) of every moment, repetitions dropped."""
    found = [(moment.part, moment.total // 1024) for moment in timeline.moments()]
    return [pair for i, pair in enumerate(found) if i == 0 or pair != found[i - 1]]


def trained_step(parts: bool = True) -> tuple[MemoryMeter, int]:
    """A meter after two steps of a small network, the second with a timeline, and that step's peak in bytes."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(6)))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    meter, x = MemoryMeter("cpu"), torch.ones(64, 32)
    with meter.phase("train", model, optimizer):
        for index in range(2):
            with meter.step(timeline=index == 1):
                with meter.part("forward"):
                    loss = model(x).sum()
                with meter.part("backward"):
                    loss.backward()
                    del loss
                with meter.part("step"):
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
    return meter, meter.phases["train"].live_bytes


def test_planted_tensors_rise_and_fall_where_they_were_made_and_freed():
    meter = MemoryMeter("cpu")
    with meter.phase("train"), meter.step(timeline=True):
        first = torch.zeros(KIB)
        with meter.part("forward"):
            second = torch.zeros(2 * KIB)
            del first
        with meter.part("backward"):
            torch.zeros(4 * KIB)
            del second
        third = torch.zeros(8 * KIB)
    del third
    assert sizes_by_part(meter.timeline) == [
        *(("", 0), ("", 1)),
        *(("forward", 3), ("forward", 2), ("", 2)),
        *(("backward", 6), ("backward", 0)),
        ("", 8),
    ]


def test_the_largest_moment_is_the_ledgers_peak_with_the_same_roles():
    meter, peak_bytes = trained_step()
    largest = max(meter.timeline.moments(), key=lambda moment: moment.total)
    assert largest.total == peak_bytes
    assert dict(zip(ROLES, largest.roles, strict=True)) == meter.phases["train"].live_by_role
    assert largest.part == next(
        part for part in ("forward", "backward", "step") if meter.phases[part].live_bytes == peak_bytes
    )


def test_the_largest_moment_of_each_part_is_its_peak_with_the_same_roles():
    """The first step's gradients and moments are smaller, so all peaks are the second's."""
    meter, _ = trained_step()
    for part in ("forward", "backward", "step"):
        within = [moment for moment in meter.timeline.moments() if moment.part == part]
        largest = max(within, key=lambda moment: moment.total)
        assert dict(zip(ROLES, largest.roles, strict=True)) == meter.phases[part].live_by_role


def test_the_most_of_a_role_is_at_its_own_moment():
    meter, peak_bytes = trained_step()
    largest, moments = meter.timeline.largest(), meter.timeline.moments()
    assert largest == {role: max(moment.roles[place] for moment in moments) for place, role in enumerate(ROLES)}
    weights = 6 * (32 * 32 + 32) * 4
    assert (largest["weights"], largest["gradients"]) == (weights, weights)  # all gradients, before the step
    assert sum(largest.values()) > peak_bytes  # activations are gone when all gradients are there


def test_weights_and_moments_stand_all_the_way_and_activations_rise_and_fall():
    meter, _ = trained_step()
    moments = meter.timeline.moments()
    assert len({moment.roles[ROLES.index("weights")] for moment in moments}) == 1
    assert len({moment.roles[ROLES.index("optimizer_state")] for moment in moments}) == 1
    activations = [moment.roles[ROLES.index("activations")] for moment in moments]
    top = activations.index(max(activations))
    assert activations[0] == activations[-1] == 0 < activations[top]
    assert activations[: top + 1] == sorted(activations[: top + 1])
    assert moments[top].part == "forward"


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_shorter_table_keeps_the_peak_and_the_order(limit: int, tmp_path: Path):
    meter, peak_bytes = trained_step()
    meter.timeline.write_csv(tmp_path / "new/timeline.csv", limit=limit)
    with (tmp_path / "new/timeline.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == HEADER == ("operator", "part", *(f"{role}_bytes" for role in ROLES))
    assert 1 <= len(rows) <= limit
    assert max(sum(int(row[f"{role}_bytes"]) for role in ROLES) for row in rows) == peak_bytes
    numbers = [int(row["operator"]) for row in rows]
    assert numbers == sorted(set(numbers)) and numbers[-1] <= len(meter.timeline.moments())


def test_lives_that_began_before_or_were_never_counted():
    timeline = Timeline(first=10)
    timeline.last = 13
    timeline.lives = [Life(3, 11, 100, 0), Life(12, 13, 20, 1), Life(13, 12, 999, 2), Life(2, 10, 999, 3)]
    assert [moment.roles[:4] for moment in timeline.moments()] == [(100, 0, 0, 0), (0, 20, 0, 0), (0, 20, 0, 0)]


def test_only_the_steps_that_ask_for_it_have_a_timeline():
    meter = MemoryMeter("cpu")
    with meter.phase("train"), meter.step():
        torch.zeros(KIB)
    assert meter.timeline is None


def test_a_step_that_ends_in_an_error_has_its_timeline_up_to_there():
    meter = MemoryMeter("cpu")
    with pytest.raises(MemoryError), meter.phase("train"), meter.step(timeline=True), meter.part("backward"):
        torch.zeros(3 * KIB)
        raise MemoryError
    assert max(moment.total for moment in meter.timeline.moments()) == 3 * 1024
