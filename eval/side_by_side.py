"""Two results folders side by side: every row that both have with its metrics, and why a metric does not compare.

    a, b = read_side(Path("results/a"), experiment_a), read_side(Path("results/b"), experiment_b)   # eval/sides.py
    found = side_by_side(a, b)
    found.pairs[0].metrics[0].difference     # None with `reasons`, or where only one side has the metric
    table(found)                             # one row a metric, as eval/tables.py has them

Rows are matched by (model, data, method, variant), the cells of memory experiments by (model, method, variant,
setting); an experiment's name decides nothing. Runs are compared seed by seed, so only seeds that both have count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from eval.collect import Row, Run, score
from eval.comparable import About, differing, reasons, same_version
from eval.conditions import distinct
from eval.memory_cells import unmet
from eval.protocols import MT_BENCH, across_versions, described, metrics, protocol, told_apart
from eval.sides import IDENTITY, Key, Side
from eval.statistics import Estimate, combine_seeds
from eval.tables import TableRow

COST: dict[str, tuple[About, tuple[str, ...]]] = {
    "peak_memory_bytes": ("memory", ("memory", "phases", "train")),
    "tokens_per_s": ("speed", ("throughput", "tokens_per_s")),
    "step_median_s": ("speed", ("time", "step_median_s")),
}
PREDICTED = "predicted_peak_bytes"
PEAKS = ("peak_memory_bytes", PREDICTED)
RATIOS = (*COST, PREDICTED)

Json = Mapping[str, Any]
Read = Callable[[Run], tuple[Any, float | None]]
Tell = Callable[[Run, Run], Iterable[str]]


@dataclass(frozen=True)
class Metric:
    """One metric of a row on both sides.

    Args:
        name: `validation_loss`, a benchmark (0 to 1), `mt_bench` (points), or one of `RATIOS`.
        a, b: means over `seeds`, of peaks the largest; without a value where a side has none.
        seeds: those that both sides have; where they share none, or one side has no value, those of each.
        reasons: why the two do not compare.
        made: how a score was made, e.g. `5-shot`, or who judged.
    """

    name: str
    a: Estimate
    b: Estimate
    seeds: tuple[int, ...]
    reasons: tuple[str, ...] = ()
    made: str | None = None

    @property
    def difference(self) -> float | None:
        """b - a of a score or loss."""
        return self._change(lambda a, b: b - a) if self.name not in RATIOS else None

    @property
    def ratio(self) -> float | None:
        """b / a of memory or speed."""
        return self._change(lambda a, b: b / a if a else None) if self.name in RATIOS else None

    def _change(self, change: Callable[[float, float], float | None]) -> float | None:
        both = self.a.value is not None and self.b.value is not None and not self.reasons
        return change(self.a.value, self.b.value) if both else None  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pair:
    """One row of both sides; `notes` say what does not forbid a comparison but may explain a difference."""

    key: Key
    a: Row
    b: Row
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    code_changed: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of both sides."""
        of_b = {run.seed for run in self.b.runs}
        return tuple(run.seed for run in self.a.runs if run.seed in of_b)

    @property
    def compares(self) -> bool:
        """Whether nothing in it fails to compare."""
        return not any(metric.reasons for metric in self.metrics)

    @property
    def one_sided(self) -> bool:
        """Whether one side was not asked for something that the other one has."""
        return any(None in (metric.a.value, metric.b.value) and not metric.reasons for metric in self.metrics)


