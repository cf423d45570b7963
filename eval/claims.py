"""What a paper, or the experiment's author, claims of the rows, held against the tests: does it show up here?

    lines = claims(rows, experiment, verdicts)        # tables/claims.csv, a line a claim, panel and score
    table = claims_table(lines, experiment)

`report.claims` of an experiment names pairs of rows, [better, worse], before anything is run. What a claim says is
tested once: the mean of its better rows against the mean of its worse rows, joined seed by seed. Each pair is tested
too, as in `eval/verdicts.py`, but corrected for the pairs of its claim only, since these were asked for beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.chosen import method_and_variant
from eval.collect import Row, panels
from eval.mt_bench_tables import several
from eval.tested import Column, Verdicts
from eval.text import Column as Shown
from eval.text import Table, build, plain
from eval.values import joined
from eval.verdicts import ONE_SEED, Difference, amount, compare, corrected, seen_from, too_few

HEADING = "Claims"
NOTE = (
    "A claim names pairs of rows in advance, the better one first. Its mean difference is that of the better rows' "
    "mean and the worse rows' mean, joined over the seeds that all of them have and tested as one pair; numbers with a "
    "sign are better minus worse. Shows up: it is told apart as claimed, and no single pair the other way (tests as "
    "under the other tables, corrected for the pairs of the claim). In part: only single pairs are. Not seen: nothing "
    "is told apart, which is no proof of equality. Reversed: the mean difference, or single pairs only, are told apart "
    "the other way. Mixed: some of it one way, some the other. Mean and single pairs are tested at 5 % each, to both "
    "sides, and claims are not corrected for each other: of a hundred with nothing behind them up to ten say "
    "something. A pair that was asked for beforehand may be told apart here though it shares a letter in the other "
    "tables, which are corrected for all of their pairs."
)
SHOWS, PART, UNSEEN, REVERSED = "shows up", "shows up in part", "not seen", "reversed"
MIXED, UNTESTED = "mixed", "not tested"

Line = dict[str, Any]


def claims(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts) -> list[Line]:
    """A line for each claim, panel and score; empty if the experiment claims nothing."""
    asked = experiment.get("report", {}).get("claims", [])
    return [
        {"experiment": experiment["name"], "model": model, "data": data, **_line(claim, key, members, verdicts)}
        for (model, data), members in panels(list(rows))
        for claim in asked
        for key in claim["scores"]
    ]


def _line(claim: Mapping[str, Any], key: str, rows: Sequence[Row], verdicts: Verdicts) -> Line:
    names = {row.key[2:]: row.label for row in rows}
    pairs = [tuple(names[method_and_variant(name)] for name in pair) for pair in claim["pairs"]]
    column = verdicts.panels.get(rows[0].key[:2], {}).get(key)
    found = _differences(pairs, column) if column else []
    whole = _together(found, column) if column and len(found) == len(pairs) else None
    for_it = [pair for pair in found if _is_as_claimed(pair, column)]
    against = [pair for pair in found if pair.apart and pair not in for_it]
    return {
        "claim": claim["claim"],
        "source": claim["source"],
        "score": column.label if column else key,
        "pairs": len(pairs),
        "tested": len(found),
        "seeds": whole[1] if whole else None,
        "as_claimed": len(for_it),
        "reversed": len(against),
        "verdict": _verdict(whole and whole[0], column, bool(for_it), bool(against)),
        "mean_difference": _mean_difference(whole and whole[0], column),
        "as_claimed_pairs": _told(for_it, column),
        "reversed_pairs": _told(against, column),
        "undecided_pairs": _told([pair for pair in found if not pair.apart], column),
    }


def _differences(pairs: Sequence[tuple[str, ...]], column: Column) -> list[Difference]:
    """The claim's pairs that could be tested, better minus worse, corrected for each other only."""
    by_names = {frozenset((pair.a, pair.b)): pair for pair in column.verdict.differences}
    found = [(better, by_names.get(frozenset((better, worse)))) for better, worse in pairs]
    tested = [seen_from(better, pair) for better, pair in found if pair and pair.p_holm is not None]
    return corrected(tested, column.verdict.floor)


