"""The stage `noise_floor`: a checkpoint scored three times, on a machine whose sums the test can bend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import EvaluationError
from eval.items import read_samples
from tests.eval.benchmark_data import write_checkpoint, write_data_root
from tests.workflow.experiments import small
from workflow.engine.errors import InputError
from workflow.engine.models import load_tokenizer
from workflow.experiment import noise_floor_run, resolve
from workflow.stages import evaluate
from workflow.stages.noise_floor import noise_floor

BENCHMARKS = [{"name": "winogrande"}, {"name": "gsm8k", "limit": 2, "max_new_tokens": 4}]
RUN = "tiny/sums/lisa/default/seed0"


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared benchmarks."""
    root = write_data_root(tmp_path_factory.mktemp("root"))
    (root / "manifest.json").write_text(json.dumps({"root": str(root)}))
    return root


@pytest.fixture(scope="module")
def evaluated(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """An experiment, and its results with the first run evaluated."""
    evaluation = {"batch_size": 4, "noise_floor": {"batch_size": 3}, "benchmarks": BENCHMARKS}
    experiment = resolve(small(evaluation=evaluation))
    experiment["prepared"]["benchmarks"] = str(data_root)
    results = tmp_path_factory.mktemp("results")
    folder = results / RUN
    base = write_checkpoint(folder / "model", context_tokens=512)
    load_tokenizer(base).save_pretrained(folder / "model")
    (folder / "run.json").write_text(json.dumps({"status": "ok", "error": None}))
    evaluate.evaluate_run(experiment, noise_floor_run(experiment, "tiny"), folder)
    return experiment, results


def test_the_floor_is_of_the_first_trained_run_scored_twice_more(evaluated: tuple[dict[str, Any], Path]) -> None:
    experiment, results = evaluated
    before = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}
    found = noise_floor(experiment, results, "tiny")
    assert (found["status"], found["reason"], found["run"]) == ("ok", None, RUN)
    assert (found["batch_size"], found["other_batch_size"]) == (4, 3)
    scores = json.loads((results / RUN / "scores.json").read_text())["benchmarks"]
    assert set(found["benchmarks"]) == {"winogrande", "gsm8k"}
    for name, entry in found["benchmarks"].items():
        assert (entry["value"], entry["items"]) == (scores[name]["value"], scores[name]["items"])
        assert entry["again"]["value"] == entry["value"] and entry["again"]["changed_predictions"] == 0
    # one thread, one machine: the same batches give the same bits, other batches nearly the same
    assert found["benchmarks"]["winogrande"]["again"]["largest_log_likelihood_difference"] == 0.0
    assert 0.0 <= found["benchmarks"]["winogrande"]["other_batch_size"]["largest_log_likelihood_difference"] < 1e-3
    assert found["benchmarks"]["gsm8k"]["again"]["largest_log_likelihood_difference"] is None
    assert {file: file.read_bytes() for file in results.rglob("*") if file.is_file()} == before


def test_the_run_is_that_of_a_row_or_the_first_that_trains_or_the_first_of_all() -> None:
    def chosen(methods: list[Any], **more: Any) -> str:
        evaluation = {"noise_floor": {"batch_size": 3, **more}, "benchmarks": BENCHMARKS}
        return noise_floor_run(resolve(small(methods=methods, evaluation=evaluation)), "tiny")["path"]

    assert chosen(["vanilla", "lora", "full"]) == "tiny/sums/lora/default/seed0"
    assert chosen(["vanilla"]) == "tiny/sums/vanilla/default/seed0"
    assert chosen(["vanilla", "lora", "full"], row="full") == "tiny/sums/full/default/seed0"
    wide = {"method": "lora", "variant": "wide", "hyperparameters": {"rank": 8}}
    assert chosen(["full", wide], row="lora/wide") == "tiny/sums/lora/wide/seed0"
    with pytest.raises(InputError, match="evaluation.noise_floor.row: 'lora' is no row.* Legal: null, vanilla, full"):
        chosen(["vanilla", "full"], row="lora")


