"""Evaluate one run: every lm-eval task of the experiment on the exported checkpoint, and the answers to MT-Bench's
questions, in one process with one model load.

Writes scores.json, samples.jsonl.gz (one line an item) and answers.jsonl into the run's folder. A run that ended in out
of memory or divergence is skipped, said so.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from workflow.experiment import find_run, load
from workflow.places import benchmarks_folder
from workflow.stages import failure_noted, parser, read_manifest, reason_of, results_folder, stage_main

DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "bf16-mixed": "float32"}


def main() -> None:
    """Command line."""
    arguments = parser(__doc__, run=True).parse_args()
    experiment = load(arguments.experiment)
    run = find_run(experiment, arguments.run)
    folder = results_folder(experiment, arguments.results) / run["path"]
    with failure_noted(folder, "evaluate"):
        evaluate_run(experiment, run, folder)


def evaluate_run(experiment: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
    """Score the checkpoint in `folder/model`."""
    from workflow.engine.models import is_out_of_memory, work_offline
    from workflow.engine.records import write_json

    work_offline()
    for name in ("judgments.jsonl", "mt_bench.json"):  # of former answers
        (folder / name).unlink(missing_ok=True)
    record = json.loads((folder / "run.json").read_text())
    if record["status"] != "ok":
        reason = f"no checkpoint: the run ended as {record['status']} ({record['error']})"
        write_outputs(folder, [], [])
        write_json(folder / "scores.json", {"schema_version": "1.0", "status": "skipped", "reason": reason})
        return
    try:
        scores, samples, answers = _evaluate(experiment, run, folder)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        write_outputs(folder, [], [])
        write_json(folder / "scores.json", {"schema_version": "1.0", "status": "oom", "reason": reason_of(error)})
        return
    write_outputs(folder, samples, answers)
    write_json(folder / "scores.json", {"schema_version": "1.0", "status": "ok", **scores})


def write_outputs(folder: Path, samples: list[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
    """Per-item results and MT-Bench answers; the archive's bytes depend on its content alone."""
    with (
        (folder / "samples.jsonl.gz").open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as stream,
    ):
        for row in samples:
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))


def _evaluate(
    experiment: dict[str, Any], run: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    import torch

    import baselines
    from workflow.engine.devices import take_device
    from workflow.engine.memory import MemoryMeter
    from workflow.engine.models import load_model, load_tokenizer

    torch.set_num_threads(experiment["threads"])
    device, training = take_device(experiment["device"]), experiment["training"]
    root = Path(read_manifest(benchmarks_folder(experiment))["root"])
    tokenizer = load_tokenizer(folder / "model")
    meter = MemoryMeter(device)
    with meter.phase("evaluate"):
        model = load_model(
            folder / "model",
            precision=training["precision"],
            attention=training["attention"],
            device=device,
            training=False,
            own_code="plain export" in baselines.method_class(run["method"]).limits(),
        ).eval()
        scores, samples = _harness(experiment, model, tokenizer, root, device)
        answers = _answers(experiment, run, model, tokenizer, root)
    return {**scores, "memory": {"evaluate_peak_bytes": meter.record()["allocated_peak_bytes"]}}, samples, answers


def _harness(
    experiment: dict[str, Any], model: Any, tokenizer: Any, root: Path, device: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    evaluation = experiment["evaluation"]
    if not evaluation["benchmarks"]:
        return {"benchmarks": {}, "settings": {}, "evaluate_s": 0.0}, []
    from eval.harness import evaluate

    return evaluate(
        model,
        root,
        evaluation["benchmarks"],
        tokenizer=tokenizer,
        batch_size=evaluation["batch_size"],
        device=str(device),
        dtype=DTYPE_NAMES[experiment["training"]["precision"]],
    )


def _answers(
    experiment: dict[str, Any], run: dict[str, Any], model: Any, tokenizer: Any, root: Path
) -> list[dict[str, Any]]:
    settings, style = experiment["mt_bench"], experiment["prompt_format"]
    if settings is None:
        return []
    from eval.answering import answer_questions
    from eval.mt_bench import load_mt_bench
    from workflow.engine.prompts import generation_prompt, stop_strings

    return answer_questions(
        model,
        tokenizer,
        load_mt_bench(root).questions,
        lambda messages: generation_prompt(messages, style, tokenizer),
        max_new_tokens=settings["max_new_tokens"],
        seed=run["seed"],
        limit=settings["limit"],
        stop_strings=stop_strings(style),
    )


if __name__ == "__main__":
    stage_main(main)
