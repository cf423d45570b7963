"""What stands under every table: device, precision, packages, commit, dates; how a benchmark was run; who judged.

Each function reads the runs' files and joins values that differ by ' / ', so that a table never hides a mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.benchmarks import BENCHMARKS
from eval.collect import Run

PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "galore-torch", "apollo-torch")
PACKAGES += ("lm-eval", "datasets")


def conditions(runs: Iterable[Run], experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that close every CSV: where and from what the numbers of these runs come."""
    records = [run.record for run in runs if run.record]
    environments = [record["environment"] for record in records]
    settings = [record.get("settings", {}) for record in records]
    dates = sorted(record["started"] for record in records if record.get("started"))
    return {
        "experiment": experiment["name"],
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
    return distinct(_judge(run.judged["judge"]) for run in runs if run.judged)


def _judge(judge: Mapping[str, Any]) -> str:
    return "rule-based" if judge["kind"] == "rule-based" else f"{judge['kind']}: {judge['model']}"


def protocols(runs: Iterable[Run], name: str) -> str | None:
    """How a benchmark was run, e.g. `5-shot, 3 of 57 tasks, first 40 items of each`; None where it was not."""
    return distinct(_protocol(name, run.benchmarks[name]) for run in runs if name in run.benchmarks)


def _protocol(name: str, entry: Mapping[str, Any]) -> str:
    ran, whole, limit = len(entry.get("tasks", {})), len(BENCHMARKS[name].tasks), entry.get("limit")
    parts = [f"{entry['shots']}-shot"] if entry.get("shots") is not None else []
    parts += [f"{ran} of {whole} tasks"] if 0 < ran < whole else []
    parts += [f"first {limit} items" + (" of each" if ran > 1 else "")] if limit is not None else []
    cut = entry.get("truncated_items")
    parts += [f"{cut} of {entry['items']} prompts cut to the model's positions"] if cut else []
    return ", ".join(parts)
