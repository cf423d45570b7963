"""Lines of what common cards offer, over bars of peak memory.

layout |= card_lines(longest_gb)       # shapes and annotations; empty where no card is near
words = fits_words(peaks_bytes)        # {"lisa": 21_200_000_000} -> "24 GB: lisa; 80 GB: lora ..."
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.text import GB
from workflow.engine.cards import card_memory_bytes

CARDS = {"24 GB": "RTX 4090", "40 GB": "A100 40GB", "80 GB": "A100 80GB"}
NEAR = 2.5  # times the longest bar: a line farther out would leave the bars no room
COLOUR = "#cf5540"
NOTE = (
    "Lines: what a process can have on cards sold as 24 GB (RTX 4090), 40 GB and 80 GB (A100), whose GB are of 1024^3 "
    "bytes; a peak needs a margin below."
)


def drawn_cards(longest_gb: float) -> dict[str, float]:
    """Cards that bars of this length reach, and the next larger one, with what they offer in GB (1e9 bytes)."""
    offered = {size: card_memory_bytes(card) / GB for size, card in CARDS.items()}
    reached = [size for size, room in offered.items() if room < longest_gb]
    near = [size for size, room in offered.items() if longest_gb <= room <= NEAR * longest_gb]
    return {size: offered[size] for size in [*reached, *near[:1]]}


def card_lines(longest_gb: float) -> dict[str, Any]:
    """What a layout of horizontal bars needs besides: a line a card, its size on top of it."""
    lines = drawn_cards(longest_gb)
    across = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1}
    style = {"line": {"color": COLOUR, "width": 1.2, "dash": "dot"}}
    above = {"yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False, "font": {"color": COLOUR, "size": 11}}
    return {
        "shapes": [{**across, "x0": room, "x1": room, **style} for room in lines.values()],
        "annotations": [{**above, "x": room, "text": size} for size, room in lines.items()],
    }


def fits_words(peaks_bytes: Mapping[str, float]) -> str:
    """Which rows fit the smallest of the cards, which need a larger one; without a margin for what no meter sees."""
    if not peaks_bytes:
        return "nothing was metered"
    rooms = {size: card_memory_bytes(card) for size, card in CARDS.items()}
    smallest = {
        name: next((size for size, room in rooms.items() if peak <= room), "more than 80 GB")
        for name, peak in peaks_bytes.items()
    }
    if set(smallest.values()) == {"24 GB"}:
        return "all fit on a card of 24 GB"
    groups = {size: [name for name, own in smallest.items() if own == size] for size in (*rooms, "more than 80 GB")}
    return "; ".join(f"{size}: {', '.join(names)}" for size, names in groups.items() if names)