def _together(found: Sequence[Difference], column: Column) -> tuple[Difference, int] | None:
    """The better rows' mean minus the worse rows' mean, tested as one pair, and over how many seeds; None where no seed
    joins them, or where nothing can tell them apart.
    """
    values, verdict = column.verdict.values, column.verdict
    if len(found) == 1:
        better, worse = values[found[0].a], values[found[0].b]
        return None if too_few(better, pairs=1) else (found[0], min(better.seeds, worse.seeds))
    sides = {side: joined([values[getattr(pair, side)] for pair in found]) for side in ("a", "b")}
    if sides["a"] is None or sides["b"] is None:
        return None
    both = {"better": sides["a"], "worse": sides["b"]}
    options = {"lower_is_better": verdict.lower_is_better, "bounds": verdict.bounds, "floor": verdict.floor}
    told = compare(both, **options)
    return (told.differences[0], min(side.seeds for side in both.values())) if told.tested else None


def _is_as_claimed(pair: Difference, column: Column | None) -> bool:
    return column is not None and pair.apart and (pair.value > 0) != column.verdict.lower_is_better


def _verdict(whole: Difference | None, column: Column | None, for_it: bool, against: bool) -> str:
    """In a word; `for_it`, `against`: whether any single pair is told apart as claimed, or the other way."""
    if whole is None:
        return UNTESTED
    as_claimed = _is_as_claimed(whole, column)
    for_it, against = for_it or as_claimed, against or (whole.apart and not as_claimed)
    if for_it and against:
        return MIXED
    if against:
        return REVERSED
    return SHOWS if as_claimed else PART if for_it else UNSEEN


def _told(pairs: Sequence[Difference], column: Column | None) -> str | None:
    """`a and b by 1.2 [0.4, 2.0]` of each pair; of an undecided one its interval around 0."""
    if column is None or not pairs:
        return None
    told = [f"{pair.a} / {pair.b} {_interval(pair, column)}" for pair in pairs]
    return "; ".join(told)


def _mean_difference(whole: Difference | None, column: Column | None) -> str | None:
    """`by 1.2 [0.4, 2.0]`, as claimed or the other way; its interval around 0 where it is not told apart."""
    if whole is None or column is None:
        return None
    other_way = whole.apart and not _is_as_claimed(whole, column)
    return ("the other way " if other_way else "") + _interval(whole, column)


def _interval(pair: Difference, column: Column) -> str:
    if pair.apart:
        return f"by {amount(pair, column.factor, column.digits)}"
    if pair.low is None or pair.high is None:  # nothing varies
        return f"{column.factor * pair.value:+z.{column.digits}f}"
    value, low, high = (column.factor * number for number in (pair.value, pair.low, pair.high))
    return f"{value:+z.{column.digits}f} [{low:+z.{column.digits}f}, {high:+z.{column.digits}f}]"


def claims_table(lines: list[Line], experiment: Mapping[str, Any]) -> Table:
    """The lines of `claims` for people."""
    columns = [
        *(Shown(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Shown("Claim", plain("claim"), numeric=False),
        Shown("Score", plain("score"), numeric=False),
        Shown("Verdict", plain("verdict"), numeric=False),
        Shown("Mean difference", plain("mean_difference"), numeric=False),
        Shown("Seeds", plain("seeds")),
        Shown("Pairs as claimed", lambda line: f"{line['as_claimed']} of {line['pairs']}"),
        Shown("As claimed", plain("as_claimed_pairs"), numeric=False),
        Shown("Reversed", plain("reversed_pairs"), numeric=False),
        Shown("Not told apart", plain("undecided_pairs"), numeric=False),
        Shown("Source", plain("source"), numeric=False),
    ]
    told = tuple(
        f"{line['claim']}: {line['verdict']} in {line['score']}"
        + (f" ({line['mean_difference']})." if line["mean_difference"] else ".")
        + (ONE_SEED if line["seeds"] == 1 else "")
        for line in lines
    )
    return build("claims", f"{experiment['name']}: claims", columns, lines, [NOTE], (), HEADING, verdicts=told)
