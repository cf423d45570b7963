"""Two run records compare by schema version, sources and settings, and by nothing else."""

from __future__ import annotations

import copy

import pytest

from eval.comparable import reasons, same_version
from tests.report import fixture_tree

ABOUT = ("scores", "loss", "memory", "speed")
QUALITY, COST = {"scores", "loss"}, {"memory", "speed"}
EVERY = QUALITY | COST


@pytest.fixture
def record():
    found = fixture_tree.record(fixture_tree.run_of(fixture_tree.experiment(), "lora", 0))
    found["settings"] |= {"attention": "sdpa", "schedule": "cosine", "beta2": 0.999, "untimed_steps": 5}
    return found


def changed(record, keys, value):
    other = copy.deepcopy(record)
    inner = other
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return other


def spoiled(a, b):
    """What does not compare, and why."""
    told = {about: reasons(a, b, about) for about in ABOUT}
    return {about for about, why in told.items() if why}, {reason for why in told.values() for reason in why}


DECIDE = {
    "schema version": (("schema_version",), "1.0.0", EVERY, "records 1.1 and 1.0"),
    "hyper-parameter": (("method", "hyperparameters", "rank"), 64, EVERY, "rank: 128 in a, 64 in b"),
    "learning rate": (("method", "learning_rate"), 0.5, QUALITY, "learning rate: 0.002 in a, 0.5 in b"),
    "schedule": (("settings", "schedule"), "linear", QUALITY, "schedule: cosine in a, linear in b"),
    "AdamW": (("settings", "beta2"), 0.95, QUALITY, "beta2: 0.999 in a, 0.95 in b"),
    "attention": (("settings", "attention"), "eager", EVERY, "attention: sdpa in a, eager in b"),
    "precision": (("settings", "precision"), "bf16", EVERY, "precision: fp32 in a, bf16 in b"),
    "state": (("settings", "optimizer_state_dtype"), "uint8", EVERY, "optimizer_state_dtype: fp32 in a, uint8 in b"),
    "prompts": (("settings", "prompt_format"), "alpaca", EVERY, "prompt_format: chat in a, alpaca in b"),
    "a new setting": (("settings", "new"), "on", EVERY, "new: not recorded in a, on in b"),
    "steps": (("steps",), 120, EVERY, "steps: 60 in a, 120 in b"),
    "data": (("data", "sha256"), "a" * 64, EVERY, "training data: 11111111... in a, aaaaaaaa... in b"),
    "tokens": (("data", "train_tokens"), 7, QUALITY, "tokens trained on: 150000 in a, 7 in b"),
    "validation": (("data", "validation_items"), 7, {"loss"}, "validation records: 64 in a, 7 in b"),
    "base model": (("model", "sha256"), "b" * 64, QUALITY, "base model: 00000000... in a, bbbbbbbb... in b"),
    "shape": (("model", "parameters"), 9, EVERY, "parameters of the base model: 1800000 in a, 9 in b"),
    "meter": (("memory", "meter"), "cuda-allocator", {"memory"}, "meter: cpu-live-storage in a, cuda-allocator in b"),
}


@pytest.mark.parametrize("name", DECIDE)
def test_what_decides_a_result_is_a_reason_with_both_values(record, name):
    keys, value, about, reason = DECIDE[name]
    assert spoiled(record, changed(record, keys, value)) == (about, {reason})


SAME = {
    "patch version": (("schema_version",), "1.1.0"),
    "device": (("environment", "device"), "Imaginary GPU"),
    "driver": (("environment", "driver"), "600.1"),
    "packages": (("environment", "packages", "torch"), "9.9"),
    "commit": (("environment", "git_commit"), "1" * 40),
    "code": (("environment", "code_sha256"), "9" * 64),
    "threads": (("settings", "threads"), 8),
    "place": (("settings", "device"), "cuda"),
    "allocator": (("settings", "allocator"), "expandable_segments:True"),
    "date": (("started",), "2031-01-01T00:00:00+00:00"),
    "experiment": (("experiment",), "renamed"),
    "evaluations": (("settings", "evaluate_every_steps"), 10),
    "checkpoints": (("settings", "checkpoint_every_steps"), 10),
    "weight norms": (("settings", "weight_norms_every_steps"), 10),
    "untimed steps": (("settings", "untimed_steps"), 10),
    "metered steps": (("settings", "metered_steps"), 10),
    "a rate that the method does not take": (("settings", "learning_rate"), 9.0),
    "a new setting that is off": (("settings", "new"), None),
    "a new hyper-parameter that is off": (("method", "hyperparameters", "new"), False),
}


@pytest.mark.parametrize("name", SAME)
def test_machines_versions_and_effort_forbid_nothing(record, name):
    keys, value = SAME[name]
    assert spoiled(record, changed(record, keys, value)) == (set(), set())


def test_steps_and_epochs_that_come_to_the_same_compare(record):
    other = copy.deepcopy(record)
    other["settings"]["epochs"] = 3
    del other["settings"]["steps"]
    assert spoiled(record, other) == (set(), set())
    assert spoiled(record, other | {"steps": 61}) == (EVERY, {"steps: 60 in a, 61 in b"})


def test_training_settings_decide_nothing_about_a_model_that_is_not_trained():
    vanilla = fixture_tree.record(fixture_tree.run_of(fixture_tree.experiment(), "vanilla", 0))
    other = copy.deepcopy(vanilla)
    other["settings"] |= {"steps": 7, "beta1": 0.5, "attention": None}
    assert spoiled(vanilla, other) == (set(), set())
    other["settings"]["prompt_format"] = "alpaca"
    assert spoiled(vanilla, other)[1] == {"prompt_format: chat in a, alpaca in b"}


def test_values_that_would_read_alike_are_told_in_full(record):
    a = changed(record, ("method", "hyperparameters", "targets"), ["q", "k", "v", "o"])
    b = changed(record, ("method", "hyperparameters", "targets"), ["q", "k", "v", "up"])
    assert spoiled(a, b)[1] == {'targets: ["q", "k", "v", "o"] in a, ["q", "k", "v", "up"] in b'}


def test_an_unknown_version_is_equal_to_none(record):
    assert same_version("1.1.0", "1.1.9") and not same_version("1.1.0", "1.10.0")
    assert not same_version(None, None)
    del record["schema_version"]
    assert spoiled(record, record)[1] == {"records None and None"}
