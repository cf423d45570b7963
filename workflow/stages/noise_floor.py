"""Measure a model's noise floor: the checkpoint of one run is evaluated again, in this new process, once as the run
was and once with another batch size (`evaluation.noise_floor.batch_size`).

    python -m workflow.stages.noise_floor --experiment results/smoke/experiment.json --model tiny-llama

Writes results/<experiment>/<model>/noise_floor.json. It is the first run of the row that `evaluation.noise_floor.row`
names, else the first that trains (an untouched model may get nothing right, and no score of 0 moves), so that the floor
does not depend on how the others ended; if that one left no scores (out of memory, diverged), the floor is skipped,
with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError
from workflow.experiment import load, noise_floor_run
from workflow.stages import parser, results_folder, stage_main

SCHEMA_VERSION = "1.0"


def main() -> None:
    """Command line."""
    from workflow.engine.records import write_json

    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="name of the model in the experiment")
    arguments = arguments.parse_args()
    experiment = load(arguments.experiment)
    results = results_folder(experiment, arguments.results)
    write_json(results / arguments.model / "noise_floor.json", noise_floor(experiment, results, arguments.model))


def noise_floor(experiment: dict[str, Any], results: Path, model: str) -> dict[str, Any]:
    """The content of noise_floor.json.

    Raises:
        InputError: the experiment asks for no noise floor, or has no such model.
        EvaluationError: the scores that stand there are of other data or prompts.
    """
    evaluation = experiment["evaluation"]
    if evaluation["noise_floor"] is None:
        raise InputError(f"evaluation.noise_floor: experiment {experiment['name']!r} asks for none.")
    run = noise_floor_run(experiment, model)
    other = evaluation["noise_floor"]["batch_size"]
    about = {"run": run["path"], "batch_size": evaluation["batch_size"], "other_batch_size": other}
    scores = json.loads((results / run["path"] / "scores.json").read_text())
    if scores["status"] != "ok":
        return _skipped(
            about, f"{run['path']}, whose noise floor stands for {model}, has no scores: {scores['reason']}"
        )
    return _measured(experiment, run, results / run["path"], scores, about)


def _measured(
    experiment: dict[str, Any], run: dict[str, Any], folder: Path, scores: dict[str, Any], about: dict[str, Any]
) -> dict[str, Any]:
    from eval.items import read_samples
    from eval.noise import noise
    from workflow.engine.models import is_out_of_memory, work_offline
    from workflow.stages.evaluate import score_checkpoint

    work_offline()
    again = score_checkpoint(experiment, run, folder)
    try:
        other = score_checkpoint(experiment, run, folder, batch_size=about["other_batch_size"])
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return _skipped(about, f"out of memory with batch size {about['other_batch_size']}")
    benchmarks = noise((scores, read_samples(folder)), again, other)
    return {"schema_version": SCHEMA_VERSION, "status": "ok", "reason": None, **about, "benchmarks": benchmarks}


def _skipped(about: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "status": "skipped", "reason": reason, **about, "benchmarks": {}}


if __name__ == "__main__":
    stage_main(main)
