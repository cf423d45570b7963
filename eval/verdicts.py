"""Who is better than whom: every pair of rows of a column tested, corrected, and said in a sentence.

    verdict = compare(values, lower_is_better=False, accuracy=True)     # values: {name: Values}, on the same items
    verdict.differences, verdict.groups["lisa"], verdict.intervals["lisa"]
    sentence(verdict, "GSM8K", factor=100, digits=1)

A difference counts only if Holm's correction over all pairs of the column leaves p at or below 0.05, in the test on the
items and, where both rows have several seeds, in the test on seeds and items (`eval/paired.py`: the larger p counts);
if its 95 % interval (`eval/hierarchical.py`) leaves out 0; and if it is larger than the noise floor. With one seed the
verdict is about the trained models at hand, and says so. How often such verdicts are wrong is counted by simulation
(tests/eval/test_calibration.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from scipy import special

from eval.groups import letters
from eval.hierarchical import Draws
from eval.paired import holm, p_items, p_seeds_and_items, spread
from eval.values import Values

Test = tuple[tuple[int, int], float | None, float | None, float | None]
ALPHA = 0.05
MOST_NAMED = 5  # rows in a sentence


@dataclass(frozen=True)
class Difference:
    """Two rows of a column.

    Args:
        value, low, high: a - b with its 95 % interval; None where there is none.
        p_items: of the test on the items; p_seeds_and_items: of that on both; None where it cannot be asked.
        p_holm: the larger of the two, corrected over all pairs of the column; None where neither could be asked.
        apart: whether the two are told apart.
    """

    a: str
    b: str
    value: float
    low: float | None
    high: float | None
    p_items: float | None
    p_seeds_and_items: float | None
    p_holm: float | None
    apart: bool


@dataclass(frozen=True)
class Verdict:
    """A column.

    Args:
        order: its rows, best first. means, intervals, groups: by row; an interval is None where nothing tells a
            spread, and rows that share a letter are not told apart. A row of which no pair was tested has no letter.
        differences: every pair once, in the rows' given order.
        one_seed: whether a row of a tested pair has one seed only, so that nothing is said of other seeds.
        floor: differences up to this are noise.
        needed: about how far apart two rows must lie to be told apart; None where nothing was tested or nothing varies.
        too_few: how many items there are, where so few can tell no pair apart, whatever the answers (0: the rows share
            none); else None.
        bounds: as given to `compare`.
        values: what was compared.
    """

    order: tuple[str, ...]
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float] | None]
    groups: Mapping[str, str]
    differences: tuple[Difference, ...]
    lower_is_better: bool
    one_seed: bool
    floor: float
    needed: float | None
    too_few: int | None
    bounds: tuple[float, float] | None
    values: Mapping[str, Values]

    @property
    def tested(self) -> bool:
        """Whether the tests could tell any pair apart."""
        return self.too_few is None and any(difference.p_holm is not None for difference in self.differences)

    def pair(self, a: str, b: str) -> Difference:
        """The difference of two rows, a - b."""
        return next(seen_from(a, d) for d in self.differences if {d.a, d.b} == {a, b})

    def ranked(self) -> list[str]:
        """The rows that were tested against any other, best first."""
        return _ranked(self.order, self.differences)


def seen_from(first: str, difference: Difference) -> Difference:
    """The difference as one of its rows minus the other."""
    if difference.a == first:
        return difference
    ends = [None if end is None else -end for end in (difference.high, difference.low)]
    turned = {"a": difference.b, "b": difference.a, "value": -difference.value}
    return replace(difference, **turned, low=ends[0], high=ends[1])


def corrected(differences: Sequence[Difference], floor: float) -> list[Difference]:
    """Some tested pairs of a column, corrected for how many of them there are instead of for all of the column's."""
    ps = holm([max(p for p in (d.p_items, d.p_seeds_and_items) if p is not None) for d in differences])
    return [
        replace(d, p_holm=p, apart=_is_apart(p, d.value, d.low, d.high, floor))
        for d, p in zip(differences, ps, strict=True)
    ]


def _is_apart(p: float | None, value: float, low: float | None, high: float | None, floor: float) -> bool:
    if p is None or low is None or high is None:
        return False
    return p <= ALPHA and (low > 0 or high < 0) and abs(value) > floor


