"""Whether a record is of the planned run: a results folder may hold what the same experiment left with other settings.

plan = planned_settings(run, experiment)      # by dotted name: {"hyperparameters.rank": 128, "training.steps": 300}
difference(record, plan)                      # None, or "training.steps: 120, planned 300"
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]

OWN = ("adamw_implementation", "learning_rate")  # of `training`: a method may have its own
LENGTHS = ("steps", "epochs")  # of `training`: exactly one is given
SHA256_DIGITS = 64
SHARED = ("training.", "prompt_format")  # names of what all runs of an experiment share
LOOKS = ("evaluate_every_steps", "weight_norms_every_steps")  # of `training`: trials look once, at the end
BEFORE = "continual_pretraining"  # what precedes a run's fine-tuning; a record that knows no such setting had nothing


def planned_settings(run: Json, experiment: Json) -> Json:
    """What a record of the planned run must say, as JSON has it; a length that is not given is None.

    Where only the records tell of an experiment (`eval/recorded.py`), it plans no training.
    """
    training = dict.fromkeys(LENGTHS) | dict(experiment["training"]) if "training" in experiment else {}
    apart = (*OWN, *LOOKS) if "trial" in run else OWN
    shared = {f"training.{key}": value for key, value in training.items() if key not in apart}
    style = {key: experiment[key] for key in ("prompt_format",) if key in experiment}
    return json.loads(json.dumps(_of_method(run) | shared | style | {BEFORE: experiment.get(BEFORE)}))


def difference(record: Json, plan: Json) -> str | None:
    """The first setting of a record that is not the planned one; of the shared ones only what it has can differ."""
    settings = record["settings"]
    shared = {name: name.removeprefix("training.") for name in plan if name.startswith(SHARED)}
    recorded = {name: settings[key] for name, key in shared.items() if key in settings} | _of_method(record["method"])
    recorded |= {
        BEFORE: settings.get(BEFORE) if settings else plan.get(BEFORE)
    }  # a run that failed at once says nothing
    for name in dict.fromkeys([*plan, *recorded]):
        stated = name in recorded or name not in shared
        if stated and recorded.get(name) != plan.get(name):
            return "{}: {}, planned {}".format(name, *words(recorded.get(name), plan.get(name)))
    return None


def _of_method(about: Json) -> dict[str, Any]:
    hyperparameters = {f"hyperparameters.{key}": value for key, value in about["hyperparameters"].items()}
    return {"learning_rate": about["learning_rate"], **hyperparameters}


def words(a: Any, b: Any) -> tuple[str, str]:
    """Two values of a setting in a sentence, in full where they would read alike in short."""
    short = word(a), word(b)
    return short if a == b or short[0] != short[1] else (json.dumps(a), json.dumps(b))


def word(value: Any) -> str:
    """A value in a sentence: of a long list only its length, of a checksum its beginning."""
    if isinstance(value, list) and len(value) > 3:
        return f"a list of {len(value)}"
    if isinstance(value, str) and len(value) == SHA256_DIGITS:
        return f"{value[:8]}..."
    return "none" if value is None else json.dumps(value).strip('"')