def test_the_other_batch_size_reaches_the_model(
    evaluated: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, results = evaluated
    largest: list[int] = []
    original = evaluate.score_checkpoint

    def watched(*arguments: Any, **settings: Any) -> Any:
        from transformers import LlamaForCausalLM

        largest.append(0)
        forward = LlamaForCausalLM.forward

        def noted(self: Any, input_ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
            largest[-1] = max(largest[-1], len(input_ids))
            return forward(self, input_ids, *rest, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LlamaForCausalLM, "forward", noted)
            return original(*arguments, **settings)

    monkeypatch.setattr(evaluate, "score_checkpoint", watched)
    noise_floor(experiment, results, "tiny")
    assert largest == [4, 3]


def test_scores_that_do_move_are_seen(evaluated: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A third evaluation on bent arithmetic: half of the chosen options swapped."""
    experiment, results = evaluated
    original = evaluate.score_checkpoint

    def bent(*arguments: Any, batch_size: int | None = None) -> Any:
        scores, rows = original(*arguments, batch_size=batch_size)
        if batch_size is not None:
            row = next(row for row in rows if row["task"] == "winogrande")
            row["correct"] = not row["correct"]
            row["prediction"] = 1 - row["prediction"]
            row["log_likelihoods"] = [value + 0.5 for value in row["log_likelihoods"]]
            scores["benchmarks"]["winogrande"]["value"] += 0.25
        return scores, rows

    monkeypatch.setattr(evaluate, "score_checkpoint", bent)
    found = noise_floor(experiment, results, "tiny")["benchmarks"]
    assert found["winogrande"]["floor"] == pytest.approx(0.25)
    assert found["winogrande"]["other_batch_size"]["changed_items"] == 1
    assert found["winogrande"]["other_batch_size"]["largest_log_likelihood_difference"] == pytest.approx(0.5, abs=1e-3)
    assert found["gsm8k"]["floor"] == 0.0


def test_scores_of_other_data_are_no_noise(evaluated: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    experiment, results = evaluated
    folder = tmp_path / RUN
    folder.mkdir(parents=True)
    for name in ("scores.json", "run.json", "model"):
        (folder / name).symlink_to(results / RUN / name)
    samples = read_samples(results / RUN)
    evaluate.write_outputs(folder, [samples[0] | {"prompt_sha256": "of another day"}, *samples[1:]], [])
    with pytest.raises(EvaluationError, match="the prompts differ .*of another day"):
        noise_floor(experiment, tmp_path, "tiny")


@pytest.mark.parametrize("status", ["skipped", "oom"])
def test_a_first_trained_run_without_scores_skips_the_floor_with_the_reason(
    evaluated: tuple[dict[str, Any], Path], tmp_path: Path, status: str
) -> None:
    experiment, _ = evaluated
    (tmp_path / RUN).mkdir(parents=True)
    (tmp_path / RUN / "scores.json").write_text(json.dumps({"status": status, "reason": "it diverged"}))
    found = noise_floor(experiment, tmp_path, "tiny")
    assert (found["status"], found["benchmarks"], found["other_batch_size"]) == ("skipped", {}, 3)
    assert RUN in found["reason"] and "it diverged" in found["reason"]


def test_a_batch_size_that_does_not_fit_skips_the_floor_with_the_reason(
    evaluated: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, results = evaluated
    original = evaluate.score_checkpoint

    def full(*arguments: Any, batch_size: int | None = None) -> Any:
        if batch_size is not None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(*arguments)

    monkeypatch.setattr(evaluate, "score_checkpoint", full)
    found = noise_floor(experiment, results, "tiny")
    assert (found["status"], found["reason"]) == ("skipped", "out of memory with batch size 3")


def test_mistakes_are_named(evaluated: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    experiment, results = evaluated
    with pytest.raises(InputError, match="Unknown model 'tine'.*Did you mean 'tiny'.*Known: tiny"):
        noise_floor(experiment, results, "tine")
    with pytest.raises(InputError, match="evaluation.noise_floor: experiment 'small' asks for none"):
        noise_floor(resolve(small()), tmp_path, "tiny")