@dataclass(frozen=True)
class SideBySide:
    """All of it; `only_a` and `only_b` are the keys of rows that the other side lacks."""

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rows on both sides, those with something that does not compare or that one side has, rows on one side."""
        differing = {
            "not_comparable": sum(not pair.compares for pair in self.pairs),
            "one_sided": sum(pair.one_sided for pair in self.pairs),
        }
        alone = {"only_a": len(self.only_a), "only_b": len(self.only_b)}
        return {"rows": len(self.pairs), **differing, **alone}


# --- matching


def side_by_side(a: Side, b: Side) -> SideBySide:
    """Match the rows of two sides of one kind and compare what both have."""
    pairs = tuple(_pair(key, a, b) for key in a.rows if key in b.rows)
    only_a, only_b = (tuple(key for key in one.rows if key not in other.rows) for one, other in ((a, b), (b, a)))
    return SideBySide(a, b, pairs, only_a, only_b)


def _pair(key: Key, a: Side, b: Side) -> Pair:
    one, other = a.rows[key], b.rows[key]
    predicted = _predicted(a.predictions.get(key, {}), b.predictions.get(key, {}))
    found = tuple(metric for metric in (*_quality(one, other), *predicted, *_cost(one, other, a.kind)) if metric)
    return Pair(key, one, other, found, tuple(_notes(one, other, a.kind)), _code_changed(one, other))


def _notes(a: Row, b: Row, kind: str) -> Iterator[str]:
    """How runs ended, seeds that the other side lacks, measurements that did not see everything."""
    for name, row, other in (("a", a, b), ("b", b, a)):
        alone = [str(run.seed) for run in row.runs if run.seed not in {each.seed for each in other.runs}]
        if 0 < len(alone) < len(row.runs) and kind == "training":
            several = len(alone) > 1
            yield (
                f"seed{'s' if several else ''} {', '.join(alone)} {'stand' if several else 'stands'} in {name} only "
                f"and {'are' if several else 'is'} left out"
            )
        if row.status not in ("ok", "not measured"):
            yield f"{name}: {row.status}" + (f": {row.reason}" if row.reason else "")
        elif row.status == "not measured" and row.first.foreign:
            yield f"{name}: {row.first.reason}"
        yield from (f"{name}: {words}" for run in row.runs if (words := unmet(run.record)))


def _code_changed(a: Row, b: Row) -> bool:
    """Whether runs of a common seed were made by different sources of the method, loop or engine."""
    codes = [{run.seed: run.field("environment", "code_sha256") for run in row.runs} for row in (a, b)]
    return any(codes[0][seed] != codes[1][seed] for seed in codes[0] if codes[0][seed] and codes[1].get(seed))


# --- metrics


def _quality(a: Row, b: Row) -> Iterator[Metric | None]:
    yield _metric("validation_loss", a, b, lambda run: score(run, "validation_loss"), _of_records("loss"))
    for name in (*metrics((a, b), {}), MT_BENCH):
        yield from _scores(name, a, b)


def _scores(name: str, a: Row, b: Row) -> Iterator[Metric | None]:
    """A metric for each protocol that both have; what is left over stands beside each other and does not compare."""
    of_a, of_b = (dict.fromkeys(filter(None, (_scored_as(run, name) for run in row.runs))) for row in (a, b))
    both = [(key, key) for key in of_a if key in of_b]
    rest = zip_longest((key for key in of_a if key not in of_b), (key for key in of_b if key not in of_a))
    for keys in (*both, *rest):
        scored = [run for row in (a, b) for run in row.runs if _scored_as(run, name) in filter(None, keys)]
        made = _judges(scored) if name == MT_BENCH else described(scored, name)
        yield _metric(name, a, b, _read_score(name, scored), _of_scores(name), made)


def _scored_as(run: Run, name: str) -> str | None:
    """A score's protocol as text, whatever the versions of libraries; None where there is no score."""
    found = protocol(run, name)
    return None if found is None else json.dumps(across_versions(found), sort_keys=True)


def _read_score(name: str, scored: list[Run]) -> Read:
    return lambda run: score(run, name) if any(run is each for each in scored) else (None, None)


def _judges(runs: Iterable[Run]) -> str | None:
    return distinct(run.judged["judge"]["model"] for run in runs)


def _cost(a: Row, b: Row, kind: str) -> Iterator[Metric | None]:
    for name, (about, keys) in COST.items():
        if kind == "memory" and name == "peak_memory_bytes":
            keys = ("memory", "allocated_peak_bytes")  # as eval/memory_tables.py shows it
        yield _metric(name, a, b, _read_record(keys), _of_records(about))


def _read_record(keys: tuple[str, ...]) -> Read:
    return lambda run: (run.field(*keys) if run.trained else None, None)


