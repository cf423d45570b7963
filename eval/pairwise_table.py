"""MT-Bench's pairwise mode in a table: how often a row's answers were better than the baseline's.

    lines = pairwise(rows, experiment)            # tables/pairwise.csv, a line a row and judge; empty if not asked for
    table = pairwise_table(lines, experiment)

Reads each run's pairwise.json (`eval/pairwise.py`). Counts are summed over seeds; the win rate and its interval are
means of the seeds', since every seed answers the same questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from eval.collect import Row, Run
from eval.conditions import conditions, conditions_notes, distinct, judge_name
from eval.mt_bench_tables import interval_notes, several, usage_columns, usage_words
from eval.protocols import comparing_judge
from eval.tested import UNTESTED, Verdicts
from eval.text import EMPTY, Column, Table, build, estimate, number, plain

HEADING = "Answers compared in pairs"
COUNTS = ("comparisons", "wins", "losses", "ties", "inconsistent", "unparsable")

Line = dict[str, Any]


def pairwise(rows: Iterable[Row], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> list[Line]:
    """A line for each row and judge; a row whose answers could not be compared has one with the reason."""
    lines = []
    for row in rows:
        by_judge: dict[str, list[Run]] = {}
        for run in row.runs:
            if run.pairwise:
                by_judge.setdefault(comparing_judge(run), []).append(run)
        lines += [_line(row, runs, experiment, verdicts) for runs in by_judge.values()]
    return lines


def _line(row: Row, runs: list[Run], experiment: Mapping[str, Any], verdicts: Verdicts) -> Line:
    model, data, method, variant = row.key
    columns: Line = {"model": model, "data": data, "method": method, "variant": variant, "row": row.label}
    done = [run.pairwise for run in runs if run.pairwise["status"] == "ok"]
    rated = [entry for entry in done if entry["win_rate"] is not None]
    return {
        **columns,
        "seeds": " ".join(str(run.seed) for run in runs),
        "baseline": " ".join(run.pairwise["baseline"] for run in runs),
        **{name: sum(entry.get(name) or 0 for entry in done) if done else None for name in COUNTS},
        "win_rate_percent": 100 * fmean(entry["win_rate"] for entry in rated) if rated else None,
        **_interval(row, rated, verdicts),
        "judge": distinct(judge_name(entry["judge"]) for entry in done),
        "judge_prompts_sha256": distinct(entry["judge"].get("prompts_sha256") for entry in done),
        "limit": distinct(entry.get("limit") for entry in done),
        **usage_columns(done),
        "status": "ok" if done else "skipped",
        "reason": distinct(run.pairwise.get("reason") for run in runs),
        **conditions(runs, experiment),
    }


def _interval(row: Row, rated: list[Mapping[str, Any]], verdicts: Verdicts) -> Line:
    """The win rate's interval and letters as tested; untested, the mean of the seeds' own intervals over questions."""
    columns = verdicts.columns(row, "win_rate", "win_rate", "percent")
    if columns["win_rate_low_percent"] is None and rated and all(entry["interval"] for entry in rated):
        ends = (100 * fmean(entry["interval"][place] for entry in rated) for place in (0, 1))
        columns |= dict(zip(("win_rate_low_percent", "win_rate_high_percent"), ends, strict=True))
    return columns


def pairwise_table(lines: list[Line], experiment: Mapping[str, Any], verdicts: Verdicts = UNTESTED) -> Table:
    """The rows of `pairwise` for people."""
    baseline = experiment["mt_bench"]["pairwise_baseline"]
    done = [line for line in lines if line["status"] == "ok"]
    ways = {(line["judge"], line["judge_prompts_sha256"], line["limit"]) for line in done}
    columns = [
        *(Column(key.capitalize(), plain(key), numeric=False) for key in several(lines)),
        Column("Method", plain("row"), numeric=False),
        Column("Win rate (%)", estimate("win_rate", "percent", 1)),
        *(Column(name.capitalize(), number(name, 0)) for name in COUNTS),
        *([Column("Judge", plain("judge"), numeric=False)] if len(ways) > 1 else []),
        Column("Questions (of each category)", lambda line: f"first {line['limit']}" if line["limit"] else EMPTY),
        Column("Not compared", plain("reason"), numeric=False),
    ]
    notes = [
        f"Each turn's answer beside that of {baseline}, same model, data and seed, in both orders; "
        f"judge: {distinct(line['judge'] for line in lines)}. Won or lost only if both orders say so; inconsistent: "
        "they contradict each other; unparsable: a verdict could not be read even when asked again."
        + usage_words(lines),
        "Win rate: (wins + half of ties and inconsistent) / comparisons with two readable verdicts; 50 % is the "
        "baseline's level. Counts: sums over seeds; the rate is the mean of the seeds'.",
        *(["Compared by more than one judge, set of prompts or limit: nothing is tested."] if len(ways) > 1 else []),
        *interval_notes(verdicts.have(["win_rate"]), (line["win_rate_low_percent"] for line in lines)),
    ]
    title = f"{experiment['name']}: answers compared with {baseline}"
    made, told = conditions_notes(lines, experiment), verdicts.sentences(["win_rate"])
    return build("pairwise", title, columns, lines, notes, made, heading=HEADING, verdicts=told)
