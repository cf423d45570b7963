"""MT-Bench in the tables: a row's means with their intervals, the means by category, and who judged at what cost.

    mt_bench_columns(slot.part(row), slot)                   # the columns of methods.csv and comparison.csv
    lines = categories(rows, experiment)                     # mt_bench_categories.csv; empty if nothing was judged
    table = categories_table(lines, experiment)

An interval is a 95 % bootstrap interval over questions. Seeds answer the same questions, so several of them do not
shrink it: a row's interval is the mean of its seeds'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from eval.collect import Row, dig
from eval.conditions import conditions, conditions_notes, distinct, judges
from eval.protocols import MT_BENCH, Slot, slots
from eval.tested import TESTS_NOTE, UNTESTED, Verdicts, is_category
from eval.text import Column, Table, build, estimate, plain

HEADING = "MT-Bench by category"
INTERVAL_NOTE = (
    "In brackets: 95 % interval, bootstrap over questions; with several seeds the mean of their intervals, because "
    "every seed answers the same questions."
)
ENDS = ("low", "high")
USAGE = ("requests", "from_store", "prompt_tokens", "completion_tokens", "cost_usd")

Line = dict[str, Any]


def mt_bench_columns(part: Row, slot: Slot, verdicts: Verdicts) -> Line:
    """The columns of a row for the seeds that were judged in one way."""
    key, score, bare = slot.key, part.estimate(MT_BENCH), part.estimate("mt_bench_without_coding")
    judged = [run.judged for run in part.runs if run.judged]
    dates = sorted(date for entry in judged for date in entry["judge"].get("dates") or [] if date)
    return {
        f"{key}_points": score.value,
        f"{key}_stderr_points": score.stderr,
        **_interval(part, key, verdicts, "interval"),
        f"{key}_without_coding_points": bare.value,
        **_interval(part, f"{key}_without_coding", verdicts, "interval_without_coding"),
        f"{key}_ratings": sum(entry.get("ratings", 0) for entry in judged) if judged else None,
        f"{key}_unparsable": sum(entry["unparsable"] for entry in judged) if judged else None,
        f"{key}_answer_max_new_tokens": distinct(dig(entry, ("answers", "max_new_tokens")) for entry in judged),
        f"{key}_capped_answers": _sum_of_all(entry.get("capped_answers") for entry in judged),
        f"{key}_judge": judges(part.runs),
        f"{key}_judging": (slot.differs or None) if judged else None,
        f"{key}_repeats": distinct(entry.get("repeats") for entry in judged),
        f"{key}_prompts_sha256": distinct(entry["judge"].get("prompts_sha256") for entry in judged),
        f"{key}_first_judged": dates[0] if dates else None,
        f"{key}_last_judged": dates[-1] if dates else None,
        **usage_columns(judged, f"{key}_"),
        f"{key}_seeds": " ".join(str(run.seed) for run in part.runs if run.judged) or None,
    }


def _interval(part: Row, key: str, verdicts: Verdicts, *keys: str) -> Line:
    """A column's interval and letters as tested; untested, the mean of the seeds' own intervals over questions, None
    where a seed that was judged has none.
    """
    columns = verdicts.columns(part, key, key, "points")
    found = [dig(run.judged, keys) for run in part.runs if run.judged]
    if columns[f"{key}_low_points"] is None and found and all(found):
        columns |= {f"{key}_{end}_points": fmean(pair[place] for pair in found) for place, end in enumerate(ENDS)}
    return columns


def interval_notes(tested: bool, lows: Iterable[float | None]) -> list[str]:
    """How intervals and letters are to be read, those of verdicts or the seeds' own; nothing where there are none."""
    return [TESTS_NOTE] if tested else [INTERVAL_NOTE] if any(low is not None for low in lows) else []


def usage_columns(judged: list[Mapping[str, Any]], prefix: str = "") -> Line:
    """What the judge read and wrote and what it cost, over the seeds."""
    return {f"{prefix}{name}": _total(judged, name) for name in USAGE}


def capped_words(lines: list[Line], keys: Iterable[str]) -> str:
    """A sentence of how many answers did not come to their end, and where that is not known."""
    counts = [line[f"{key}_capped_answers"] for key in keys for line in lines if line[f"{key}_judge"]]
    known = [count for count in counts if count is not None]
    if not known:
        return " Answers that max_new_tokens cut off: not recorded."
    lacking = len(counts) - len(known)
    older = f" ({lacking} {'row does' if lacking == 1 else 'rows do'} not say)" if lacking else ""
    return f" Answers that max_new_tokens cut off: {sum(known)}{older}."