def _metric(name: str, a: Row, b: Row, read: Read, tell: Tell, made: str | None = None) -> Metric | None:
    """A metric over the seeds that both have a value of; None where neither has one.

    Args:
        read: a run's value with its standard error over items.
        tell: why two runs' values do not compare.
    """
    of_a, of_b = ({run.seed: run for run in row.runs if read(run)[0] is not None} for row in (a, b))
    if not of_a and not of_b:
        return None
    common = tuple(seed for seed in of_a if seed in of_b)
    values_a, values_b = ({seed: read(of[seed]) for seed in common or of} for of in (of_a, of_b))
    if common:
        told = {seed: tuple(tell(of_a[seed], of_b[seed])) for seed in common}
        why = _joined(told)
    elif of_a and of_b:
        why = (f"no seed in common: {_seeds(of_a)} in a, {_seeds(of_b)} in b",)
    else:
        why = _lost(name, a, b, bool(of_a))
    seeds = tuple(dict.fromkeys([*values_a, *values_b]))
    return Metric(name, _estimate(name, values_a), _estimate(name, values_b), seeds, why, made)


def _estimate(name: str, values: Mapping[int, tuple[Any, float | None]]) -> Estimate:
    """Mean with its standard error; of peaks the largest, since that is what must fit."""
    found = [value for value, _ in values.values()]
    if name == "peak_memory_bytes":
        return Estimate(max(found, default=None), None, len(found))
    return combine_seeds(found, [stderr for _, stderr in values.values()])


def _joined(told: Mapping[int, tuple[str, ...]]) -> tuple[str, ...]:
    """Each reason once, with its seeds unless it is of all."""
    seeds: dict[str, list[int]] = {}
    for seed, why in told.items():
        for reason in why:
            seeds.setdefault(reason, []).append(seed)
    return tuple(
        reason if len(found) == len(told) else f"seed {_seeds(found)}: {reason}" for reason, found in seeds.items()
    )


def _seeds(found: Iterable[int]) -> str:
    return ", ".join(map(str, found))


def _lost(name: str, a: Row, b: Row, in_a: bool) -> tuple[str, ...]:
    """Why one side lacks a value that it was to have; empty where it was not asked for one."""
    side, row = ("b", b) if in_a else ("a", a)
    if any(run.status not in ("ok", "not measured") for run in row.runs):
        return (f"{side} is {row.status}",)
    otherwise = any(score(run, name)[0] is not None for run in row.runs)
    return (f"no seed of {side} was scored this way",) if otherwise else ()


def _of_records(about: About) -> Tell:
    return lambda a, b: reasons(a.record, b.record, about)


def _of_scores(name: str) -> Tell:
    def tell(a: Run, b: Run) -> Iterator[str]:
        yield from reasons(a.record, b.record, "scores")
        one, other = (across_versions(protocol(run, name) or {}) for run in (a, b))
        if one != other:
            words = told_apart(one, other)
            yield f"protocol: {words[0]} in a; {words[1]} in b"

    return tell


def _predicted(a: Json, b: Json) -> Iterator[Metric]:
    """Predicted peaks of a cell; files of simulated.json's own schema version, conditions in place of settings."""
    if not a and not b:
        return
    one, other = (Estimate(found.get("peak_bytes"), None, 1 if found else 0) for found in (a, b))
    yield Metric(PREDICTED, one, other, (), tuple(_against(a, b)) if a and b else ())


def _against(a: Json, b: Json) -> Iterator[str]:
    if not same_version(a.get("schema_version"), b.get("schema_version")):
        yield f"predictions of versions {a.get('schema_version')} and {b.get('schema_version')}"
    if a["parameters"] != b["parameters"]:
        yield f"parameters: {a['parameters']} in a, {b['parameters']} in b"
    yield from differing(*({**found["method"]["hyperparameters"], **found["conditions"]} for found in (a, b)), "memory")


# --- as a table


def table(found: SideBySide) -> list[TableRow]:
    """A row for each metric of each pair, for `eval.tables.write_csv`."""
    return [
        {
            **dict(zip(IDENTITY[found.a.kind], pair.key, strict=True)),
            "metric": metric.name,
            "made": metric.made,
            "seeds": " ".join(map(str, metric.seeds)),
            **{
                f"{side}{key}": value
                for side, estimate in (("a", metric.a), ("b", metric.b))
                for key, value in (("", estimate.value), ("_stderr", estimate.stderr))
            },
            "difference": metric.difference,
            "ratio": metric.ratio,
            "not_compared": "; ".join(metric.reasons) or None,
            "code_changed": pair.code_changed,
        }
        for pair in found.pairs
        for metric in pair.metrics
    ]