def compare(
    values: Mapping[str, Values],
    *,
    lower_is_better: bool = False,
    accuracy: bool = False,
    bounds: tuple[float, float] | None = None,
    floor: float = 0.0,
    alone: Mapping[str, Values] | None = None,
) -> Verdict:
    """Test every pair of rows.

    Args:
        values: of each row, all on the same items.
        accuracy: items are right or wrong, so that the test on them is exact.
        bounds: least and largest possible value, as of `eval.hierarchical.Draws`.
        floor: the noise floor, in the values' unit.
        alone: rows on items of their own, from which their means and intervals are, where not all share them.
    """
    names, rows = list(values), list(values.values())
    draws = Draws(rows, bounds)
    differences = []
    for (i, j), *ps in tests(rows, accuracy):
        value, (low, high) = rows[i].mean - rows[j].mean, draws.interval(i, j) or (None, None)
        apart = _is_apart(ps[-1], value, low, high, floor)
        differences.append(Difference(names[i], names[j], value, low, high, *ps, apart))
    order = sorted(names, key=lambda name: values[name].mean, reverse=not lower_is_better)
    least = max(floor, _least_by_signs(rows, len(differences)) if accuracy else 0.0)
    ranked = _ranked(order, differences)
    return Verdict(
        order=tuple(order),
        means={name: row.mean for name, row in {**values, **(alone or {})}.items()},
        intervals={name: draws.interval(place) for place, name in enumerate(names)} | _intervals(alone or {}, bounds),
        groups=letters(ranked, [frozenset((d.a, d.b)) for d in differences if d.apart]),
        differences=tuple(differences),
        lower_is_better=lower_is_better,
        one_seed=any(values[name].seeds < 2 for name in ranked),
        floor=floor,
        needed=_needed([(values[d.a], values[d.b]) for d in differences if d.p_holm is not None], least, bounds),
        too_few=too_few(rows[0], len(differences)),
        bounds=bounds,
        values=values,
    )


def unpaired(values: Mapping[str, Values], bounds: tuple[float, float] | None = None) -> Verdict:
    """Scores of rows that share no items: their means and intervals, nothing tested."""
    order = sorted(values, key=lambda name: values[name].mean, reverse=True)
    return Verdict(
        order=tuple(order),
        means={name: row.mean for name, row in values.items()},
        intervals=_intervals(values, bounds),
        groups={},
        differences=(),
        lower_is_better=False,
        one_seed=False,
        floor=0.0,
        needed=None,
        too_few=0,
        bounds=bounds,
        values=values,
    )


def _intervals(rows: Mapping[str, Values], bounds: tuple[float, float] | None) -> dict[str, tuple[float, float] | None]:
    """Of rows whose items are their own."""
    return {name: Draws([row], bounds).interval(0) for name, row in rows.items()}


def _ranked(order: Iterable[str], differences: Iterable[Difference]) -> list[str]:
    """In this order, the rows of all pairs that were tested."""
    tested = {name for pair in differences if pair.p_holm is not None for name in (pair.a, pair.b)}
    return [name for name in order if name in tested]


def _least_by_signs(rows: Sequence[Values], pairs: int) -> float:
    """The least difference that the sign test can tell apart where a row has one seed: so many items one way."""
    if not pairs or len(rows[0].strata) > 1 or min(row.seeds for row in rows) > 1:
        return 0.0
    return math.ceil(1 + math.log2(pairs / ALPHA)) / len(rows[0].item_means[0])


def _needed(pairs: Sequence[tuple[Values, Values]], lowest: float, bounds: tuple[float, float] | None) -> float | None:
    """The median over pairs of the difference at which Student's t has the p that Holm asks of the first of them; not
    below the lowest that can be told apart, nor more than values can lie apart.
    """
    tail = ALPHA / 2 / max(len(pairs), 1)
    spreads = [spread(a, b) for a, b in pairs]
    least = [-float(special.stdtrit(degrees, tail)) * error for error, degrees in spreads if error]
    largest = bounds[1] - bounds[0] if bounds else math.inf
    return min(max(median(least), lowest), largest) if least else None


def too_few(row: Values, pairs: int) -> int | None:
    """How many items there are, if even all differences of one sign, 2 of 2^items ways, are too likely for Holm."""
    items = [len(means) for means in row.item_means]
    return items[0] if len(items) == 1 and items[0] > 1 and 2.0 ** (1 - items[0]) * pairs > ALPHA else None


def tests(rows: Sequence[Values], accuracy: bool) -> list[Test]:
    """Every pair of places with p_items, p_seeds_and_items and p_holm, as in `Difference`."""
    places = list(itertools.combinations(range(len(rows)), 2))
    pairs = [(rows[i], rows[j]) for i, j in places]
    ps = list(zip(p_items(pairs, accuracy), (p_seeds_and_items(a, b) for a, b in pairs), strict=True))
    corrected = iter(holm([max(known) for own in ps if (known := [p for p in own if p is not None])]))
    return [
        (place, *own, None if own == (None, None) else next(corrected)) for place, own in zip(places, ps, strict=True)
    ]


