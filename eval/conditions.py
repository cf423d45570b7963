"""What stands under every table: device, precision, packages, commit, dates; who judged.

Each function reads the runs' files and joins values that differ by ' / ', so that a table never hides a mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.collect import Run

WORLD_NOTE = (
    "The numbers are about the embedded world: generated facts, sums and requests in the official benchmarks' formats. "
    "They show the pipeline and the methods at work; they say nothing about the real benchmarks."
)
PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "galore-torch", "apollo-torch")
PACKAGES += ("lm-eval", "datasets")
UNKNOWN = "unknown"


def conditions(runs: Iterable[Run], experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that close every CSV: where and from what the numbers of these runs come."""
    runs = list(runs)
    before = _continued(runs) if experiment.get("continual_pretraining") else {}
    return {"experiment": experiment["name"], **of_records(run.record for run in runs if run.record), **before}


def of_records(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where and from what these run records are."""
    records = list(records)
    environments = [record["environment"] for record in records]
    settings = [record.get("settings", {}) for record in records]
    dates = sorted(record["started"] for record in records if record.get("started"))
    return {
        "device": distinct(environment.get("device") for environment in environments),
        "threads": distinct(environment.get("threads") for environment in environments),
        "precision": distinct(setting.get("precision") for setting in settings),
        "record_version": distinct(record.get("schema_version") for record in records),
        "packages": distinct_packages(packages_line(environment.get("packages", {})) for environment in environments),
        "git_commit": distinct(environment.get("git_commit") for environment in environments),
        "git_dirty": any(environment.get("git_dirty") for environment in environments) if environments else None,
        "first_started": dates[0] if dates else None,
        "last_started": dates[-1] if dates else None,
    }


def _continued(runs: Iterable[Run]) -> dict[str, Any]:
    """What the runs were pretrained on before their fine-tuning, and on how many tokens; None where they were not."""
    found = [run.continued for run in runs if run.continued]
    return {
        "continual_pretraining": distinct(told["data"]["name"] for told in found),
        "continual_pretraining_tokens": distinct(told["data"]["train_tokens"] for told in found),
    }


def distinct(values: Iterable[Any]) -> str | None:
    """The different values, joined; None if there is none."""
    return " / ".join(dict.fromkeys(str(value) for value in values if value not in (None, ""))) or None


def packages_line(packages: Mapping[str, str | None]) -> str:
    """The versions of what matters for the numbers, in one line."""
    return ", ".join(f"{name} {packages[name]}" for name in PACKAGES if packages.get(name))


def distinct_packages(lines: Iterable[str | None]) -> str | None:
    """The different ones of `packages_line`'s lines, joined; None if there is none.

    A package that a record does not name is no difference: older records name fewer.
    """
    found: list[dict[str, str]] = []
    for line in (part for joined in lines if joined for part in joined.split(" / ")):
        versions = dict(entry.rsplit(" ", 1) for entry in line.split(", "))
        same = (known for known in found if all(known.get(name, versions[name]) == versions[name] for name in versions))
        known = next(same, None)
        if known is None:
            found.append(versions)
        else:
            known.update(versions)
    return " / ".join(packages_line(versions) for versions in found) or None


def judges(runs: Iterable[Run]) -> str | None:
    """Who judged MT-Bench, e.g. `rule-based` or `llm: gpt-4`; None where nothing was judged."""
    return distinct(judge_name(run.judged["judge"]) for run in runs if run.judged)


def judge_name(judge: Mapping[str, Any]) -> str:
    """`rule-based`, or the language model that judged, e.g. `llm: gpt-4`."""
    return "rule-based" if judge["kind"] == "rule-based" else f"{judge['kind']}: {judge['model']}"


# --- notes


def conditions_notes(rows: list[dict[str, Any]], experiment: Mapping[str, Any]) -> list[str]:
    """Experiment, device, precision, packages, commit and dates, as all the rows together have them."""
    found = {key: _joined(row[key] for row in rows) for key in ("device", "threads", "precision", "git_commit")}
    packages = distinct_packages(row["packages"] for row in rows) or UNKNOWN
    dirty = " with uncommitted changes" if any(row["git_dirty"] for row in rows) else ""
    dates = sorted(row[key] for row in rows for key in ("first_started", "last_started") if row[key])
    period = " to ".join(dict.fromkeys(_minute(date) for date in (dates[0], dates[-1]))) if dates else "never"
    world = [WORLD_NOTE] if experiment.get("data_root") == "world" else []
    return [
        *world,
        *_seed_notes(experiment),
        f"Experiment {experiment['name']}. Device: {found['device']}; CPU threads a run: {found['threads']}; "
        f"precision: {found['precision']}.",
        f"Packages: {packages}. Commit {found['git_commit']}{dirty}. Runs started: {period}.",
        *_continued_notes(rows),
    ]


SEED_PARTS = {
    "data_order": "order of the data",
    "initialisation": "initialisation",
    "draws": "draws (layers, projections, dropout)",
}


def _seed_notes(experiment: Mapping[str, Any]) -> list[str]:
    """What the seeds do not move, of which intervals and verdicts then say nothing."""
    fixed = experiment.get("training", {}).get("fixed_seeds")
    if not fixed:
        return []
    moved = " and ".join(text for part, text in SEED_PARTS.items() if part not in fixed)
    held = " and ".join(f"{text} held at {fixed[part]}" for part, text in SEED_PARTS.items() if part in fixed)
    seeds = " and ".join(filter(None, (moved, "sampled answers")))
    return [f"Seeds move the {seeds} only, with the {held}: nothing is said of others."]


def _continued_notes(rows: list[dict[str, Any]]) -> list[str]:
    """That rows were pretrained continually, without which their scores are not to be read."""
    text, tokens = (_joined(row.get(f"continual_pretraining{key}") for row in rows) for key in ("", "_tokens"))
    if text == UNKNOWN:
        return []
    return [
        f"Continual pretraining: every method that trains was first trained on {text} ({thousands(tokens)} tokens); "
        "then a fresh instance of it fine-tuned the merged checkpoint. Memory and speed are the fine-tuning's. Vanilla "
        "is the base model."
    ]


def thousands(counts: str) -> str:
    """`1500000 / 1400000` as people read it."""
    return " / ".join(f"{int(count):,}" if count.isdigit() else count for count in counts.split(" / "))


def _minute(date: str) -> str:
    """2030-01-02T03:04:05+00:00 as people read it; records are in UTC."""
    return f"{date[:16].replace('T', ' ')} UTC"


def _joined(values: Iterable[str | None]) -> str:
    """Distinct values in order; one that is itself a list of values counts each of them once."""
    return distinct(part for value in values if value for part in value.split(" / ")) or UNKNOWN
