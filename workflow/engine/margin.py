"""The margin: GPU memory on top of a predicted peak that no simulation of tensors sees.

    margin(card, predicted_peak_bytes, load_records())

It has two parts. One is the same for every run: the CUDA context with its loaded kernels, and the libraries' work
space (cuBLAS takes 8 MiB, on Hopper 32). The other grows with the peak: the allocator hands out blocks of fixed sizes
and cannot always join what is free, so it reserves more than is allocated.

Calibrated, from measured runs on the same kind of card: the largest difference between the driver's figure for the
process and what the allocator reserved, and the largest share that it reserved above what tensors took: above the
allocated peak less its component `other`, since a prediction knows neither rounding nor the work space that kernels
allocate. That share is on the safe side: under pressure the allocator gives free blocks back before it fails.

Uncalibrated, an assumption: 0.75 GiB and 3 % of the peak. In public out-of-memory errors of single processes the memory
in use beyond what torch reserved is 0.3 to 0.8 GiB (L4, RTX 4090, RTX 5090, A100), and with sequences of one length
reserved but free memory is mostly below 3 %; it can be several times that with mixed lengths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.engine.cards import cards_named
from workflow.engine.errors import InputError
from workflow.engine.records import ROOT

if TYPE_CHECKING:
    from workflow.engine.cards import Card

REFERENCE = ROOT / "results" / "reference"
ASSUMED_CONTEXT_BYTES = 768 * 2**20
ASSUMED_SHARE = 0.03
SMALLEST_PEAK_BYTES = 2**30  # below, blocks of 2 to 20 MiB make the share as large as one likes


@dataclass(frozen=True)
class Margin:
    """What to add to a predicted peak, and where it comes from."""

    bytes: int
    calibrated: bool  # both parts are measured on this kind of card
    text: str


def margin(card: Card | None, predicted_peak_bytes: int, records: Iterable[Mapping[str, Any]] = ()) -> Margin:
    """The margin of a predicted peak.

    Args:
        card: None if only a size is known; then nothing can be calibrated.
        predicted_peak_bytes: of all tensors.
        records: run records of any device; those of this kind of card are used.
    """
    mine = [record["memory"] for record in records if card is not None and _measured_on(card, record)]
    contexts = [max(0, m["process_peak_bytes"] - m["reserved_peak_bytes"]) for m in mine if m["process_peak_bytes"]]
    shares = [m["reserved_peak_bytes"] / _tensor_bytes(m) - 1 for m in mine]
    context_bytes = max(contexts, default=ASSUMED_CONTEXT_BYTES)
    share = max(shares, default=ASSUMED_SHARE)
    return Margin(
        bytes=context_bytes + round(share * predicted_peak_bytes),
        calibrated=bool(contexts),
        text=_text(card, len(shares), len(contexts), context_bytes, share),
    )


def load_records(root: Path = REFERENCE) -> list[dict[str, Any]]:
    """All run records below a folder; none if there is no such folder, as in an installed package.

    Raises:
        InputError: a file is not JSON.
    """
    records = []
    for file in sorted(root.glob("**/run.json")):
        try:
            records.append(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"{file} is not JSON: {error}.") from error
    return records


def _measured_on(card: Card, record: Mapping[str, Any]) -> bool:
    """Whether it is the record of a finished run of some size on this kind of card."""
    environment, memory = record["environment"], record["memory"]
    if record["status"] != "ok" or environment.get("device_type") != "cuda" or not memory:
        return False
    known = memory["reserved_peak_bytes"] and (memory["allocated_peak_bytes"] or 0) >= SMALLEST_PEAK_BYTES
    return bool(known) and cards_named(environment["device"]) == [card]


def _tensor_bytes(memory: Mapping[str, Any]) -> int:
    """Of the allocated peak, what a simulation would have found; all of it where the components are unknown."""
    components = memory.get("components") or {"other": 0}
    return int(memory["allocated_peak_bytes"] - components["other"])


def _text(card: Card | None, runs: int, contexts: int, context_bytes: int, share: float) -> str:
    parts = (
        f"{context_bytes / 2**30:.2f} GiB for the CUDA context and work space",
        f"{100 * share:.1f} % of the peak for fragmentation and rounding",
    )
    if card is None or not runs:
        return f"uncalibrated, assumed: {parts[0]} + {parts[1]}"
    on = f"on {runs} {'record' if runs == 1 else 'records'} of {card.name}"
    if not contexts:
        return f"uncalibrated in part, assumed: {parts[0]}; calibrated {on}: {parts[1]}"
    return f"calibrated {on}: {parts[0]} + {parts[1]}"
