"""The memory timeline of one metered step: bytes by role at every operator, from the lives of its storages.

    with meter.phase("train", model, optimizer), meter.step(timeline=True):
        train_step()
    meter.timeline.write_csv(folder / "timeline.csv")

A row is a moment: after an operator, and at the borders of parts. The first row is what was there when the step began,
the last what it left. Roles are those of `live_storage.py`, each storage with the one it had in the end. The largest
row is the step's peak in the live tensor storage, exactly, unless a storage was resized: it counts with its last size.
On CUDA the allocator holds a little more (rounding, workspaces), which no row shows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from workflow.engine.live_storage import ROLES, Life

HEADER = ("operator", "part", *(f"{role}_bytes" for role in ROLES))


class Moment(NamedTuple):
    """One row: the running number of the moment in the step, from 1, its part ("" outside) and the bytes by role."""

    operator: int
    part: str
    roles: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes of all roles."""
        return sum(self.roles)


class Timeline:
    """Lives of storages and borders of parts between two moments of a ledger."""

    def __init__(self, first: int) -> None:
        self.first = self.last = first  # the moments after `first`, up to `last`
        self.lives: list[Life] = []
        self.borders: list[tuple[int, str]] = []  # moment after which a part begins; "": after which it is over

    def moments(self, limit: int | None = None) -> list[Moment]:
        """All moments, or about `limit` of them: of each of that many equal stretches the largest."""
        roles = list(zip(*(self._bytes(role) for role in range(len(ROLES))), strict=True))
        parts = list(self._parts())
        found = [Moment(i + 1, parts[i], roles[i]) for i in range(len(roles))]
        size = 1 if limit is None else -(-len(found) // limit)
        return [max(found[i : i + size], key=lambda moment: moment.total) for i in range(0, len(found), size)]

    def largest(self) -> dict[str, int]:
        """The most bytes of each role at any moment of the step; other roles need not be largest at the same one."""
        return {role: max(self._bytes(place), default=0) for place, role in enumerate(ROLES)}

    def write_csv(self, file: Path, limit: int = 1000) -> None:
        """Columns operator, part and the roles in bytes; at most `limit` rows, the peak among them."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows((moment.operator, moment.part, *moment.roles) for moment in self.moments(limit))

    def _bytes(self, role: int) -> Iterable[int]:
        """Bytes of a role at every moment: the running sum of births and deaths."""
        changes = [0] * (self.last - self.first + 1)
        for life in self.lives:
            if life.role == role:
                changes[max(life.born - self.first - 1, 0)] += life.nbytes
                changes[life.died - self.first] -= life.nbytes
        return accumulate(changes[:-1])

    def _parts(self) -> Iterable[str]:
        borders, part = dict(self.borders), ""
        for moment in range(self.first, self.last):
            part = borders.get(moment, part)
            yield part
