"""What `lisa-bench compare` shows people: what was compared, then every row with its metrics; as text or Markdown."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from eval.collect import Row
from eval.protocols import MT_BENCH, label
from eval.side_by_side import PEAKS, RATIOS, Metric, Pair, SideBySide
from eval.sides import IDENTITY, Key
from eval.text import EMPTY, GB, MB, Column, build, plain, plus_minus, signed, to_markdown
from workflow.commands.items import row_name
from workflow.commands.items_text import printable

NARROWEST, WIDTH, WIDEST = 80, 100, 160  # columns of the terminal
INDENT = "  "
CONDITIONS = {
    "experiment": "experiment",
    "run records": "record_version",
    "device": "device",
    "driver": "driver",
    "CUDA": "cuda",
    "Python": "python",
    "CPU threads": "threads",
    "precision": "precision",
    "lock file": "lock_sha256",
}
Cells = tuple[str, str, str, str]  # metric, a, b, change


def page(found: SideBySide) -> str:
    """Everything, for a terminal or a file."""
    width = min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST), WIDEST)
    lines = [*_wrapped(summary(found), width), "", *_conditions(found, width)]
    for note in (*_code(found), *_unscored(found), *_alone(found)):
        lines += ["", *_wrapped(note, width)]
    for heading, pairs in _panels(found):
        lines += ["", f"{heading}:", *_rows(pairs, width)]
    made = [line for note in _made(found) for line in _wrapped(note, width)]
    return "\n".join([*lines, *([""] if made else []), *made])


def markdown(found: SideBySide) -> str:
    """One table with what was compared below it, to paste into an issue."""
    columns = [
        Column("Row", plain("row"), numeric=False),
        Column("Metric", plain("metric"), numeric=False),
        *(Column(title, plain(key)) for title, key in (("a", "a"), ("b", "b"), ("b - a, b / a", "change"))),
        Column("Notes", plain("notes"), numeric=False),
    ]
    rows = [row for heading, pairs in _panels(found) for pair in pairs for row in _markdown_rows(heading, pair, pairs)]
    notes = [summary(found), *_code(found), *_unscored(found), *_alone(found), *_made(found)]
    told = [f"{name}: {a} in both" if a == b else f"{name}: {a} (a), {b} (b)" for name, a, b in _compared(found)]
    title = f"{found.a.experiment['name']} (a) and {found.b.experiment['name']} (b)"
    if not rows:
        return "\n".join([f"# {title}", "", *(f"- {each}" for each in (*notes, *told))])
    return to_markdown(build("compare", title, columns, rows, notes, told)).rstrip()


def summary(found: SideBySide) -> str:
    """How much stands side by side, and how much of it does not compare."""
    counts, what = found.counts, "cell" if found.a.kind == "memory" else "row"
    one_sided = f", {counts['one_sided']} with something that one side only has" if counts["one_sided"] else ""
    return (
        f"{counts['rows']} {what}{'s' * (counts['rows'] != 1)} side by side, {counts['not_comparable']} of them with"
        f" something that does not compare{one_sided}; {counts['only_a']} only in a, {counts['only_b']} only in b."
    )


# --- what was compared


def _compared(found: SideBySide) -> Iterator[tuple[str, str, str]]:
    """Name, a's value and b's of every condition that one of them has."""
    yield "folder", str(found.a.folder), str(found.b.folder)
    a, b = found.a.conditions, found.b.conditions
    told = [(name, _short(a[key]), _short(b[key])) for name, key in CONDITIONS.items()]
    told += [
        *_packages(a["packages"], b["packages"]),
        ("commit", _commit(a), _commit(b)),
        ("started", _days(a), _days(b)),
    ]
    yield from (each for each in told if each[1:] != (EMPTY, EMPTY))


def _packages(a: Mapping[str, str | None], b: Mapping[str, str | None]) -> Iterator[tuple[str, str, str]]:
    """Those of different versions, then the others."""
    unequal = [name for name in a if a[name] != b[name]]
    if unequal:
        yield "packages", *(", ".join(f"{name} {side[name] or EMPTY}" for name in unequal) for side in (a, b))
    equal = ", ".join(f"{name} {a[name]}" for name in a if a[name] and name not in unequal)
    if equal:
        yield ("other packages" if unequal else "packages"), equal, equal


def _short(value: Any) -> str:
    """A checksum by its beginning."""
    text = EMPTY if value is None else str(value)
    return " / ".join(f"{part[:12]}..." if len(part) == 64 else part for part in text.split(" / "))


def _commit(side: dict[str, Any]) -> str:
    return _short(side["git_commit"]) + (" with uncommitted changes" if side["git_dirty"] else "")


def _days(side: dict[str, Any]) -> str:
    days = dict.fromkeys(str(side[key])[:10] for key in ("first_started", "last_started") if side[key])
    return " to ".join(days) or EMPTY


def _conditions(found: SideBySide, width: int) -> list[str]:
    """What differs in two columns, then what does not."""
    told = list(_compared(found))
    names = max(len(name) for name, _, _ in told)
    half = (width - len(INDENT) - names - 4) // 2
    lines = [f"{INDENT}{'':{names}}  {'a':{half}}  b"]
    for name, a, b in told:
        if a != b:
            lines += _beside(name.ljust(names), textwrap.wrap(a, half), textwrap.wrap(b, half), half)
    same = [(name, a) for name, a, b in told if a == b]
    lines += [f"{INDENT}the same in both:"] if same else []
    for name, value in same:
        lines += _wrapped(f"{INDENT}{name:{names}}  {value}", width, " " * (len(INDENT) + names + 2))
    return lines


def _beside(name: str, a: list[str], b: list[str], half: int) -> list[str]:
    count = max(len(a), len(b))
    columns = ([*lines, *[""] * (count - len(lines))] for lines in ([name], a, b))
    return [f"{INDENT}{n:{len(name)}}  {x:{half}}  {y}".rstrip() for n, x, y in zip(*columns, strict=True)]


def _code(found: SideBySide) -> list[str]:
    """Methods whose runs were made by other sources: the method's own, LISA's or the engine's."""
    changed = dict.fromkeys(pair.a.first.method for pair in found.pairs if pair.code_changed)
    return [f"Code of {', '.join(changed)} changed between a and b."] if changed else []


