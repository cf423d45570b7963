"""How many decimals a column of scores deserves: `decimals(floors)`, and `floor_of(row, metric)`, a row's noise floor.

The noise floor is how far a score moves when the same checkpoint is evaluated again or with another batch size
(`results/<experiment>/<model>/noise_floor.json`). Digits behind its first one change from evaluation to evaluation. The
standard error takes no digit away: it says how far a score is from other items' and seeds', and two rows answer the
same items, so that their difference may be known better than either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean

from eval.benchmarks import SUITES
from eval.collect import Row, dig

ROUNDING_NOTE = (
    "Accuracies have two decimals; one where the column's largest noise floor is 0.1 or more, none where it is 1 or "
    "more, so that the last digit shown is the floor's first; beside an interval one fewer. The CSV has all digits."
)
NO_FLOOR_NOTE = (
    "Noise floor not measured{where}: nothing says what the last decimals are worth, and verdicts hold no difference "
    "against a floor."
)


def decimals(floors: Iterable[float | None], most: int = 2) -> int:
    """Decimals of a column, in its unit: up to the first digit of its largest noise floor, `most` without one."""
    largest = max((floor for floor in floors if floor is not None), default=0.0)
    return most if largest <= 0 else min(most, max(0, -math.floor(math.log10(largest))))


def floor_of(row: Row, metric: str) -> float | None:
    """The noise floor of a row's model, 0 to 1; of a suite the mean of its members', which its own cannot exceed."""
    members = SUITES[metric].members if metric in SUITES else (metric,)
    benchmarks = row.first.noise_floor.get("benchmarks", {})
    floors = [dig(benchmarks, (member, "floor")) for member in members]
    return None if any(floor is None for floor in floors) else fmean(floors)
