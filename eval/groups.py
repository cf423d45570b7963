"""Groups of equals: letters that rows share where no test tells them apart.

    letters([0, 1, 2], {frozenset((0, 2))})      # ["a", "ab", "b"]: 0 and 2 differ, 1 is like both

The compact letter display of Piepho (2004): every pair that is told apart splits each group that holds both.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar

Row = TypeVar("Row", bound=Hashable)


def letters(order: Sequence[Row], apart: Collection[frozenset[Row]]) -> dict[Row, str]:
    """The letters of each row.

    Args:
        order: rows, best first: `a` is the group of the first.
        apart: the pairs of rows that are told apart.
    """
    groups = [frozenset(order)]
    for pair in apart:
        split = [part for group in groups for part in ([group - {row} for row in pair] if pair <= group else [group])]
        groups = [group for group in dict.fromkeys(split) if not any(group < other for other in split)]
    place = {row: index for index, row in enumerate(order)}
    groups.sort(key=lambda group: sorted(place[row] for row in group))
    return {row: "".join(_letter(index) for index, group in enumerate(groups) if row in group) for row in order}


def _letter(index: int) -> str:
    """a to z, then a2, b2 and so on."""
    again, letter = divmod(index, 26)
    return chr(ord("a") + letter) + (str(again + 1) if again else "")