def _alone(found: SideBySide) -> Iterator[str]:
    """The rows that one side lacks."""
    for name, side, keys in (("a", found.a, found.only_a), ("b", found.b, found.only_b)):
        panels = groupby(keys, key=lambda key: _heading(key, found))
        told = [f"{heading}: {', '.join(_row_name(side.rows[key], key) for key in each)}" for heading, each in panels]
        if told:
            yield f"Only in {name}, {'; '.join(told)}."


def _unscored(found: SideBySide) -> list[str]:
    """A side that was trained without being scored, so that its scores are not taken for lost."""
    sides = (("a", found.a, found.b), ("b", found.b, found.a))
    return [
        f"{name} has no scores, run records only: no score compares."
        for name, side, other in sides
        if other.scored and not side.scored and any(run.record for row in side.rows.values() for run in row.runs)
    ]


def _made(found: SideBySide) -> list[str]:
    """How the scores were made."""
    made: dict[str, dict[str, None]] = {}
    for metric in (metric for pair in found.pairs for metric in pair.metrics if metric.made):
        made.setdefault(_name(metric.name), {}).update(dict.fromkeys(str(metric.made).split(" / ")))
    how = [f"{name} {' / '.join(words)}" for name, words in made.items()]
    return [f"How scores were made: {'; '.join(how)}."] if how else []


# --- rows


def _panels(found: SideBySide) -> Iterator[tuple[str, list[Pair]]]:
    """Rows of one model on one data set, cells of one model."""
    for heading, pairs in groupby(found.pairs, key=lambda pair: _heading(pair.key, found)):
        yield heading, list(pairs)


def _heading(key: Key, found: SideBySide) -> str:
    return " on ".join(key[: IDENTITY[found.a.kind].index("method")])


def _row_name(row: Row, key: Key) -> str:
    """As the command line calls a row; the setting of a cell behind it."""
    return row_name(row) + (f" ({key[-1]})" if key != row.key else "")


