"""The evaluate stage on checkpoints with a modelling file, which only methods that declare one may bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import baselines
from baselines.contract import AdamWSettings
from eval.mt_bench import PROMPT_FIELDS
from tests.eval.benchmark_data import write_checkpoint, write_data_root
from workflow.engine.models import load_model, load_tokenizer
from workflow.stages.evaluate import evaluate_run

CONTEXT, PREFIX = 512, 16
OWN_CODE = [name for name in baselines.names() if "plain export" in baselines.method_class(name).limits()]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Benchmarks and one question of MT-Bench, prepared."""
    root = write_data_root(tmp_path_factory.mktemp("root"))
    (root / "mt_bench").mkdir()
    question = {"question_id": 1, "category": "writing", "turns": ["Where is Bob?", "And Ann?"]}
    (root / "mt_bench/question.jsonl").write_text(json.dumps(question) + "\n")
    prompts = [
        {"name": name, "system_prompt": "Judge.", "prompt_template": "".join("{" + field + "}" for field in fields)}
        for name, fields in PROMPT_FIELDS.items()
    ]
    (root / "mt_bench/judge_prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    (root / "manifest.json").write_text(json.dumps({"root": str(root)}))
    return root


def experiment(data_root: Path) -> dict[str, Any]:
    return {
        "threads": 1,
        "device": "cpu",
        "prepared": {"benchmarks": str(data_root)},
        "training": {"precision": "fp32", "attention": "sdpa"},
        "evaluation": {"benchmarks": [{"name": "winogrande", "limit": 3}], "batch_size": 4},
        "mt_bench": {"max_new_tokens": 4, "limit": None},
        "prompt_format": "question-answer",
    }


def finished_run(name: str, folder: Path) -> dict[str, Any]:
    """What training leaves: the exported checkpoint with its tokenizer, and a record that says ok."""
    base = write_checkpoint(folder / "base", context_tokens=CONTEXT)
    method = baselines.build(name, baselines.method_class(name).small, AdamWSettings(), 0)
    loading = {"precision": "fp32", "attention": "sdpa", "device": torch.device("cpu"), "training": True}
    method.export(method.prepare(load_model(base, **loading)), folder / "model")
    load_tokenizer(base).save_pretrained(folder / "model")
    (folder / "run.json").write_text(json.dumps({"status": "ok", "error": None}))
    return {"method": name, "seed": 1}


@pytest.mark.parametrize("name", OWN_CODE)
def test_a_checkpoint_with_code_of_ours_is_evaluated(name: str, data_root: Path, tmp_path: Path) -> None:
    run = finished_run(name, tmp_path)
    evaluate_run(experiment(data_root), run, tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["status"] == "ok"
    assert scores["benchmarks"]["winogrande"]["items"] == 3
    assert scores["settings"]["context_tokens"] == CONTEXT - (PREFIX if name == "prefix_tuning" else 0)
    (answer,) = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answer["turns"]) == 2


def test_a_method_that_promises_a_plain_checkpoint_may_bring_no_code(data_root: Path, tmp_path: Path) -> None:
    run = finished_run("series_adapter", tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        evaluate_run(experiment(data_root), {**run, "method": "full"}, tmp_path)
