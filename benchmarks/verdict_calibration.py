"""How often verdicts are wrong, and how often they find a difference that is there: counted on simulated tables.

    python benchmarks/verdict_calibration.py                                # all worlds, some 10 minutes on one core
    python benchmarks/verdict_calibration.py --tables 200 --methods 5

A table is a benchmark of some items, answered by methods with several seeds each. Whether an answer is right follows
from the sum of five normal variables: how good the method is, how hard the item, how well the item suits the method,
how well a seed came out, and chance; right is what lies above 0. Printed are

- for methods that are equally good: in how many of the tables a verdict calls any method better (should be 5 % at most;
  beside it, what the same verdicts would be by the items alone, as if the seeds were no sample),
- for two methods of which one is better by some points: how often the verdict finds it, and how often an unpaired test
  of the two accuracies does, by how many answers two methods give differently and by the spread of the seeds.

tests/eval/test_calibration.py holds two of these rows to their bounds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eval.values import Values  # noqa: E402
from eval.verdicts import ALPHA, compare, tests  # noqa: E402


@dataclass(frozen=True)
class World:
    """Tables of one kind.

    Args:
        accuracy: of a method that nothing is added to. items, seeds: of the benchmark, of each method.
        suits: standard deviation of how items suit methods. chance: of what differs between two answers of the same
            method to the same item; both against 1 for how hard items are.
        seed_points: standard deviation of the seeds' accuracies that is their own, in percentage points; one for all
            methods, or one a method.
    """

    items: int = 1319  # GSM8K's
    seeds: int = 3
    accuracy: float = 0.5
    suits: float = 0.1
    chance: float = 0.2
    seed_points: float | tuple[float, ...] = 0.0

    def table(self, draw: np.random.Generator, better_points: Sequence[float]) -> NDArray[np.float64]:
        """(methods, seeds, items) of 1.0 and 0.0; each method is better by so many percentage points."""
        scale = float(np.sqrt(1 + self.suits**2 + self.chance**2))
        centre = stats.norm.ppf(self.accuracy)
        a_point = scale / stats.norm.pdf(centre) / 100  # on the scale of the sum
        methods = len(better_points)
        spread = np.broadcast_to(self.seed_points, methods)[:, None, None]
        total = centre * scale + a_point * np.asarray(better_points)[:, None, None]
        total = total + draw.standard_normal(self.items)
        total = total + self.suits * draw.standard_normal((methods, 1, self.items))
        total = total + a_point * spread * draw.standard_normal((methods, self.seeds, 1))
        return (total + self.chance * draw.standard_normal((methods, self.seeds, self.items)) > 0).astype(float)


def false_verdicts(world: World, methods: int, tables: int, seed: int = 0) -> tuple[float, float]:
    """Shares of tables of equal methods in which a verdict calls one better, and in which the items alone would."""
    draw = np.random.default_rng(seed)
    called = by_items = 0
    for _ in range(tables):
        rows = [Values((row,)) for row in world.table(draw, [0.0] * methods)]
        ps = tests(rows, accuracy=True)
        by_items += min(p for _, p, _, _ in ps if p is not None) * len(ps) <= ALPHA  # Holm's first step
        if any(p <= ALPHA for *_, p in ps if p is not None):  # the rest of a verdict can only take it back
            verdict = compare(_named(rows), accuracy=True)
            called += any(difference.apart for difference in verdict.differences)
    return called / tables, by_items / tables


def found(world: World, points: float, pairs: int, seed: int = 0) -> tuple[float, float, float]:
    """Shares of pairs, one method better by `points`, in which the verdict says so and in which an unpaired test does;
    and the share of answers that two methods give differently.
    """
    draw = np.random.default_rng(seed)
    paired = unpaired = 0
    differing = 0.0
    for _ in range(pairs):
        better, worse = world.table(draw, [points, 0.0])
        verdict = compare(_named([Values((better,)), Values((worse,))]), accuracy=True)
        paired += any(d.apart and d.value > 0 for d in verdict.differences)
        unpaired += float(stats.ttest_ind(better.mean(axis=0), worse.mean(axis=0), equal_var=False).pvalue) <= ALPHA
        differing += float((better != worse).mean())
    return paired / pairs, unpaired / pairs, differing / pairs


def _named(rows: Sequence[Values]) -> dict[str, Values]:
    return {str(place): row for place, row in enumerate(rows)}


SPREADS = (0.0, 0.5, 1.0, 2.0)
SIZES = ((1319, 3), (300, 5), (160, 2))  # items, seeds
ANSWERS = ((0.1, 0.2), (0.2, 0.3), (0.4, 0.6))  # suits, chance


def main() -> None:
    """Print both tables as Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tables", type=int, default=2000, help="tables a row (2000)")
    arguments.add_argument("--pairs", type=int, default=500, help="pairs a row (500)")
    arguments.add_argument("--methods", type=int, default=5, help="methods of a table (5)")
    given = arguments.parse_args()
    print(f"{given.tables} tables of {given.methods} equally good methods a row.\n")
    print("| items | seeds | spread of seeds (points) | tables with a false verdict (%) | by the items alone (%) |")
    print("|---:|---:|---:|---:|---:|")
    for items, seeds in SIZES:
        for spread in SPREADS:
            world = World(items=items, seeds=seeds, seed_points=spread)
            called, by_items = false_verdicts(world, given.methods, given.tables)
            print(f"| {items} | {seeds} | {spread:g} | {100 * called:.1f} | {100 * by_items:.1f} |", flush=True)
    print(f"\n{given.pairs} pairs a row, one method better by 2 points; 1319 items, 3 seeds.\n")
    print("| answers that differ (%) | spread of seeds (points) | found (%) | found by an unpaired test (%) |")
    print("|---:|---:|---:|---:|")
    for suits, chance in ANSWERS:
        for spread in SPREADS:
            world = World(suits=suits, chance=chance, seed_points=spread)
            paired, unpaired, differing = found(world, 2.0, given.pairs)
            print(f"| {100 * differing:.0f} | {spread:g} | {100 * paired:.0f} | {100 * unpaired:.0f} |", flush=True)


if __name__ == "__main__":
    main()