# --- words


def sentence(verdict: Verdict, label: str, factor: float = 1, digits: int = 2, unit: str = "") -> str:
    """What the tests say of a column; values times `factor`, which have the unit."""
    one_seed = ONE_SEED if verdict.one_seed and verdict.tested else ""
    told = f"{label}: {_words(verdict, factor, digits)}.{_untested(verdict)}"
    return f"{told}{_resolution(verdict, factor, digits, unit)}{one_seed}"


def leaders(verdict: Verdict) -> tuple[str, list[str]]:
    """The row that is best, of those that were tested where any was, and those that were tested against it and are not
    told apart from it.
    """
    best, *others = verdict.ranked() or verdict.order
    pairs = [verdict.pair(best, name) for name in others] if verdict.tested else []
    return best, [pair.b for pair in pairs if pair.p_holm is not None and not pair.apart]


ONE_SEED = " One seed: said of the trained models at hand, not of their methods."


def _words(verdict: Verdict, factor: float, digits: int) -> str:
    if len(verdict.order) == 1:
        return f"{verdict.order[0]} stands alone"
    if verdict.too_few == 0:
        return "not tested, since the rows have no items in common"
    if verdict.too_few:
        return f"not tested, since {verdict.too_few} items can not tell any two of {len(verdict.order)} rows apart"
    if not verdict.tested:
        return "not tested, since no seeds or items show a spread"
    best, equals = leaders(verdict)
    behind = [pair for name in verdict.ranked()[1:] if (pair := verdict.pair(best, name)).apart]
    if not any(difference.apart for difference in verdict.differences):
        return f"{listed([best, *equals])} are not distinguishable here"
    alike = f"{listed(equals)} {'is' if len(equals) == 1 else 'are'} not distinguishable from it" if equals else ""
    ahead = f"{best} is better than " + _more(behind, factor, digits) if behind else _others(verdict, factor, digits)
    return f"{best} is best; {alike}; {ahead}" if alike else ahead


def untested(verdict: Verdict) -> list[str]:
    """The rows that were not tested against the best one, since one seed, or equal ones, tell nothing."""
    best = leaders(verdict)[0]
    others = [name for name in verdict.order if name != best]
    return [name for name in others if verdict.pair(best, name).p_holm is None] if verdict.tested else []


def _untested(verdict: Verdict) -> str:
    names = untested(verdict)
    return f" Not tested against {leaders(verdict)[0]}: {listed(names)}." if names else ""


def _resolution(verdict: Verdict, factor: float, digits: int, unit: str) -> str:
    """How large a difference must be to be seen, where any was not."""
    tested = [difference for difference in verdict.differences if difference.p_holm is not None]
    if verdict.needed is None or not verdict.tested or all(difference.apart for difference in tested):
        return ""
    needed = " ".join(filter(None, (f"{factor * verdict.needed:.{digits}f}", unit)))
    rows = len(verdict.ranked())
    which = "two rows" if rows == 2 else f"any two of {rows} rows"
    return f" Telling {which} apart here takes a difference of about {needed}."


def _more(behind: Sequence[Difference], factor: float, digits: int) -> str:
    """The rows that the best one is ahead of, and by how much."""
    named = [f"{difference.b} by {amount(difference, factor, digits)}" for difference in behind[:MOST_NAMED]]
    rest = len(behind) - len(named)
    return listed([*named, f"{rest} more"] if rest else named)


def _others(verdict: Verdict, factor: float, digits: int) -> str:
    """Pairs that are told apart though none is told apart from the best."""
    pairs = [difference for difference in verdict.differences if difference.apart]
    place = {name: index for index, name in enumerate(verdict.order)}
    told = [seen_from(min((pair.a, pair.b), key=place.__getitem__), pair) for pair in pairs]
    named = [f"{pair.a} is better than {pair.b} by {amount(pair, factor, digits)}" for pair in told[:MOST_NAMED]]
    rest = len(told) - len(named)
    return listed([*named, f"{rest} more pairs are told apart"] if rest else named)


def amount(difference: Difference, factor: float, digits: int) -> str:
    """How much better one is, with the interval, whichever direction is better: `1.2 [0.4, 2.0]`."""
    ends = sorted(abs(factor * end) for end in (difference.low, difference.high) if end is not None)
    return f"{abs(factor * difference.value):.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; of very many the first."""
    if len(names) > 2 * MOST_NAMED:
        names = [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
