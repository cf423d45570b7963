"""Simulate one cell of a memory experiment: predict peak memory by phase and component, and count floating-point
operations, on tensors without data; no GPU, no weights.

Writes `simulated.json`, and `simulated_timeline.csv`: bytes by component over the operators of the step with the peak.
`components` are those at the peak, `largest` the most of each at any moment of that step: gradients may come later.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from workflow.memory_experiment import check_cell, find_cell, load
from workflow.stages import parser, results_folder, stage_main

SCHEMA_VERSION = "1.1.0"  # of simulated.json; 1.1: `largest`
TIMELINE_ROWS = 1000


def main() -> None:
    """Command line."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--cell", required=True, help="model/method/variant/setting, as in results/<name>/")
    given = arguments.parse_args()
    experiment = load(given.experiment)
    cell = find_cell(experiment, given.cell)
    simulate_cell(experiment, cell, results_folder(experiment, given.results) / cell["path"])


def simulate_cell(experiment: dict[str, Any], cell: dict[str, Any], folder: Path) -> None:
    """Leave simulated.json and simulated_timeline.csv in `folder`."""
    import torch

    from workflow.engine.records import environment, memory_files, write_json
    from workflow.engine.shapes import read_config
    from workflow.engine.simulator import simulate
    from workflow.engine.training_step import Conditions

    shape = read_config(cell["shape"])
    check_cell(cell, shape)
    found = simulate(
        shape,
        cell["method"],
        cell["hyperparameters"],
        Conditions(**cell["conditions"]),
        seed=experiment["measure"]["seed"],
        flops=True,
        timeline=True,
    )
    record = {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment["name"],
        "cell": cell["path"],
        "model": cell["model"],
        "method": {"name": cell["method"], "variant": cell["variant"], "hyperparameters": cell["hyperparameters"]},
        "setting": cell["setting"],
        "conditions": cell["conditions"],
        "status": "ok",
        **found.as_json(),
        "largest": found.timeline.largest(),
        "environment": environment(memory_files(cell["method"]), torch.device("cpu"), torch.get_num_threads()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    found.timeline.write_csv(folder / "simulated_timeline.csv", limit=TIMELINE_ROWS)
    write_json(folder / "simulated.json", record)


if __name__ == "__main__":
    stage_main(main)
