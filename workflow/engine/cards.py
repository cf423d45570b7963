"""Cards and sizes: how much memory a process can have on a GPU, by the card's name or as a size with a unit.

    card_memory_bytes("RTX 4090")     # also "rtx4090", "NVIDIA GeForce RTX 4090", "A100-80GB", "a100 80"
    card_memory_bytes("24GiB")        # 7 % more than "24GB"
    named_card("NVIDIA A100-SXM4-80GB").name == "A100 80GB"; named_card("24GiB") is None
    format_bytes(21_120_000_000) == "21.12 GB (19.67 GiB)"

A card's memory is what CUDA offers a process ("GPU 0 has a total capacity of 23.52 GiB" in torch's out-of-memory
errors): 0.4 to 3 % less than the total of nvidia-smi, the rest being the driver's own, and more with newer drivers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from workflow.engine.errors import InputError
from workflow.form import hint

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
DRIVER_SHARE = 0.03  # of nvidia-smi's total, for cards without a figure of CUDA's: the most in the table, RTX 3060's
SIZE = re.compile(r"\s*([+-]?\d+\.?\d*|[+-]?\.\d+)\s*([kmgt]?i?b?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Card:
    """A GPU; names with a capacity are also known without it, where that is enough."""

    name: str
    driver_mib: int  # total by nvidia-smi
    cuda_gib: float | None  # total for a process by CUDA, the lowest seen; None where no log that names the card has it

    @property
    def memory_bytes(self) -> int:
        """What a process can have, CUDA context included."""
        if self.cuda_gib is not None:
            return int(self.cuda_gib * 2**30)
        return int(self.driver_mib * 2**20 * (1 - DRIVER_SHARE))


# nvidia-smi: its printed tables in public logs, ECC as shipped. CUDA: torch's error, or its device properties (p), in
# public logs that name the card, read in 2026.
CARDS = (
    Card("RTX 3060", 12288, 11.65),  # 12 GB; p
    Card("RTX 3070", 8192, None),
    Card("RTX 3080", 10240, None),  # 10 GB
    Card("RTX 3090", 24576, 23.56),
    Card("RTX 4060 Ti 8GB", 8188, None),
    Card("RTX 4060 Ti 16GB", 16380, None),
    Card("RTX 4070", 12282, None),
    Card("RTX 4080", 16376, 15.67),  # p
    Card("RTX 4090", 24564, 23.52),  # driver 595; 23.64 with older ones
    Card("RTX 5090", 32607, 31.36),
    Card("T4", 15360, 14.56),
    Card("L4", 23034, 22.03),
    Card("L40S", 46068, 44.39),
    Card("A10", 23028, None),
    Card("A10G", 23028, 22.06),  # p
    Card("A30", 24576, None),
    Card("A40", 46068, 44.35),  # p
    Card("RTX A6000", 49140, 47.53),  # p
    Card("RTX 6000 Ada", 49140, 47.48),  # p
    Card("V100 16GB", 16384, 15.75),  # p
    Card("V100 32GB", 32768, 31.73),
    Card("A100 40GB", 40960, 39.38),  # p
    Card("A100 80GB", 81920, 79.15),
    Card("H100 80GB", 81559, 79.10),  # SXM; the PCIe card has 79.11 (p)
    Card("H100 NVL", 95830, 93.09),
    Card("H200", 143771, 139.72),
    Card("B200", 183359, 178.35),
)


def card_memory_bytes(text: str) -> int:
    """Memory of a card by its name, or a size with its unit.

    Raises:
        InputError: an unknown or ambiguous card, or a size without a unit or not above 0.
    """
    card = named_card(text)
    return parse_bytes(text) if card is None else card.memory_bytes


def named_card(text: str) -> Card | None:
    """The card of this name, as a user or as the driver writes it; None if it is a size.

    Raises:
        InputError: neither a known card nor a size, or several cards have this name.
    """
    found = cards_named(text)
    if len(found) > 1:
        raise InputError(f"Card {text!r} is one of {len(found)}: {_names(found)}. Say which.")
    if not found and not SIZE.fullmatch(text):
        close = hint(text.upper(), [card.name for card in CARDS])
        raise InputError(f"Unknown card {text!r}.{close} Known: {_names(CARDS)}; or a size such as 24GiB or 24GB.")
    return found[0] if found else None


def cards_named(text: str) -> list[Card]:
    """All cards that a name can mean; a laptop's card or a slice of one has another name and is none of them."""
    key = _key(text)
    exact = [card for card in CARDS if _key(card.name) == key]
    return exact or [card for card in CARDS if _key(re.sub(r" \d+GB$", "", card.name)) == key]


def parse_bytes(text: str) -> int:
    """A size such as 24GiB, 24 GB or 0.5 tib in bytes.

    Raises:
        InputError: no number with a known unit, or not above 0.
    """
    legal = ", ".join(UNITS)
    match = SIZE.fullmatch(text)
    if match is None:
        raise InputError(f"Size {text!r} is not a number with a unit. Legal units: {legal}.")
    number, unit = match.groups()
    if not unit:
        raise InputError(f"Size {text!r}: a size needs a unit: {number}GiB or {number}GB, 7 % apart.")
    factor = {name.lower(): value for name, value in UNITS.items()}.get(unit.lower())
    if factor is None:
        raise InputError(f"Size {text!r}: unknown unit {unit!r}. Legal units: {legal}.")
    size = int(float(number) * factor)
    if size <= 0:
        raise InputError(f"Size {text!r}: legal is more than 0.")
    return size


def format_bytes(size: int) -> str:
    """Decimal and binary, as one is mistaken for the other: "21.12 GB (19.67 GiB)"; below 0.1 GB in MB."""
    if size < 10**8:
        return f"{size / 10**6:.2f} MB ({size / 2**20:.2f} MiB)"
    return f"{size / 10**9:.2f} GB ({size / 2**30:.2f} GiB)"


def _key(name: str) -> str:
    """What makes two spellings one card: without maker, series and form (SXM, PCIe), which change no memory here."""
    bare = re.sub(r"nvidia|geforce|tesla|quadro|rtx|generation|sxm\d?|pcie|hbm\d\w?", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", bare).removesuffix("gb")


def _names(cards: tuple[Card, ...] | list[Card]) -> str:
    return ", ".join(card.name for card in cards)
