"""The kinds of experiments: `kind` at the top of a YAML says which module checks it, and to Snakemake by which rules it
runs."""

from __future__ import annotations

from typing import Any

from workflow import experiment, memory_experiment
from workflow.checks import check_known

KINDS = {"training": experiment.resolve, "memory": memory_experiment.resolve}


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """Check an experiment of any kind and return it with all defaults and its list of runs or cells.

    Raises:
        InputError: anything unknown, missing, contradictory or of the wrong type.
    """
    kind = config.get("kind", "training")
    check_known("kind", "kind of experiment", kind, list(KINDS))
    return KINDS[kind](config)
