"""Whether two run records compare, and why they do not: by schema version, sources and settings.

    reasons(a, b, "scores")      # [] or ["rank: 128 in a, 64 in b"]; about: scores, loss, memory, speed

All that a record says of its settings decides its results, besides what stands in the lists below, so that a setting
that comes later counts without being named here. Where they ran and with which versions of packages decides no
comparison: it is what is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from eval.collect import dig
from eval.planned import LENGTHS, words

Json = Mapping[str, Any]
About = Literal["scores", "loss", "memory", "speed"]

QUALITY: tuple[About, ...] = ("scores", "loss")  # the others are cost
# Effort: how much is looked at, saved or timed. None of it touches a weight or a draw; it has its own time and phase,
# and the step that needs most, that with the longest batch, is metered whatever else is.
EFFORT = (
    "evaluate_every_steps",
    "checkpoint_every_steps",
    "weight_norms_every_steps",
    "untimed_steps",
    "metered_steps",
    "timed_steps",
    "max_steps",
)
MACHINE = ("device", "threads", "allocator")
# Of a measured cell: its name, a hash of the code too, and what was seen (`eval.memory_cells.unmet` tells of that).
FOUND = ("setting", "request_sha256", "drawn_units", "visited_units", "periodic_cost_seen")
OWN = "hyperparameters."
SHARED_RATE = "learning_rate"  # of `training`: the run's own stands with its method
NEVER = {*EFFORT, *MACHINE, *FOUND, *LENGTHS, SHARED_RATE}
# Numbers in operations that are done anyway: a step takes the same memory and time with any of them.
NO_COST = {"learning rate", "schedule", "warmup_steps", "beta1", "beta2", "epsilon", "weight_decay"}
LOADED = {"precision", "weight_dtype", "attention", "prompt_format"}  # all that reaches a model which is not trained


def reasons(a: Json, b: Json, about: About) -> list[str]:
    """Why two records' scores, losses, peaks or step times do not compare, in words; empty where they do."""
    return [*_versions(a, b), *_sources(a, b, about), *differing(settings_of(a), settings_of(b), about)]


def differing(a: Json, b: Json, about: About) -> Iterator[str]:
    """The settings that are not the same, as `rank: 128 in a, 64 in b`.

    One that only one side has was not there when the other was made: nothing is different while it is off.
    """
    for name in dict.fromkeys([*a, *b]):
        off = name not in a or name not in b
        values = a.get(name), b.get(name)
        same = values[0] == values[1] or (off and not any(values))
        if not same and (about in QUALITY or name not in NO_COST):
            yield _pair(name.removeprefix(OWN), *(side.get(name, "not recorded") for side in (a, b)))


def settings_of(record: Json) -> dict[str, Any]:
    """All settings of a record that can decide a result, hyper-parameters among them."""
    settings = {name: value for name, value in record["settings"].items() if name not in NEVER}
    if record.get("status") == "ok" and record.get("trainable_parameters") is None:
        return {name: value for name, value in settings.items() if name in LOADED}
    if any(name in record["settings"] for name in LENGTHS):  # a measured cell has neither: its steps are effort
        settings["steps"] = record.get("steps")
    method = record["method"]
    own = {f"{OWN}{name}": value for name, value in method["hyperparameters"].items()}
    return {"learning rate": method.get("learning_rate"), **own, **settings}


def same_version(a: str | None, b: str | None) -> bool:
    """Whether the major and minor numbers of two schema versions are known and equal."""
    return _minor(a) == _minor(b) is not None


def _minor(version: str | None) -> str | None:
    return ".".join(version.split(".")[:2]) if version else None


def _versions(a: Json, b: Json) -> list[str]:
    one, other = a.get("schema_version"), b.get("schema_version")
    return [] if same_version(one, other) else [f"records {_minor(one)} and {_minor(other)}"]


def _sources(a: Json, b: Json, about: About) -> Iterator[str]:
    """What was trained on what. The weights' values decide no cost, the data's lengths do."""
    decide = {
        "training data": (("data", "sha256"), True),
        "base model": (("model", "sha256"), about in QUALITY),
        "parameters of the base model": (("model", "parameters"), True),
        "tokens trained on": (("data", "train_tokens"), about in QUALITY),
        "validation records": (("data", "validation_items"), about == "loss"),
        "meter": (("memory", "meter"), about == "memory"),
    }
    for name, (keys, counts) in decide.items():
        values = dig(a, keys), dig(b, keys)
        if counts and values[0] != values[1]:
            yield _pair(name, *values)


def _pair(name: str, a: Any, b: Any) -> str:
    return "{}: {} in a, {} in b".format(name, *words(a, b))
