"""Cards by name, sizes by unit."""

from __future__ import annotations

import pytest

from workflow.engine.cards import CARDS, card_memory_bytes, cards_named, format_bytes, named_card, parse_bytes
from workflow.engine.errors import InputError


def refused(text: str, *words: str) -> None:
    """One line that has these words."""
    with pytest.raises(InputError) as caught:
        card_memory_bytes(text)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


# --- names


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_is_found_by_its_own_name_and_by_no_other_cards(card):
    assert named_card(card.name) is card
    assert named_card(card.name.lower().replace(" ", "-")) is card
    assert card_memory_bytes(f"NVIDIA {card.name}") == card.memory_bytes


@pytest.mark.parametrize(
    "by_driver, name",
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla V100-PCIE-16GB", "V100 16GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA H100 PCIe", "H100 80GB"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
    ],
)
def test_a_card_is_found_by_the_name_that_its_driver_reports(by_driver: str, name: str):
    assert [card.name for card in cards_named(by_driver)] == [name]


@pytest.mark.parametrize("text", ["rtx4090", "RTX-4090", "4090", " GeForce RTX 4090 "])
def test_spelling_does_not_matter(text: str):
    assert named_card(text) == named_card("RTX 4090")


def test_h100_needs_no_capacity_and_a100_does():
    assert named_card("H100") == named_card("H100 80GB")
    assert named_card("a100 80") == named_card("A100-80GB") == named_card("A100 80 GB")
    refused("A100", "Card 'A100' is one of 2: A100 40GB, A100 80GB")
    refused("RTX 4060 Ti", "is one of 2", "8GB", "16GB")


@pytest.mark.parametrize(
    "other",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100 80GB PCIe MIG 1g.10gb",
        "NVIDIA GeForce RTX 3080 Ti",
        "NVIDIA A100-SXM-64GB",
        "AMD Instinct MI300X",
        "A1",
        "",
    ],
)
def test_another_card_of_a_similar_name_is_unknown(other: str):
    refused(other, f"Unknown card {other!r}", "Known: RTX 3060", "B200", "24GiB")
    assert cards_named(other) == []


def test_a_misspelt_card_gets_a_hint():
    refused("RTX 4900", "Did you mean 'RTX 4090'?")
    refused("h20", "Unknown card 'h20'", "Did you mean 'H200'?")


# --- memory


def test_a_process_gets_a_little_less_than_the_driver_reports():
    for card in CARDS:
        assert 0.97 * card.driver_mib * 2**20 - 1 <= card.memory_bytes < card.driver_mib * 2**20, card.name


@pytest.mark.parametrize(
    "name, nominal_gib",
    [("RTX 3060", 12), ("RTX 4090", 24), ("RTX 5090", 32), ("L40S", 48), ("A100 40GB", 40), ("A100 80GB", 80)],
)
def test_a_card_has_about_what_it_is_sold_with(name: str, nominal_gib: int):
    assert 0.92 < card_memory_bytes(name) / (nominal_gib * 2**30) < 1


# --- sizes


@pytest.mark.parametrize(
    "text, size",
    [
        ("24GiB", 24 * 2**30),
        ("24 GB", 24 * 10**9),
        ("24gb", 24 * 10**9),
        ("24564MiB", 24564 * 2**20),
        ("512MB", 512 * 10**6),
        ("0.5TiB", 2**39),
        ("1.5tb", 1_500_000_000_000),
        (".5 GiB", 2**29),
    ],
)
def test_decimal_and_binary_units_differ(text: str, size: int):
    assert parse_bytes(text) == card_memory_bytes(text) == size
    assert named_card(text) is None


def test_a_size_without_a_unit_is_one_clear_line():
    refused("24", "Size '24': a size needs a unit: 24GiB or 24GB")


@pytest.mark.parametrize("text", ["0GiB", "-24GB", "0.0 GiB", "0.0000001MB"])
def test_a_size_is_more_than_nothing(text: str):
    refused(text, f"Size {text!r}: legal is more than 0")


@pytest.mark.parametrize("text", ["24G", "24Gi", "24kB", "24B"])
def test_an_unknown_unit_lists_the_known(text: str):
    refused(text, "unknown unit", "MB, GB, TB, MiB, GiB, TiB")


def test_what_is_no_size_is_not_read_as_one():
    with pytest.raises(InputError, match="'lots' is not a number with a unit"):
        parse_bytes("lots")


def test_a_size_is_shown_in_both_units():
    assert format_bytes(21_120_000_000) == "21.12 GB (19.67 GiB)"
    assert format_bytes(parse_bytes("24GiB")) == "25.77 GB (24.00 GiB)"
    assert format_bytes(1_500_000) == "1.50 MB (1.43 MiB)"
