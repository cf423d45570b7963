"""The phase before the fine-tuning: which runs have it, under which settings, and what it prepares and leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.experiments import small
from workflow.continual_pretraining import LOOP, continues, named, phase_of, training_of
from workflow.engine.errors import InputError
from workflow.engine.records import write_json
from workflow.experiment import find_run, resolve
from workflow.places import benchmarks_folder, data_folder, model_folder, text_folder
from workflow.stages.continue_pretraining import PretrainingAttempt, continue_pretraining
from workflow.stages.train import Attempt, read_continued, train_run

PHASE = {"file": "corpus/text.txt.gz", "epochs": 2, "batch_size": 3, "accumulation_steps": 5, "sequence_length": 16}
LISA = "tiny/sums/lisa/default/seed0"


def experiment(**changes: Any) -> dict[str, Any]:
    return resolve(small(**{"continual_pretraining": PHASE, **changes}))


def lisa(config: dict[str, Any]) -> dict[str, Any]:
    return find_run(config, LISA)


def test_a_run_has_the_phase_if_the_experiment_asks_for_it_and_its_method_trains() -> None:
    asked = experiment()
    assert {run["method"]: continues(asked, run) for run in asked["runs"]} == {"vanilla": False, "lisa": True}
    plain = experiment(continual_pretraining=None)
    assert not any(continues(plain, run) for run in plain["runs"])


def test_the_phase_has_its_own_loop_settings_and_shares_the_rest() -> None:
    asked = experiment(training={"steps": 4, "batch_size": 2, "precision": "bf16", "weight_norms_every_steps": 2})
    own, shared = training_of(asked), asked["training"]
    assert {key: own[key] for key in ("epochs", "batch_size", "accumulation_steps", "sequence_length")} == {
        key: PHASE[key] for key in ("epochs", "batch_size", "accumulation_steps", "sequence_length")
    }
    assert "steps" not in own and own["warmup_steps"] == 0 and own["weight_norms_every_steps"] is None
    rest = shared.keys() - {*LOOP, "weight_norms_every_steps"}
    assert {"precision", "attention", "schedule", "checkpoint_every_steps"} < rest
    assert all(own[key] == shared[key] for key in rest)


@pytest.mark.parametrize(("given", "rate"), [({}, 0.25), ({"learning_rate": 0.5}, 0.5)])
def test_the_phases_learning_rate_is_its_own_or_the_runs(given: dict[str, Any], rate: float) -> None:
    asked = experiment(methods=[{"method": "lisa", "variant": "default", "learning_rate": 0.25}])
    asked = experiment(continual_pretraining=PHASE | given, methods=asked["methods"])
    phase, run = phase_of(asked, lisa(asked))
    assert run == lisa(asked) | {"learning_rate": rate}
    assert phase == asked | {"training": training_of(asked)}


def test_a_text_is_named_by_its_data_set_or_file() -> None:
    assert named(PHASE) == "corpus/text.txt.gz"
    assert named({"dataset": "org/text", "split": "train"}) == "org/text"


# --- what is prepared

PREPARED = {"max_train_items": 5, "validation_items": 7, "file": "corpus/other.txt"}
TRAINED = {"epochs": 3, "batch_size": 9, "sequence_length": 8, "learning_rate": 0.5, "max_train_tokens": 99}


@pytest.mark.parametrize("key", [*PREPARED, *TRAINED])
def test_what_decides_the_documents_prepares_them_anew_and_nothing_else_does(key: str) -> None:
    before, after = experiment(), experiment(continual_pretraining=PHASE | {key: (PREPARED | TRAINED)[key]})
    assert (data_folder(after) != data_folder(before)) is (key in PREPARED)
    assert benchmarks_folder(after) == benchmarks_folder(before)


def test_the_text_of_the_hub_is_pinned_and_another_revision_is_another_text() -> None:
    def folder(revision: str) -> Path:
        text = {"dataset": "org/text", "steps": 3, "batch_size": 2}
        pins = {"org/sums": "main", "org/text": revision}
        return data_folder(experiment(data_root="hub", dataset_revisions=pins, continual_pretraining=text))

    assert folder("a" * 40) == folder("a" * 40) != folder("b" * 40)


def test_no_data_set_can_take_the_texts_folder() -> None:
    asked = experiment()
    with pytest.raises(InputError, match=r"data\[0\]\.name"):
        experiment(data=[{**small()["data"][0], "name": text_folder(asked).name}])


# --- what a stage asks for


def test_a_run_without_the_phase_is_refused(tmp_path: Path) -> None:
    asked = experiment()
    vanilla = find_run(asked, "tiny/sums/vanilla/default/seed0")
    with pytest.raises(InputError, match="vanilla/default/seed0: continual_pretraining is null, or its method trains"):
        continue_pretraining(asked, vanilla, tmp_path)


def test_a_fine_tuning_before_its_pretraining_is_told_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"continued/run\.json does not exist: run `python -m .*continue_pretraining"):
        read_continued(experiment(), tmp_path / "continued")


def test_a_pretraining_of_other_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"continual_pretraining": {**PHASE, "epochs": 9}}}))
    with pytest.raises(InputError, match="is of another continual_pretraining than this experiment's"):
        read_continued(experiment(), tmp_path)
    asked = experiment()
    record = {"settings": {"continual_pretraining": asked["continual_pretraining"]}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert read_continued(asked, tmp_path) == record


def test_out_of_memory_in_the_phase_is_the_runs_result_and_nothing_is_loaded(tmp_path: Path) -> None:
    asked = experiment(prepared_root=str(tmp_path / "prepared"), device="cpu")
    write_json(model_folder(asked, "tiny") / "manifest.json", {"revision": None, "sha256": "0" * 64, "folder": "none"})
    phase = PretrainingAttempt(asked, lisa(asked), tmp_path / "run").record
    ended = {"status": "oom", "phase": "train", "error": "OutOfMemoryError: 2 GiB"}
    ended |= {"settings": {"continual_pretraining": asked["continual_pretraining"]}}
    write_json(tmp_path / "run/continued/run.json", phase | ended)
    train_run(asked, lisa(asked), tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["phase"], record["memory"]) == ("oom", "continual_pretraining", None)
    assert record["error"] == "nothing to fine-tune: ended as oom (train: OutOfMemoryError: 2 GiB)"
    assert record["continual_pretraining"]["status"] == "oom"
    assert [*(tmp_path / "run/model").iterdir()] == [] and (tmp_path / "run/log.jsonl").read_text() == ""


def test_both_attempts_resume_under_their_own_settings_only(tmp_path: Path) -> None:
    asked = experiment()
    pretraining = PretrainingAttempt(asked, lisa(asked), tmp_path)
    fine_tuning = Attempt(asked, lisa(asked), tmp_path)
    assert pretraining.folder == tmp_path / "continued" and fine_tuning.folder == tmp_path
    assert pretraining.decided_by()["training"] == training_of(asked)
    before = fine_tuning.decided_by()
    pretraining.folder.mkdir()
    (pretraining.folder / "run.json").write_text("{}")
    after = fine_tuning.decided_by()  # another pretraining: a checkpoint of the former fine-tuning is worth nothing
    assert before["training"] == after["training"] == asked["training"] and before != after


def test_a_failed_phase_is_noted_as_the_runs_own_failure(tmp_path: Path) -> None:
    from eval.collect import collect

    asked = experiment()
    attempt = PretrainingAttempt(asked, lisa(asked), tmp_path / LISA)
    assert not attempt.note(RuntimeError("a bug"))
    attempt.failure_file.parent.mkdir(parents=True)
    attempt.failure_file.write_text(json.dumps(attempt.failure()))
    run = next(run for run in collect(asked, tmp_path) if run.path == LISA)
    assert (run.status, run.phase, run.reason) == ("failed", "continual_pretraining", "RuntimeError: a bug")
