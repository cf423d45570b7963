"""Claims: what was said beforehand of pairs of rows, and whether it shows up, in part, not at all or the other way."""

from __future__ import annotations

import pytest

from eval.claims import claims, claims_table
from eval.significance import significance
from tests.report import fixture_tree
from tests.report.fixture_tree import rows_of


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """full has the lowest loss and vanilla the lowest score; the two LISA rows are alike."""
    folder = tmp_path_factory.mktemp("claims")
    plan = fixture_tree.write_tree(folder, fixture_tree.experiment(seeds=(0, 1, 2)))
    fixture_tree.write_items(folder, plan)
    rows = rows_of(plan, folder)
    return plan, rows, significance(rows, plan)


def line(tree, *pairs, score="gsm8k"):
    plan, rows, verdicts = tree
    asked = {"claim": "so it is", "source": "a paper", "scores": [score], "pairs": [list(pair) for pair in pairs]}
    (found,) = claims(rows, plan | {"report": {"claims": [asked]}}, verdicts)
    return found


def test_a_claim_shows_up_where_every_pair_is_told_apart_as_claimed(tree):
    found = line(tree, ("full", "vanilla"), ("lisa/gamma2", "vanilla"))
    assert (found["verdict"], found["pairs"], found["as_claimed"]) == ("shows up", 2, 2)
    assert found["as_claimed_pairs"].startswith("full / vanilla by 3") and found["source"] == "a paper"
    lower = line(tree, ("full", "lora/r128"), score="validation_loss")
    assert lower["verdict"] == "shows up" and lower["score"] == "Validation loss"


def test_equals_are_not_seen_and_some_of_the_pairs_are_a_part(tree):
    assert line(tree, ("lisa/gamma2", "lisa/gamma4"))["verdict"] == "not seen"
    found = line(tree, ("full", "vanilla"), ("lisa/gamma2", "lisa/gamma4"))
    assert (found["verdict"], found["as_claimed"]) == ("shows up in part", 1)
    assert found["undecided_pairs"].startswith("lisa gamma2 / lisa gamma4 ")


def test_one_pair_the_other_way_reverses_a_claim(tree):
    found = line(tree, ("vanilla", "full"), ("lisa/gamma2", "vanilla"))
    assert (found["verdict"], found["reversed"], found["as_claimed"]) == ("reversed", 1, 1)
    assert found["reversed_pairs"].startswith("vanilla / full by 3")


def test_what_has_no_values_is_not_tested(tree):
    assert line(tree, ("full", "vanilla"), score="validation_loss")["verdict"] == "not tested"


def test_only_the_claims_own_pairs_are_corrected_for(tree):
    _, _, verdicts = tree
    column = verdicts.panels["tiny", "world-chat"]["gsm8k"]
    pair = next(d for d in column.verdict.differences if (d.a, d.b) == ("full", "lora r128"))
    alone = line(tree, ("full", "lora/r128"))
    assert pair.p_holm > max(pair.p_items, pair.p_seeds_and_items)
    assert (alone["verdict"] == "shows up") == (max(pair.p_items, pair.p_seeds_and_items) <= 0.05)


def test_the_table_says_every_claim_with_its_verdict(tree):
    plan, rows, verdicts = tree
    asked = {"claim": "full beats nothing", "source": None, "scores": ["gsm8k", "mt_bench"]}
    plan = plan | {"report": {"claims": [asked | {"pairs": [["full", "vanilla"]]}]}}
    table = claims_table(claims(rows, plan, verdicts), plan)
    assert table.verdicts == ("full beats nothing: shows up in GSM8K.", "full beats nothing: shows up in MT-Bench.")
    assert len(table.body) == 2 and "Source" not in table.header
    assert claims(rows, plan | {"report": {"published": []}}, verdicts) == []
