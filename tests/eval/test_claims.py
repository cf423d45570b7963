"""Claims: what was said beforehand of pairs of rows, and whether it shows up, in part, not at all or the other way."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from eval.claims import claims, claims_table
from eval.collect import Row
from eval.significance import significance
from eval.tested import Column, Verdicts
from eval.values import Values
from eval.verdicts import compare
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


def test_equals_are_not_seen(tree):
    found = line(tree, ("lisa/gamma2", "lisa/gamma4"))
    assert (found["verdict"], found["as_claimed"]) == ("not seen", 0)
    assert found["undecided_pairs"].startswith("lisa gamma2 / lisa gamma4 ")


def test_what_is_told_apart_the_other_way_reverses_a_claim(tree):
    found = line(tree, ("vanilla", "full"))
    assert (found["verdict"], found["reversed"], found["as_claimed"]) == ("reversed", 1, 0)
    assert found["reversed_pairs"].startswith("vanilla / full by 3")
    both = line(tree, ("vanilla", "full"), ("lisa/gamma2", "vanilla"))
    assert (both["verdict"], both["reversed"], both["as_claimed"]) == ("mixed", 1, 1)


def of_seeds(seed_scores, *pairs):
    """The line of a claim about rows with these scores by seed."""
    return of_values(
        {name: Values((np.array(scores)[:, None],), (0, 1, 2)) for name, scores in seed_scores.items()}, *pairs
    )


def of_values(values, *pairs):
    rows = [
        Row((SimpleNamespace(model="tiny", data="world", method=name, variant="default"),), "tiny") for name in values
    ]
    verdicts = Verdicts({("tiny", "world"): {"score": Column("score", "Score", "", 1, 2, compare(values), "")}})
    asked = {"claim": "so it is", "source": None, "scores": ["score"], "pairs": [list(pair) for pair in pairs]}
    (found,) = claims(rows, {"name": "toy", "report": {"claims": [asked]}}, verdicts)
    return found


def test_pairs_that_are_too_close_one_by_one_are_told_apart_together():
    """Each row's seeds lie 2 apart, but of the rows of a side others are lucky in another seed."""
    scores = {"a": (5, 3, 4), "b": (4, 5, 3), "c": (3.1, 4, 5), "x": (3.2, 1, 2), "y": (2, 3, 1), "z": (1, 2, 3)}
    found = of_seeds(scores, ("a", "x"), ("b", "y"), ("c", "z"))
    assert (found["verdict"], found["as_claimed"], found["reversed"]) == ("shows up", 0, 0)
    assert found["mean_difference"].startswith("by 1.9")


def test_single_pairs_without_the_mean_are_a_part():
    scores = {"a": (9, 9.1, 9.2), "x": (8, 8.1, 8.2), "b": (5, 1, 3), "y": (1, 5, 3)}
    found = of_seeds(scores, ("a", "x"), ("b", "y"))
    assert (found["verdict"], found["as_claimed"]) == ("shows up in part", 1)
    assert found["undecided_pairs"].startswith("b / y +0.00 [")


def test_rows_whose_seeds_are_all_alike_are_not_tested():
    found = of_seeds({"a": (2, 2, 2), "x": (1, 1, 1)}, ("a", "x"))
    assert (found["verdict"], found["tested"], found["mean_difference"]) == ("not tested", 0, None)


def test_a_claim_of_one_seed_says_so(tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment(seeds=(0,)))
    fixture_tree.write_items(tmp_path, plan)
    rows = rows_of(plan, tmp_path)
    asked = {"claim": "full beats", "source": None, "scores": ["gsm8k"], "pairs": [["full", "vanilla"]]}
    plan = plan | {"report": {"claims": [asked]}}
    lines = claims(rows, plan, significance(rows, plan))
    assert lines[0]["seeds"] == 1 and lines[0]["verdict"] == "shows up"
    assert (
        claims_table(lines, plan)
        .verdicts[0]
        .endswith("One seed: said of the trained models at hand, not of their methods.")
    )


def test_pairs_of_too_few_items_are_not_tested():
    values = {name: Values((np.full((3, 4), level),), (0, 1, 2)) for name, level in (("a", 9.0), ("x", 1.0))}
    found = of_values(values, ("a", "x"))
    assert (found["verdict"], found["mean_difference"]) == ("not tested", None)


def test_what_has_no_values_is_not_tested(tree):
    assert line(tree, ("full", "vanilla"), score="validation_loss")["verdict"] == "not tested"


CLOSE = {"a": (1.0, 1.2, 1.4), "b": (1.55, 1.75, 1.95), "c": (1.1, 1.2, 1.3), "d": (1.2, 1.1, 1.3)}


def test_a_claims_own_pair_alone_is_not_corrected_for_the_others():
    values = {name: Values((np.array(scores)[:, None],), (0, 1, 2)) for name, scores in CLOSE.items()}
    pair = next(d for d in compare(values).differences if {d.a, d.b} == {"a", "b"})
    assert pair.p_seeds_and_items <= 0.05 < pair.p_holm and not pair.apart
    assert of_seeds(CLOSE, ("b", "a"))["verdict"] == "shows up"


def test_a_claims_pairs_are_corrected_for_each_other():
    found = of_seeds(CLOSE, ("b", "a"), ("c", "d"))
    assert (found["as_claimed"], found["reversed"]) == (0, 0)


def test_a_claim_is_reversed_by_its_mean_alone():
    """As above, with the sides the other way round."""
    scores = {"a": (5, 3, 4), "b": (4, 5, 3), "c": (3.1, 4, 5), "x": (3.2, 1, 2), "y": (2, 3, 1), "z": (1, 2, 3)}
    found = of_seeds(scores, ("x", "a"), ("y", "b"), ("z", "c"))
    assert (found["verdict"], found["as_claimed"], found["reversed"]) == ("reversed", 0, 0)


def test_the_table_says_every_claim_with_its_verdict(tree):
    plan, rows, verdicts = tree
    asked = {"claim": "full beats nothing", "source": None, "scores": ["gsm8k", "mt_bench"]}
    plan = plan | {"report": {"claims": [asked | {"pairs": [["full", "vanilla"]]}]}}
    table = claims_table(claims(rows, plan, verdicts), plan)
    gsm8k, mt_bench = table.verdicts
    assert gsm8k.startswith("full beats nothing: shows up in GSM8K (by 35.8 [") and gsm8k.endswith("]).")
    assert mt_bench.startswith("full beats nothing: shows up in MT-Bench (by ")
    assert len(table.body) == 2 and "Source" not in table.header
    assert claims(rows, plan | {"report": {"published": []}}, verdicts) == []
