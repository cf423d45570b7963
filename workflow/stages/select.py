"""Choose a row's learning rate, and what else is swept, from its trials: writes <row>/tuning/chosen.json.

A row is model/data/method/variant. `eval/tuning.py` holds the rule; the row's final runs and all tables read the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError
from workflow.experiment import load
from workflow.form import hint
from workflow.stages import parser, results_folder, stage_main


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--row", required=True, help="model/data/method/variant, as in results/<name>/")
    arguments = arguments.parse_args()
    experiment = load(arguments.experiment)
    select(experiment, arguments.row, results_folder(experiment, arguments.results))


def select(experiment: dict[str, Any], row: str, results: Path) -> None:
    """Write chosen.json of a row.

    Raises:
        InputError: the experiment tunes no such row, or a trial of it has not ended.
        EvaluationError: a record cannot be read.
    """
    from eval.chosen import choice_file, row_path
    from eval.tuning import choose, read_trials
    from workflow.engine.records import write_json

    rows = {row_path(trial): trial for trial in experiment.get("trials", [])}
    if row not in rows:
        known = ", ".join(rows) or "none"
        raise InputError(f"{experiment['name']} tunes no row {row!r}.{hint(row, list(rows))} Known: {known}.")
    trials = read_trials(rows[row], experiment, results)
    missing = [f"trial{trial.number} ({trial.reason})" for trial in trials if "missing" in trial.status]
    if missing:
        raise InputError(f"{row}: {', '.join(missing)}. Train all trials of a row before choosing among them.")
    write_json(choice_file(rows[row], results), choose(trials, rows[row], experiment))


if __name__ == "__main__":
    stage_main(main)
