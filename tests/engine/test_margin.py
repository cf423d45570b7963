"""The margin: from measured records of the same card where there are any, an assumption that says so otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workflow.engine.cards import named_card
from workflow.engine.errors import InputError
from workflow.engine.margin import ASSUMED_CONTEXT_BYTES, ASSUMED_SHARE, load_records, margin

GIB = 2**30
H200 = named_card("H200")


def record(
    allocated_gib: float,
    reserved_gib: float,
    process_gib: float | None,
    device: str = "NVIDIA H200",
    device_type: str = "cuda",
    status: str = "ok",
) -> dict[str, Any]:
    """As much of a run record as counts here."""
    peaks = {"allocated": allocated_gib, "reserved": reserved_gib, "process": process_gib}
    memory = {f"{key}_peak_bytes": None if gib is None else int(gib * GIB) for key, gib in peaks.items()}
    return {"status": status, "memory": memory, "environment": {"device": device, "device_type": device_type}}


def test_without_records_the_margin_is_the_stated_assumption():
    for card in (None, H200):
        found = margin(card, 100 * GIB, [])
        assert found.bytes == ASSUMED_CONTEXT_BYTES + round(ASSUMED_SHARE * 100 * GIB)
        assert not found.calibrated
        assert found.text.startswith("uncalibrated, assumed: 0.75 GiB") and "3.0 % of the peak" in found.text


def test_with_records_it_is_the_largest_context_and_the_largest_share():
    records = [record(20, 21, 21.5), record(40, 44, 44.25)]
    found = margin(H200, 100 * GIB, records)
    assert found.calibrated
    assert found.bytes == pytest.approx(0.5 * GIB + 0.1 * 100 * GIB)
    assert found.text == (
        "calibrated on 2 records of H200: 0.50 GiB for the CUDA context and work space"
        " + 10.0 % of the peak for fragmentation and rounding"
    )


def test_a_calibrated_margin_covers_every_record_that_it_came_from():
    """On top of what a simulation finds: the tensors, without what else the allocator gave out."""
    records = [record(20, 21, 21.5), record(40, 44, 44.25), record(3, 3.5, 4.4)]
    for one in records:
        memory = one["memory"]
        memory["components"] = {"other": memory["allocated_peak_bytes"] // 20}
    for one in records:
        memory = one["memory"]
        predicted = memory["allocated_peak_bytes"] - memory["components"]["other"]
        assert predicted + margin(H200, predicted, records).bytes >= memory["process_peak_bytes"]


def test_it_grows_with_the_peak():
    records = [record(20, 21, 21.5)]
    small, large = (margin(H200, peak * GIB, records).bytes for peak in (10, 20))
    assert large - small == pytest.approx(0.05 * 10 * GIB)


@pytest.mark.parametrize(
    "other",
    [
        record(20, 30, 40, device="NVIDIA A100-SXM4-80GB"),
        record(20, 30, 40, device="NVIDIA H200 MIG 1g.18gb"),
        record(20, 30, 40, device="Intel(R) Xeon(R) Processor", device_type="cpu"),
        record(20, 30, 40, status="oom"),  # its peak is the card's end, not the run's
        record(0.1, 0.2, 0.9),  # the allocator's smallest blocks, not fragmentation
        {**record(20, 30, 40), "memory": None},
        record(20, 30, 40) | {"memory": {**record(20, 30, 40)["memory"], "reserved_peak_bytes": None}},
    ],
    ids=["other card", "slice", "cpu", "out of memory", "tiny", "not measured", "reserved unknown"],
)
def test_a_record_that_says_nothing_of_the_card_changes_nothing(other: dict[str, Any]):
    assert margin(H200, 50 * GIB, [other]) == margin(H200, 50 * GIB, [])
    assert margin(H200, 50 * GIB, [other, record(20, 21, 21.5)]) == margin(H200, 50 * GIB, [record(20, 21, 21.5)])


def test_records_calibrate_nothing_for_a_mere_size():
    assert margin(None, 50 * GIB, [record(20, 21, 21.5)]) == margin(None, 50 * GIB, [])


def test_a_context_that_the_driver_hid_is_assumed_and_said_to_be():
    found = margin(H200, 100 * GIB, [record(20, 21, None)])
    assert not found.calibrated
    assert found.bytes == pytest.approx(ASSUMED_CONTEXT_BYTES + 0.05 * 100 * GIB)
    assert found.text.startswith("uncalibrated in part, assumed: 0.75 GiB")
    assert "calibrated on 1 record of H200: 5.0 %" in found.text


def test_a_process_below_what_was_reserved_does_not_make_the_margin_smaller():
    """The driver is read at the ends of phases, when the allocator may have given memory back."""
    assert margin(H200, 0, [record(20, 24, 23)]).bytes == 0


def test_records_are_read_from_all_folders_below(tmp_path: Path):
    for path, content in (("nvidia-h200/a/m/lisa", record(20, 21, 21.5)), ("cpu/b", record(1, 2, 3))):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "run.json").write_text(json.dumps(content))
    assert len(load_records(tmp_path)) == 2
    assert margin(H200, 50 * GIB, load_records(tmp_path)).calibrated
    assert load_records(tmp_path / "missing") == []
    (tmp_path / "cpu/b/run.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_records(tmp_path)


def test_the_committed_records_can_all_be_asked():
    records = load_records()
    assert records
    for name in ("RTX 4090", "H200"):
        assert margin(named_card(name), 20 * GIB, records).bytes > 0
