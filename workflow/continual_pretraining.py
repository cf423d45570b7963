"""Continual pretraining: before its fine-tuning every run's method trains on plain text, in a loop of its own settings.

`check(config)` says what is wrong with the key `continual_pretraining` of an experiment; the rest reads a resolved one.
What the key does not set is `training`'s. The phase stands in `<run>/continued/`, with a record of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import baselines
from workflow.checks import check_text_file
from workflow.engine.errors import InputError

KEY = "continual_pretraining"
FOLDER = "continued"  # in a run's folder
LENGTHS = ("steps", "epochs")  # exactly one is given
LOOP = (*LENGTHS, "batch_size", "accumulation_steps", "sequence_length", "warmup_steps")  # in place of `training`'s


def check(config: Mapping[str, Any]) -> None:
    """Raise InputError unless exactly one text is named, from where the data root has texts."""
    wanted = config[KEY]
    if wanted is None:
        return
    if ("file" in wanted) == ("dataset" in wanted):
        raise InputError(f"{KEY}: give exactly one of 'file' and 'dataset'.")
    if "file" in wanted:
        check_text_file(f"{KEY}.file", wanted["file"], config["data_root"], instead="dataset")


def continues(experiment: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether a run has this phase: a method that trains nothing has it no more than a fine-tuning."""
    return experiment[KEY] is not None and baselines.method_class(run["method"]).trains


def training_of(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The phase's settings of the training loop, where `training` has those of the fine-tuning."""
    shared = {key: value for key, value in experiment["training"].items() if key not in LENGTHS}
    own = {key: experiment[KEY][key] for key in LOOP if key in experiment[KEY]}
    return shared | own | {"weight_norms_every_steps": None}  # the paper's figure 2 is about fine-tuning


def phase_of(experiment: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Experiment and run as the phase has them: settings and learning rate its own, in place of the fine-tuning's."""
    rate = experiment[KEY].get("learning_rate", run["learning_rate"])
    return {**experiment, "training": training_of(experiment)}, {**run, "learning_rate": rate}


def named(wanted: Mapping[str, Any]) -> str:
    """The text's name in tables: the data set's id, or the file's path."""
    return str(wanted.get("dataset") or wanted["file"])