def _rows(pairs: list[Pair], width: int) -> list[str]:
    """Each row: its name, a line a metric, and below them why some do not compare."""
    unit = _unit(pairs)
    shown = {id(metric): _cells(metric, pair, unit) for pair in pairs for metric in pair.metrics}
    widths = [max([len(cells[place]) for cells in shown.values()] + [1]) for place in range(3)]
    head = f"{INDENT * 2}{'':{widths[0]}}  {'a':>{widths[1]}}  {'b':>{widths[2]}}  b - a, or b / a"
    lines = ["", head]
    for pair in pairs:
        numbers = _numbered(pair)
        lines += [f"{INDENT}{_row_name(pair.a, pair.key)}" + ("" if pair.metrics else ": nothing measured")]
        for metric in pair.metrics:
            name, a, b, change = shown[id(metric)]
            marks = "".join(f" [{numbers[reason]}]" for reason in metric.reasons)
            lines += [f"{INDENT * 2}{name:{widths[0]}}  {a:>{widths[1]}}  {b:>{widths[2]}}  {change}{marks}"]
        for note in (*(f"[{number}] {reason}" for reason, number in numbers.items()), *pair.notes):
            lines += _wrapped(f"{INDENT * 2}{printable(note)}", width, INDENT * 4)
    return lines


def _numbered(pair: Pair) -> dict[str, int]:
    """The reasons of a row, each once."""
    found = dict.fromkeys(reason for metric in pair.metrics for reason in metric.reasons)
    return {reason: number for number, reason in enumerate(found, start=1)}


def _markdown_rows(heading: str, pair: Pair, panel: list[Pair]) -> Iterator[dict[str, Any]]:
    cells = [_cells(metric, pair, _unit(panel)) for metric in pair.metrics] or [("nothing measured", *[EMPTY] * 3)]
    reasons = [metric.reasons for metric in pair.metrics] or [()]
    for place, ((metric, a, b, change), why) in enumerate(zip(cells, reasons, strict=True)):
        notes = [*why, *(pair.notes if place == 0 else ())]
        row = f"{heading}: {_row_name(pair.a, pair.key)}" if place == 0 else None
        yield {"row": row, "metric": metric, "a": a, "b": b, "change": change, "notes": "; ".join(notes) or None}


# --- cells


@dataclass(frozen=True)
class Form:
    """How a metric is printed: its unit behind the name, the factor to that unit, decimals."""

    unit: str
    factor: float
    digits: int


def _form(name: str, unit: str) -> Form:
    forms = {
        "validation_loss": Form("", 1, 4),
        MT_BENCH: Form("", 1, 2),
        "tokens_per_s": Form("", 1, 0),
        "step_median_s": Form(" (ms)", 1e3, 1),
        **dict.fromkeys(PEAKS, Form(f" ({unit})", 1 / (GB if unit == "GB" else MB), 2 if unit == "GB" else 1)),
    }
    return forms.get(name, Form(" (%)", 100, 2))  # a benchmark


def _unit(panel: list[Pair]) -> str:
    """GB for all peaks of a panel once one reaches 1 GB, as in the tables of an experiment."""
    peaks = [metric for pair in panel for metric in pair.metrics if metric.name in PEAKS]
    return "GB" if max((each.value or 0 for peak in peaks for each in (peak.a, peak.b)), default=0) >= GB else "MB"


def _name(metric: str) -> str:
    names = {
        "validation_loss": "validation loss",
        MT_BENCH: "MT-Bench",
        "peak_memory_bytes": "peak memory",
        "predicted_peak_bytes": "predicted peak",
        "tokens_per_s": "tokens/s",
        "step_median_s": "step",
    }
    return names[metric] if metric in names else label(metric)


def _cells(metric: Metric, pair: Pair, unit: str) -> Cells:
    """Name, both values and the change; seeds where they are not those of the row."""
    form = _form(metric.name, unit)
    row = {"change": None if metric.difference is None else form.factor * metric.difference}
    for side, estimate in (("a", metric.a.scaled(form.factor)), ("b", metric.b.scaled(form.factor))):
        row |= {side: estimate.value, f"{side}_stderr": estimate.stderr}
    values = [plus_minus(side, f"{side}_stderr", form.digits)(row) for side in ("a", "b")]
    told = pair.seeds and metric.seeds not in ((), pair.seeds)
    seeds = f", seed {' '.join(map(str, metric.seeds))}" if told else ""
    change = _ratio(metric) if metric.name in RATIOS else signed("change", form.digits)(row)
    return _name(metric.name) + form.unit + seeds, *values, change if change != EMPTY else _no_change(metric)


def _ratio(metric: Metric) -> str:
    return EMPTY if metric.ratio is None else f"\N{MULTIPLICATION SIGN} {metric.ratio:.3f}"


def _no_change(metric: Metric) -> str:
    alone = "only in a" if metric.b.value is None else "only in b" if metric.a.value is None else None
    return alone or "does not compare"


def _wrapped(text: str, width: int, further: str = INDENT) -> list[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, subsequent_indent=further, **options) or [""]
