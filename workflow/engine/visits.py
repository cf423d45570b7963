"""Which of the units that a method draws have trained so far.

Peak memory of LISA or BAdam is known only once every unit was active: optimizer state may grow with each new one.

    visits = Visits(method)      # after the method built its optimizer
    visits.note()                # after each `before_step`, or later in the step
    visits.complete, visits.visited, visits.total
"""

from __future__ import annotations

from baselines.contract import Method


class Visits:
    """Units of `method.drawn_parameters()` seen active; complete at once for a method that draws none."""

    def __init__(self, method: Method) -> None:
        self.units = [list(unit) for unit in method.drawn_parameters()]
        self._seen: set[int] = set()

    def active(self) -> tuple[int, ...]:
        """Indices of the units that train now."""
        return tuple(index for index, unit in enumerate(self.units) if any(p.requires_grad for p in unit))

    def note(self) -> bool:
        """Count the units active now; whether one of them is new."""
        before = len(self._seen)
        self._seen.update(self.active())
        return len(self._seen) > before

    @property
    def total(self) -> int:
        """Units there are."""
        return len(self.units)

    @property
    def visited(self) -> int:
        """Units seen active."""
        return len(self._seen)

    @property
    def complete(self) -> bool:
        """Whether every unit was active at some time."""
        return self.visited == self.total
