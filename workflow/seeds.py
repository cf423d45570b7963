"""Which seed decides what of a training: one for all, or a part of it held fixed while the others move.

seed_of("draws", experiment, run)      # training.fixed_seeds.draws, or else the run's own seed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow.engine.errors import InputError

PARTS = ("data_order", "initialisation", "draws")


def seed_of(part: str, experiment: Mapping[str, Any], run: Mapping[str, Any]) -> int:
    """The seed of one of `PARTS`: the order of the data; the start of what a method adds to the model; what is drawn
    on the way (layers, blocks, projections, dropout).
    """
    fixed = experiment["training"]["fixed_seeds"] or {}
    return int(fixed.get(part, run["seed"]))


def check_seeds(config: dict[str, Any]) -> None:
    """Leave out parts that are not fixed (null); raise InputError if several seeds would train the same run."""
    given = config["training"]["fixed_seeds"] or {}
    fixed = {part: seed for part, seed in given.items() if seed is not None}
    config["training"]["fixed_seeds"] = fixed or None
    if len(config["seeds"]) > 1 and set(PARTS) == set(fixed):
        raise InputError(
            f"training.fixed_seeds: {', '.join(PARTS)} are all fixed, so that seeds {config['seeds']} would train the"
            " same run. Legal: leave one of them out (null), or one seed."
        )
