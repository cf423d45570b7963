"""The part of a model card that the Hugging Face hub reads: base model, data, and the results as its `model-index`.

    metadata(experiment, run) -> huggingface_hub.ModelCardData

Base model and data are named only where they are the hub's; scores on generated data name these, never the benchmark
whose form they have. No licence is claimed. Values have all their digits, each beside its standard error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from eval.benchmarks import BENCHMARKS
from eval.collect import Run
from eval.conditions import judge_name
from eval.protocols import extent_words

TASK = "text-generation"
WORLD_DATA = "lisa-bench-world"
MT_BENCH_DATA = {"dataset_type": "mt_bench", "dataset_name": "MT-Bench"}


def metadata(experiment: Mapping[str, Any], run: Run) -> Any:
    """All of it."""
    from huggingface_hub import ModelCardData

    generated = experiment.get("data_root") == "world"
    results = list(eval_results(experiment, run))
    return ModelCardData(
        base_model=entry_of(experiment, "models", run.model).get("hub_id"),
        datasets=None if generated else [entry_of(experiment, "data", run.data)["dataset"]],
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["lisa-bench", run.method, *(["generated-data"] if generated else [])],
        model_name=f"{run.model}-{run.data}-{run.method}-{run.variant}-seed{run.seed}",
        eval_results=results or None,
    )


def entry_of(experiment: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """The entry of `models` or `data` with this name; empty if the experiment does not say."""
    return next((entry for entry in experiment.get(key, []) if entry["name"] == name), {})


def eval_results(experiment: Mapping[str, Any], run: Run) -> Iterator[Any]:
    """Benchmarks, MT-Bench and the validation loss as the hub's `EvalResult`s; what was not measured is left out."""
    generated = experiment.get("data_root") == "world"
    for name, entry in run.benchmarks.items():
        about = benchmark_data(name, generated) | {"dataset_args": benchmark_arguments(name, entry)}
        metric, words = BENCHMARKS[name].metric, f"{BENCHMARKS[name].label}, 0 to 1"
        yield from with_error(metric, words, entry["value"], entry["stderr"], about)
    if run.judged:
        about = generated_data("MT-Bench", "mt_bench") if generated else MT_BENCH_DATA
        words = f"mean rating, 1 to 10, judge: {judge_name(run.judged['judge'])}"
        yield from with_error("mean_rating", words, run.judged["mean"], run.judged["stderr"], about)
    if run.field("validation_loss") is not None:
        about = validation_data(experiment, run)
        yield from with_error("loss", "validation loss, nats a token", run.field("validation_loss"), None, about)


def with_error(kind: str, words: str, value: float, stderr: float | None, about: Mapping[str, Any]) -> Iterator[Any]:
    """A score and, where it is known, its standard error as two metrics on the same data."""
    from huggingface_hub import EvalResult

    yield EvalResult(task_type=TASK, metric_type=kind, metric_name=words, metric_value=value, **about)
    if stderr is not None:
        error = {"metric_type": f"{kind}_stderr", "metric_name": f"standard error of {words}", "metric_value": stderr}
        yield EvalResult(task_type=TASK, **error, **about)


# --- what a score was measured on


def generated_data(what: str, config: str) -> dict[str, Any]:
    """Data of the generated world, which must not pass for what they have the form of."""
    return {"dataset_type": WORLD_DATA, "dataset_config": config, "dataset_name": f"generated world, form of {what}"}


def benchmark_data(name: str, generated: bool) -> dict[str, Any]:
    """The data set of a benchmark, if all its tasks share one, its configuration and split likewise."""
    benchmark = BENCHMARKS[name]
    if generated:
        return generated_data(benchmark.label, name)
    return {
        "dataset_type": shared(task.dataset for task in benchmark.tasks) or name,
        "dataset_config": shared(task.config for task in benchmark.tasks) or name,
        "dataset_split": shared(task.scored_split for task in benchmark.tasks),
        "dataset_name": benchmark.label,
    }


def shared(values: Iterable[str | None]) -> str | None:
    """The value that all share; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def benchmark_arguments(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """How a benchmark was run: demonstrations, and how much of it."""
    extent = extent_words(name, entry)
    return {"num_few_shot": entry.get("shots"), **({"part": extent} if extent else {})}


def validation_data(experiment: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """What the validation loss was measured on."""
    if experiment.get("data_root") == "world":
        return generated_data("instructions", run.data)
    entry = entry_of(experiment, "data", run.data)
    about = {"dataset_type": entry["dataset"], "dataset_config": entry.get("config"), "dataset_name": run.data}
    return about | {"dataset_split": entry.get("validation_split") or f"held out from {entry['train_split']}"}
