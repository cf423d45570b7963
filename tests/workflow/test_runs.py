"""Which runs an experiment has, with which settings, and which prepared data and models they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baselines import method_class
from tests.workflow.experiments import small
from workflow.engine.errors import InputError
from workflow.experiment import build_method, find_run, resolve
from workflow.places import benchmarks_folder, data_folder, model_folder

HUB_MODEL = {"name": "big", "hub_id": "org/big", "revision": "a" * 40}


def test_runs_are_the_product_of_models_data_variants_and_seeds() -> None:
    models = [{**small()["models"][0], "name": name} for name in ("a", "b")]
    data = [{**small()["data"][0], "name": name} for name in ("x", "y", "z")]
    methods = ["full", {"method": "full", "variant": "slow", "learning_rate": 1e-6}]
    runs = resolve(small(models=models, data=data, methods=methods, seeds=[0, 7]))["runs"]
    assert len(runs) == len({run["path"] for run in runs}) == 2 * 3 * 2 * 2
    assert "b/z/full/slow/seed7" in {run["path"] for run in runs}


def test_a_thousand_runs_resolve() -> None:
    resolved = resolve(small(seeds=list(range(500))))
    assert len({run["path"] for run in resolved["runs"]}) == 1000
    assert find_run(resolved, "tiny/sums/lisa/default/seed499")["seed"] == 499


def test_an_unknown_run_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'tiny/sums/lisa/default/seed1'.*Did you mean.*vanilla/default/seed0"):
        find_run(resolve(small()), "tiny/sums/lisa/default/seed1")


def rates(**changes: Any) -> dict[str, float | None]:
    return {run["method"]: run["learning_rate"] for run in resolve(small(**changes))["runs"]}


def test_learning_rate_of_entry_beats_method_settings_beats_training_beats_the_methods_own() -> None:
    entry = {"method": "lisa", "variant": "a"}
    own = method_class("lisa").default_learning_rate
    training = {"steps": 4, "batch_size": 2, "learning_rate": 0.3}
    settings = {"lisa": {"learning_rate": 0.2}}
    assert rates(methods=["lisa"])["lisa"] == own
    assert rates(methods=["lisa"], training=training)["lisa"] == 0.3
    assert rates(methods=["lisa"], training=training, method_settings=settings)["lisa"] == 0.2
    entry = {**entry, "learning_rate": 0.1}
    assert rates(methods=[entry], training=training, method_settings=settings)["lisa"] == 0.1


def test_a_method_that_does_not_train_has_no_learning_rate() -> None:
    assert rates(training={"steps": 4, "batch_size": 2, "learning_rate": 0.3})["vanilla"] is None


def test_hyperparameters_of_entry_beat_method_settings_beat_the_methods_own_key_by_key() -> None:
    settings = {"lisa": {"hyperparameters": {"gamma": 1, "period_steps": 7}}}
    entry = {"method": "lisa", "variant": "a", "hyperparameters": {"gamma": 2}}
    default, variant = resolve(small(methods=["lisa", entry], method_settings=settings))["runs"]
    assert {**default["hyperparameters"], **{"gamma": 1, "period_steps": 7}} == default["hyperparameters"]
    assert {**variant["hyperparameters"], **{"gamma": 2, "period_steps": 7}} == variant["hyperparameters"]
    assert variant["hyperparameters"].keys() == method_class("lisa").Hyperparameters.__annotations__.keys()


def test_build_method_hands_over_the_shared_adamw_and_the_seed() -> None:
    training = {"steps": 4, "batch_size": 2, "beta2": 0.95, "weight_decay": 0.1, "adamw_implementation": "for-loop"}
    resolved = resolve(small(seeds=[3], training=training))
    method = build_method(resolved, find_run(resolved, "tiny/sums/lisa/default/seed3"))
    assert (method.seed, method.adamw.beta2, method.adamw.weight_decay) == (3, 0.95, 0.1)
    assert method.adamw.implementation == "for-loop"
    assert method.hyperparameters.gamma == 2


# --- keys of what is prepared

IRRELEVANT = {
    "name": "other",
    "methods": ["full"],
    "seeds": [5],
    "threads": 2,
    "prompt_format": "question-answer",
    "training": {"epochs": 1, "batch_size": 7},
    "report": {"published": ["mt_bench"]},
    "tracking": ["tensorboard"],
}
OTHER_DATA = {**small()["data"][0], "max_train_items": 5}
OTHER_MODEL = {"name": "tiny", "pretrain": {**small()["models"][0]["pretrain"], "seed": 3}}


def folders(config: dict[str, Any]) -> tuple[Path, Path]:
    resolved = resolve(config)
    return data_folder(resolved), model_folder(resolved, resolved["models"][0]["name"])


@pytest.mark.parametrize("key", IRRELEVANT)
def test_prepared_folders_do_not_depend_on(key: str) -> None:
    assert folders(small(**{key: IRRELEVANT[key]})) == folders(small())


def test_prepared_folders_change_with_what_they_are_made_from() -> None:
    data, model = folders(small())
    for change in ({"world": {"seed": 1}}, {"data": [OTHER_DATA]}, {"checksums": {"a": "0" * 64}}):
        assert folders(small(**change))[0] != data, change
        assert folders(small(**change))[1] != model, change
    assert folders(small(models=[OTHER_MODEL]))[0] == data
    assert folders(small(models=[OTHER_MODEL]))[1] != model


def test_a_benchmark_more_trains_nothing_again_but_is_prepared() -> None:
    config = small()
    for change in (
        {"evaluation": {"benchmarks": [{"name": "gsm8k"}]}},
        {"evaluation": {"general_text": {"file": "text/general.txt.gz"}}},
        {"mt_bench": {"judge": "rule-based"}},
    ):
        assert folders(small(**change)) == folders(config)
        assert benchmarks_folder(resolve(small(**change))) != benchmarks_folder(resolve(config))


def test_who_judges_and_which_part_of_the_general_text_is_measured_prepare_nothing_anew() -> None:
    def folder(judge: str, **part: int) -> Path:
        text = {"file": "text/general.txt.gz", **part}
        return benchmarks_folder(resolve(small(mt_bench={"judge": judge}, evaluation={"general_text": text})))

    before = folder("rule-based")
    assert folder("openai") == before
    assert folder("rule-based", first_character=10, characters=900, sequence_length=16) == before


def test_a_model_is_prepared_again_when_its_files_change_and_not_when_its_card_does(tmp_path: Path) -> None:
    config = small(model_root=str(tmp_path), models=[{"name": "tiny", "hub_id": "org/tiny"}])
    checkpoint = tmp_path / "org/tiny"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("one")
    before = folders(config)[1]
    (checkpoint / "README.md").write_text("what it scored")
    assert folders(config)[1] == before
    (checkpoint / "weights").write_text("three")
    assert folders(config)[1] != before


def test_a_general_text_that_changes_is_prepared_again(tmp_path: Path) -> None:
    config = small(data_root=str(tmp_path), evaluation={"general_text": {"file": "a.txt"}})
    (tmp_path / "a.txt").write_text("one")
    before = benchmarks_folder(resolve(config))
    assert benchmarks_folder(resolve(config)) == before
    (tmp_path / "a.txt").write_text("three")
    assert benchmarks_folder(resolve(config)) != before


def test_a_data_root_in_use_makes_the_world_and_unused_revisions_irrelevant(tmp_path: Path) -> None:
    local = small(data_root=str(tmp_path))
    assert folders({**local, "world": {"seed": 1}}) == folders(local) != folders(small())
    assert folders({**local, "dataset_revisions": {"org/sums": "a" * 40}}) == folders(local)
    hub = small(data_root="hub", dataset_revisions={"org/sums": "a" * 40})
    assert folders(hub)[0] != folders({**hub, "dataset_revisions": {"org/sums": "b" * 40}})[0]


def test_a_downloaded_model_depends_on_revision_and_source_and_not_on_data(tmp_path: Path) -> None:
    config = small(models=[HUB_MODEL])
    model = folders(config)[1]
    assert folders({**config, "data": [OTHER_DATA]})[1] == model
    assert folders({**config, "models": [{**HUB_MODEL, "published_as": "Big"}]})[1] == model
    assert folders({**config, "models": [{**HUB_MODEL, "revision": "b" * 40}]})[1] != model
    assert folders({**config, "model_root": str(tmp_path)})[1] != model


def test_prepared_root_moves_both() -> None:
    data, model = folders(small(prepared_root="/scratch/x"))
    assert data.is_relative_to("/scratch/x/data")
    assert model.is_relative_to("/scratch/x/models")
