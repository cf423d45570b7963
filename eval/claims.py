"""What a paper, or the experiment's author, claims of the rows, held against the tests: does it show up here?

    lines = claims(rows, experiment, verdicts)        # tables/claims.csv, a line a claim, panel and score
    table = claims_table(lines, experiment)

`report.claims` of an experiment names pairs of rows, [better, worse], before anything is run. Each pair is tested as
in `eval/verdicts.py`, but corrected for the pairs of its claim only, since these were asked for beforehand. A claim
shows up where every pair is told apart as claimed, and is reversed where one is told apart the other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.collect import Row, panels
from eval.tested import Column, Verdicts
from eval.text import Column as Shown
from eval.text import Table, build, plain
from eval.verdicts import Difference, amount, corrected, seen_from

HEADING = "Claims"
NOTE = (
    "A claim names pairs of rows in advance, the better one first. Shows up: every pair is told apart as claimed "
    "(tests as under the other tables, corrected for the pairs of the claim). In part: some are, and none the other "
    "way. Not seen: none is told apart, which is no proof of equality. Reversed: a pair is told apart the other way."
)
SHOWS, PART, UNSEEN, REVERSED, UNTESTED = "shows up", "shows up in part", "not seen", "reversed", "not tested"

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
    pairs = [tuple(names[_place(name)] for name in pair) for pair in claim["pairs"]]
    column = verdicts.panels.get(rows[0].key[:2], {}).get(key)
    found = _differences(pairs, column) if column else []
    for_it = [pair for pair in found if pair.apart and _is_better(pair, column)]
    against = [pair for pair in found if pair.apart and pair not in for_it]
    return {
        "claim": claim["claim"],
        "source": claim["source"],
        "score": column.label if column else key,
        "pairs": len(pairs),
        "tested": len(found),
        "as_claimed": len(for_it),
        "reversed": len(against),
        "verdict": _verdict(len(pairs), len(found), len(for_it), len(against)),
        "as_claimed_pairs": _told(for_it, column),
        "reversed_pairs": _told(against, column),
        "undecided_pairs": _told([pair for pair in found if not pair.apart], column),
    }


def _place(name: str) -> tuple[str, str]:
    method, _, variant = name.partition("/")
    return method, variant or "default"


def _differences(pairs: Sequence[tuple[str, ...]], column: Column) -> list[Difference]:
    """The claim's pairs that could be tested, better minus worse, corrected for each other only."""
    by_names = {frozenset((pair.a, pair.b)): pair for pair in column.verdict.differences}
    found = [(better, by_names.get(frozenset((better, worse)))) for better, worse in pairs]
    tested = [seen_from(better, pair) for better, pair in found if pair and pair.p_holm is not None]
    return corrected(tested, column.verdict.floor)


def _is_better(pair: Difference, column: Column | None) -> bool:
    return column is not None and (pair.value > 0) != column.verdict.lower_is_better


def _verdict(pairs: int, tested: int, as_claimed: int, against: int) -> str:
    if tested < pairs:
        return UNTESTED
    if against:
        return REVERSED
    return SHOWS if as_claimed == pairs else PART if as_claimed else UNSEEN


def _told(pairs: Sequence[Difference], column: Column | None) -> str | None:
    """`a and b by 1.2 [0.4, 2.0]` of each pair; of an undecided one its interval around 0."""
    if column is None or not pairs:
        return None
    told = [f"{pair.a} / {pair.b} {_interval(pair, column)}" for pair in pairs]
    return "; ".join(told)


def _interval(pair: Difference, column: Column) -> str:
    if pair.apart:
        return f"by {amount(pair, column.factor, column.digits)}"
    value, low, high = (column.factor * number for number in (pair.value, pair.low, pair.high))
    return f"{value:+.{column.digits}f} [{low:+.{column.digits}f}, {high:+.{column.digits}f}]"


def claims_table(lines: list[Line], experiment: Mapping[str, Any]) -> Table:
    """The lines of `claims` for people."""
    several = [key for key in ("model", "data") if len({line[key] for line in lines}) > 1]
    columns = [
        *(Shown(key.capitalize(), plain(key), numeric=False) for key in several),
        Shown("Claim", plain("claim"), numeric=False),
        Shown("Score", plain("score"), numeric=False),
        Shown("Verdict", plain("verdict"), numeric=False),
        Shown("Pairs as claimed", lambda line: f"{line['as_claimed']} of {line['pairs']}"),
        Shown("As claimed", plain("as_claimed_pairs"), numeric=False),
        Shown("Reversed", plain("reversed_pairs"), numeric=False),
        Shown("Not told apart", plain("undecided_pairs"), numeric=False),
        Shown("Source", plain("source"), numeric=False),
    ]
    told = tuple(f"{line['claim']}: {line['verdict']} in {line['score']}." for line in lines)
    return build("claims", f"{experiment['name']}: claims", columns, lines, [NOTE], (), HEADING, verdicts=told)
