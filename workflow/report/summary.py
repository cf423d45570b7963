"""The three answers of a report, before any table: will it fit, how fast is it, how good is the result.

    answers = three_answers(rows, verdicts, claims)        # [Answer(question, [sentence, ...]), ...]

Every sentence is made from the run records, those on scores from the tests; none is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.collect import Row, panels
from eval.tables import UNSTEADY, steady_s, unsteady
from eval.tested import Column, Verdicts, is_category
from eval.text import GB, MB
from eval.verdicts import ONE_SEED, leaders, listed, untested
from workflow.report.card_lines import fits_words

OTHERS = ("step_median_s", "bits_per_byte", "win_rate")  # columns that answer another question


@dataclass(frozen=True)
class Answer:
    """A question with its sentences."""

    question: str
    sentences: list[str]


def three_answers(rows: Sequence[Row], verdicts: Verdicts, claimed: Iterable[Mapping[str, Any]] = ()) -> list[Answer]:
    """Fits, fast, good; and what was claimed beforehand, where anything was."""
    found = list(panels(rows))
    claimed = list(claimed)

    def each(answer: Callable[[Sequence[Row]], list[str]]) -> list[str]:
        said = [(panel, sentence) for panel, members in found for sentence in answer(members)]
        return [f"{' on '.join(panel)}: {sentence}" if len(found) > 1 else sentence for panel, sentence in said]

    return [
        Answer("Will it fit?", each(_fits)),
        Answer("How fast is it?", each(lambda members: _fast(members, verdicts))),
        Answer("How good is the result?", each(lambda members: _good(members, verdicts)) or ["Nothing was scored."]),
        *([Answer("What was claimed?", each(lambda members: _claims(members, claimed)))] if claimed else []),
    ]


def _claims(rows: Sequence[Row], claimed: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence a claim: in which scores it shows up, in which not."""
    found: dict[str, dict[str, list[str]]] = {}
    own = [line for line in claimed if (line["model"], line["data"]) == rows[0].key[:2]]
    for line in own:
        found.setdefault(line["claim"], {}).setdefault(line["verdict"], []).append(line["score"])
    told = [
        f"{claim}: " + "; ".join(f"{verdict} in {listed(scores)}" for verdict, scores in by_verdict.items()) + "."
        for claim, by_verdict in found.items()
    ]
    return told + [ONE_SEED.strip()] * any(line["seeds"] == 1 for line in own)


def _good(rows: Sequence[Row], verdicts: Verdicts) -> list[str]:
    """Of every score who is best, and who is not told apart from it; MT-Bench as a whole, no other columns."""
    columns = verdicts.panels.get(rows[0].key[:2], {})
    answering = [key for key in columns if key not in OTHERS and not key.endswith("_without_coding")]
    whole = [columns[key] for key in answering if not is_category(key)]
    one_seed = any(column.verdict.tested and column.verdict.one_seed for column in whole)
    return [*map(_best, whole), *[ONE_SEED.strip()] * one_seed]


def _best(column: Column) -> str:
    verdict, (best, equals) = column.verdict, leaders(column.verdict)
    value = f"{column.factor * verdict.means[best]:.{column.digits}f}{' %' if column.unit == '%' else ''}"
    if not verdict.tested:
        few = f"{verdict.too_few} items are too few to tell rows apart" if verdict.too_few else "nothing was tested"
        return f"{column.label}: {best} has the best mean, {value}; {few}."
    if not any(pair.apart for pair in verdict.differences):
        tested = sum(pair.p_holm is not None for pair in verdict.differences)
        asked = f"with {tested} pairs tested at once" if tested > 1 else "here"
        return f"{column.label}: no row is told apart from another {asked}; {best} has the best mean, {value}."
    alike = f"; not distinguishable from it: {listed(equals)}" if equals else ", apart from all others"
    left = f"; not tested against it: {listed(names)}" if (names := untested(verdict)) else ""
    return f"{column.label}: {best}, {value}{alike if equals or not left else ''}{left}."


def _fits(rows: Sequence[Row]) -> list[str]:
    peaks = {row.label: peak for row in rows if (peak := row.largest("memory", "phases", "train"))}
    stopped = [row.label for row in rows if any(run.status == "oom" for run in row.runs)]
    out = [f"Out of memory here: {', '.join(stopped)}."] if stopped else []
    if not peaks:
        return ["No run has a metered peak.", *out]
    order = sorted(peaks, key=peaks.__getitem__)
    unit, factor = ("GB", GB) if max(peaks.values()) >= GB else ("MB", MB)
    least, most = order[0], order[-1]
    ends = [
        f"lowest {peaks[least] / factor:.1f} {unit} ({least})",
        f"highest {peaks[most] / factor:.1f} {unit} ({most})",
    ]
    return [
        f"Peak while training: {', '.join(ends[: len(order)])}.",
        f"By the metered peaks alone, without a margin: {fits_words(peaks)}.",
        *out,
    ]


def _as_fast(fastest: str, column: Column | None) -> str:
    """The rows that are not told apart from the fastest one."""
    if column is None or not column.verdict.tested:
        return ""
    best, equals = leaders(column.verdict)
    return f"not distinguishable from it: {listed(equals)}" if best == fastest and equals else ""


def _fast(rows: Sequence[Row], verdicts: Verdicts) -> list[str]:
    times = {row.label: seconds for row in rows if (seconds := steady_s(row))}
    uncounted = unsteady(rows)
    left = [f"Not counted, {UNSTEADY}: {', '.join(uncounted)}."] if uncounted else []
    if not times:
        return ["No row has steady step times.", *left]
    fastest = min(times, key=times.__getitem__)
    among = f" of the {len(times)} rows that count" if uncounted and len(times) > 1 else ""
    full = next((times[row.label] for row in rows if row.first.method == "full" and row.label in times), None)
    against = f"full fine-tuning takes {full / times[fastest]:.2f} times as long" if full else ""
    words = [
        f"Shortest step{among}: {1e3 * times[fastest]:.1f} ms ({fastest})",
        _as_fast(fastest, verdicts.panels.get(rows[0].key[:2], {}).get("step_median_s")),
        *([against] if full != times[fastest] else []),
    ]
    return [f"{'; '.join(filter(None, words))}.", *left]