def usage_words(lines: list[Line], prefixes: Iterable[str] = ("",)) -> str:
    """A sentence of what the judge read, wrote and cost in all lines that say it; nothing where none does."""

    def total(name: str) -> float | None:
        found = [line[f"{prefix}{name}"] for prefix in prefixes for line in lines]
        known = [value for value in found if value is not None]
        return sum(known) if known else None

    read, written, cost_usd = total("prompt_tokens"), total("completion_tokens"), total("cost_usd")
    if read is None or written is None:
        return ""
    cost = "" if cost_usd is None else f" for {cost_usd:.2f} USD"
    return f" The judge read {read:,.0f} and wrote {written:,.0f} tokens{cost}."


def _total(judged: list[Mapping[str, Any]], name: str) -> Any:
    """A sum over the seeds' usage; None where one of them does not say."""
    return _sum_of_all(dig(entry, ("usage", name)) for entry in judged)


def _sum_of_all(counts: Iterable[Any]) -> Any:
    found = list(counts)
    return None if not found or None in found else sum(found)


# --- by category


def categories(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> list[Line]:
    """A row's mean of every category, once for each way its answers were judged; empty if none was."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for run in row.runs for name in run.judged.get("categories", {})))
    found = slots(rows, MT_BENCH)
    parts = [(slot, slot.part(row)) for row in rows for slot in found]
    judged = [(slot, part) for slot, part in parts if any(run.judged for run in part.runs)]
    return [_line(slot, part, names, experiment, verdicts) for slot, part in judged]


def _line(slot: Slot, part: Row, names: list[str], experiment: Mapping[str, Any], verdicts: Verdicts) -> Line:
    model, data, method, variant = part.key
    columns: Line = {"model": model, "data": data, "method": method, "variant": variant, "row": part.label}
    columns |= {"seeds": " ".join(str(run.seed) for run in part.runs if run.judged)}
    for name in names:
        score = part.estimate(f"mt_bench_{name}")
        interval = _interval(part, f"{slot.key}_{name}", verdicts, "categories", name, "interval")
        columns |= {f"{name}_points": score.value}
        columns |= {key.removeprefix(f"{slot.key}_"): value for key, value in interval.items()}
        unparsable = [dig(run.judged, ("categories", name, "unparsable")) for run in part.runs if run.judged]
        columns[f"{name}_unparsable"] = sum(count or 0 for count in unparsable)
    who = {"judge": judges(part.runs), "judging": slot.differs or None}
    return {**columns, **who, **conditions(part.runs, experiment)}


def categories_table(lines: list[Line], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> Table:
    """The rows of `categories` for people."""
    names = [key.removesuffix("_points") for key in lines[0] if key.endswith("_points")]
    names = [name for name in names if not name.endswith(("_low", "_high"))]
    columns = [
        *(Column(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Column("Method", plain("row"), numeric=False),
        *(Column(_shown(name), estimate(name, "points", 2)) for name in names),
        *([Column("Judge", _judge, numeric=False)] if len({_judge(line) for line in lines}) > 1 else []),
    ]
    tested = any(is_category(key) for columns in verdicts.panels.values() for key in columns)
    notes = [
        f"Mean rating (1 to 10) of a category's questions, two turns each; judge: {distinct(map(_judge, lines))}. "
        f"Unparsable ratings: {sum(line[f'{name}_unparsable'] for line in lines for name in names)}.",
        *interval_notes(tested, (line[f"{name}_low_points"] for line in lines for name in names)),
        *_too_few(verdicts),
    ]
    title = f"{experiment['name']}: {HEADING}"
    return build(
        "mt_bench_categories", title, columns, lines, notes, conditions_notes(lines, experiment), heading=HEADING
    )


def _shown(category: str) -> str:
    return "STEM" if category == "stem" else category.capitalize()


def _too_few(verdicts: Verdicts) -> list[str]:
    """Of which categories no answers at all could tell two rows apart, panel by panel."""
    notes = []
    for panel, columns in verdicts.panels.items():
        parts = {key.rpartition("_")[2]: column.verdict.too_few for key, column in columns.items() if is_category(key)}
        few = {name: items for name, items in parts.items() if items is not None}
        if few:
            fewest, most = min(few.values()), max(few.values())
            questions = str(most) if fewest == most else f"{fewest} to {most}"
            where = f"{' on '.join(panel)}: no" if len(verdicts.panels) > 1 else "No"
            notes.append(
                f"{where} letters for {', '.join(few)}: {questions} questions are too few to tell any two rows apart."
            )
    return notes


def several(lines: list[Line]) -> list[str]:
    """Of model and data those of which the lines have several."""
    return [key for key in ("model", "data") if len({line[key] for line in lines}) > 1]


def _judge(line: Line) -> str:
    return ", ".join(filter(None, (line["judge"], line["judging"])))
