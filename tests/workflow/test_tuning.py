"""Which trials the rows of an experiment have, and which `tuning` is refused."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

import baselines
from eval.chosen import row_path
from tests.workflow.experiments import small
from workflow.engine.errors import InputError
from workflow.experiment import find_run, find_training, resolve
from workflow.places import data_folder
from workflow.tuning import log_spaced

METHODS = ["vanilla", "full", {"method": "lora", "variant": "small", "hyperparameters": {"rank": 2}}, "lisa"]


def tuned(trials: int, methods: list[Any] = METHODS, final_seeds: tuple[int, ...] = (0,), **tuning: Any) -> Any:
    return resolve(small(methods=methods, seeds=list(final_seeds), tuning={"trials": trials, **tuning}))


def rates(experiment: dict[str, Any], method: str) -> list[float]:
    return [trial["learning_rate"] for trial in experiment["trials"] if trial["method"] == method]


# --- spacing


@pytest.mark.parametrize(
    ("lowest", "highest", "count"), [(5e-6, 6e-4, 5), (1e-5, 1e-3, 3), (0.002, 0.08, 6), (1, 9, 2)]
)
def test_rates_are_log_spaced_from_end_to_end(lowest: float, highest: float, count: int) -> None:
    found = log_spaced(lowest, highest, count)
    assert (found[0], found[-1], len(found)) == (lowest, highest, count)
    steps = [math.log(b / a) for a, b in zip(found, found[1:], strict=False)]
    assert steps == pytest.approx([math.log(highest / lowest) / (count - 1)] * (count - 1), abs=0.01)


def test_rates_have_three_significant_digits() -> None:
    assert log_spaced(1e-5, 1e-3, 4) == [1e-5, 4.64e-5, 2.15e-4, 1e-3]


def test_one_rate_alone_is_the_geometric_mean() -> None:
    assert log_spaced(1e-5, 1e-3, 1) == [1e-4]


# --- rows and their budget


def test_without_tuning_there_are_no_trials_and_the_rates_are_as_given() -> None:
    experiment = resolve(small())
    assert (experiment["tuning"], experiment["trials"]) == (None, [])
    assert find_run(experiment, "tiny/sums/lisa/default/seed0")["learning_rate"] == 1e-5


def test_every_row_that_trains_has_the_same_number_of_trials_whatever_else_is_swept() -> None:
    models = [{**small()["models"][0], "name": name} for name in ("a", "b")]
    swept = {"lisa": {"gamma": [1, 2], "period_steps": [3, 4, 5]}, "full": {}}
    tuning = {"trials": 12, "seeds": [7, 8], "hyperparameters": swept}
    experiment = resolve(small(models=models, methods=METHODS, tuning=tuning))
    budget = Counter(row_path(trial) for trial in experiment["trials"])
    rows = {f"{model}/sums/{row}" for model in "ab" for row in ("full/default", "lora/small", "lisa/default")}
    assert budget == dict.fromkeys(rows, 12 * 2)
    lisa = [trial for trial in experiment["trials"] if row_path(trial) == "a/sums/lisa/default" and trial["seed"] == 7]
    tried = [(trial["learning_rate"], *(trial["hyperparameters"][key] for key in swept["lisa"])) for trial in lisa]
    assert sorted(tried) == [(rate, gamma, k) for rate in (5e-6, 6e-4) for gamma in (1, 2) for k in (3, 4, 5)]


def test_rates_span_what_the_methods_paper_tried_unless_the_experiment_says_otherwise() -> None:
    experiment = tuned(3, learning_rates={"full": [1e-4, 1e-2]})
    assert rates(experiment, "full") == [1e-4, 1e-3, 1e-2]
    published = baselines.method_class("lisa").learning_rates
    assert (min(rates(experiment, "lisa")), max(rates(experiment, "lisa"))) == (min(published), max(published))


def test_a_method_of_which_more_is_swept_than_there_are_rates_has_one_rate() -> None:
    experiment = tuned(2, ["lisa"], hyperparameters={"lisa": {"gamma": [1, 2]}}, learning_rates={"lisa": [1e-4, 1e-2]})
    assert rates(experiment, "lisa") == [1e-3, 1e-3]


def test_a_trial_has_its_rows_settings_and_a_folder_of_its_own() -> None:
    experiment = tuned(2, final_seeds=(3,))
    paths = [trial["path"] for trial in experiment["trials"]]
    assert len({*paths}) == len(paths) == 6
    trial = find_training(experiment, "tiny/sums/lora/small/tuning/trial1/seed1000")
    assert (trial["trial"], trial["seed"], trial["hyperparameters"]["rank"]) == (1, 1000, 2)
    assert find_training(experiment, "tiny/sums/full/default/seed3")["seed"] == 3


def test_a_trial_is_no_run() -> None:
    experiment = tuned(2)
    with pytest.raises(InputError, match=r"Unknown run 'tiny/sums/full/default/tuning/trial0/seed1000'"):
        find_run(experiment, "tiny/sums/full/default/tuning/trial0/seed1000")
    assert all("tuning" not in run["path"] for run in experiment["runs"])


def test_the_rate_of_a_tuned_run_is_open_and_its_other_settings_are_the_rows() -> None:
    settings = {"lisa": {"hyperparameters": {"gamma": 1, "period_steps": 7}}}
    tuning = {"trials": 2, "hyperparameters": {"lisa": {"gamma": [2, 1]}}}
    experiment = resolve(small(methods=["vanilla", "lisa"], method_settings=settings, tuning=tuning))
    vanilla, lisa = experiment["runs"]
    assert vanilla["learning_rate"] is lisa["learning_rate"] is None
    assert (lisa["hyperparameters"]["gamma"], lisa["hyperparameters"]["period_steps"]) == (1, 7)
    tried = [trial["hyperparameters"] for trial in experiment["trials"]]
    assert [(entry["gamma"], entry["period_steps"]) for entry in tried] == [(2, 7), (1, 7)]


def test_a_trial_that_another_budget_has_at_the_same_place_is_the_same_to_the_letter() -> None:
    few, more = (tuned(trials, ["full"])["trials"] for trials in (3, 5))
    assert few[0] == more[0]
    assert few[1]["path"] == more[1]["path"] and few[1] != more[1]


def test_held_out_records_decide_the_prepared_data_and_the_number_of_trials_does_not() -> None:
    folder = data_folder(tuned(3))
    assert data_folder(tuned(5, seeds=[4])) == folder
    assert data_folder(tuned(3, items=65)) != folder != data_folder(resolve(small(methods=METHODS)))


# --- what is refused

LISA = {"method": "lisa", "variant": "wide", "hyperparameters": {"gamma": 2}}

# what is wrong -> (experiment, words its one message must hold: the path, the value, the legal set)
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "one trial": (small(tuning={"trials": 1}), ("tuning.trials", "1", "minimum of 2")),
    "no number of trials": (small(tuning={"seeds": [5]}), ("tuning:", "'trials' is missing")),
    "a seed of the final runs": (
        small(seeds=[0, 1], tuning={"trials": 2, "seeds": [5, 1]}),
        ("tuning.seeds", "1 is one of seeds [0, 1]", "fresh", "not in seeds"),
    ),
    "seeds that are held": (
        small(training={"steps": 4, "batch_size": 2, "fixed_seeds": {"draws": 0}}, tuning={"trials": 2}),
        ("tuning:", "training.fixed_seeds", "fresh", "one of the two"),
    ),
    "a given rate": (
        small(training={"steps": 4, "batch_size": 2, "learning_rate": 0.1}, tuning={"trials": 2}),
        ("training.learning_rate", "remove it", "tuning.learning_rates", "[lowest, highest]"),
    ),
    "given rates": (
        small(
            methods=["full", {"method": "lisa", "variant": "a", "learning_rate": 0.1}],
            method_settings={"full": {"learning_rate": 0.1}},
            tuning={"trials": 2},
        ),
        ("method_settings.full.learning_rate, methods[1].learning_rate", "remove them"),
    ),
    "a budget that does not divide": (
        small(
            methods=["full", "lora", "lisa"],
            tuning={"trials": 4, "hyperparameters": {"lisa": {"gamma": [1, 2]}, "lora": {"rank": [2, 4, 8]}}},
        ),
        ("tuning.trials", "4", "lisa 2, lora 3", "Legal: 6, 12, 18", "multiples of 6"),
    ),
    "a range of an unknown method": (
        small(tuning={"trials": 2, "learning_rates": {"lsia": [1, 2]}}),
        ("tuning.learning_rates.lsia", "'lsia'", "Did you mean 'lisa'?"),
    ),
    "a range of a method that trains nothing": (
        small(tuning={"trials": 2, "learning_rates": {"vanilla": [1, 2]}}),
        ("tuning.learning_rates.vanilla", "trains nothing", "Legal"),
    ),
    "a range upside down": (
        small(tuning={"trials": 2, "learning_rates": {"lisa": [0.2, 0.1]}}),
        ("tuning.learning_rates.lisa", "[0.2, 0.1]", "[lowest, highest]"),
    ),
    "a range of one end": (
        small(tuning={"trials": 2, "learning_rates": {"lisa": [0.2]}}),
        ("tuning.learning_rates.lisa", "[0.2]", "too short"),
    ),
    "a rate of zero": (
        small(tuning={"trials": 2, "learning_rates": {"lisa": [0, 0.1]}}),
        ("tuning.learning_rates.lisa[0]", "0"),
    ),
    "a range too narrow for its rates": (
        small(tuning={"trials": 3, "learning_rates": {"lisa": [0.1, 0.1001]}}),
        ("tuning.learning_rates.lisa", "3 different rates", "wider"),
    ),
    "a sweep of an unknown method": (
        small(tuning={"trials": 2, "hyperparameters": {"lsia": {"gamma": [1]}}}),
        ("tuning.hyperparameters.lsia", "'lsia'", "Did you mean 'lisa'?"),
    ),
    "an unknown hyper-parameter, of a method that is no row": (
        small(tuning={"trials": 2, "hyperparameters": {"lora": {"gamma": [1]}}}),
        ("tuning.hyperparameters", "'gamma'", "lora", "rank"),
    ),
    "a value of the wrong type": (
        small(tuning={"trials": 2, "hyperparameters": {"lisa": {"gamma": [1, "two"]}}}),
        ("tuning.hyperparameters", "'two'", "int"),
    ),
    "an illegal value": (
        small(tuning={"trials": 2, "hyperparameters": {"lisa": {"gamma": [1, -1]}}}),
        ("tuning.hyperparameters", "-1", "at least 0"),
    ),
    "a value that a model's shape refuses": (
        small(tuning={"trials": 2, "hyperparameters": {"lisa": {"gamma": [1, 3]}}}),
        ("tuning: lisa (default) on model 'tiny'", "3", "0..2"),
    ),
    "a value twice": (
        small(tuning={"trials": 2, "hyperparameters": {"lisa": {"gamma": [1, 1]}}}),
        ("tuning.hyperparameters.lisa.gamma", "[1, 1]", "unique"),
    ),
    "no value": (
        small(tuning={"trials": 2, "hyperparameters": {"lisa": {"gamma": []}}}),
        ("tuning.hyperparameters.lisa.gamma", "[]", "non-empty"),
    ),
    "a variant that gives what is swept": (
        small(methods=["full", LISA], tuning={"trials": 2, "hyperparameters": {"lisa": {"gamma": [1, 2]}}}),
        ("methods[1] (lisa wide)", "gamma", "tuning.hyperparameters.lisa", "one of the two"),
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_tuning_ends_in_one_message_with_path_value_and_legal_set(mistake: str) -> None:
    config, words = BAD[mistake]
    with pytest.raises(InputError) as caught:
        resolve(config)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_a_method_without_a_published_range_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines.method_class("lisa"), "learning_rates", (1e-3,))
    with pytest.raises(InputError, match=r"method lisa has no range of its own.*\[0\.001\].*lisa: \[lowest, highest\]"):
        tuned(2)
    assert rates(tuned(2, learning_rates={"lisa": [1e-3, 1e-2]}), "lisa") == [1e-3, 1e-2]


def test_words_of_the_command_line_are_numbers() -> None:
    tuning = {"trials": "2", "seeds": ["9"], "learning_rates": {"lisa": ["1e-3", "0.1"]}}
    tuning |= {"hyperparameters": {"lisa": {"gamma": ["2"]}}}
    trial = resolve(small(tuning=tuning))["trials"][0]
    assert (trial["learning_rate"], trial["seed"], trial["hyperparameters"]["gamma"]) == (0.001, 9, 2)
