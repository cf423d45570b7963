"""Experiments: a YAML becomes checked settings, and checked settings become runs.

`resolve(config)` fills the defaults of `workflow/schemas/experiment.schema.json`, checks form (`workflow/form.py`) and
meaning, and adds the list of runs; the result is what `results/<experiment>/experiment.json` holds and every stage
reads. Each error is one message: path in the file, value, legal set.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import baselines
from eval import EvaluationError
from eval.benchmarks import BENCHMARKS, check_tasks, datasets_of
from workflow.checks import check_heads, check_name, check_one_gradient_at_a_time, check_published, check_unique
from workflow.engine.errors import InputError
from workflow.engine.shapes import check_room, positions, read_shape
from workflow.form import completed, hint, read
from workflow.places import prepared
from workflow.variants import variants

SCHEMA_FILE = Path(__file__).parent / "schemas" / "experiment.schema.json"


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """Check an experiment and return it with all defaults and its list of runs.

    Raises:
        InputError: anything unknown, missing, contradictory or of the wrong type.
    """
    config = completed(config, json.loads(SCHEMA_FILE.read_text()))
    _check_meaning(config)
    config["prepared"] = prepared(config)
    config["runs"] = _expand(config)
    _check_methods_fit_models(config)
    return config


def load(path: Path) -> dict[str, Any]:
    """Read a resolved experiment (JSON) or resolve one from YAML."""
    content = read(path)
    return content if "runs" in content else resolve(content)


def find_run(experiment: dict[str, Any], path: str) -> dict[str, Any]:
    """The run with this path (model/data/method/variant/seed<k>)."""
    for run in experiment["runs"]:
        if run["path"] == path:
            return run
    known = [run["path"] for run in experiment["runs"]]
    what = f"Unknown run {path!r} of experiment {experiment['name']!r}."
    raise InputError(f"{what}{hint(path, known)} Known: {', '.join(known)}.")


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The entry of a list of models or data sets with this name."""
    return next(entry for entry in entries if entry["name"] == name)


# --- meaning


def _check_meaning(config: dict[str, Any]) -> None:
    check_name(config)
    check_unique("models", config["models"])
    check_unique("data", config["data"])
    _check_models(config)
    _check_training(config["training"])
    _check_benchmarks(config["evaluation"]["benchmarks"])
    _check_revisions(config)
    check_published(config)
    _check_folder(config, "data_root", "hub/, mt_bench/, agieval/ and corpus/", others=("world", "hub"))
    _check_folder(config, "model_root", "<organisation>/<name>/ checkpoints", others=(None,))


def _check_folder(config: dict[str, Any], key: str, content: str, others: tuple[str | None, ...]) -> None:
    if config[key] not in others and not Path(config[key]).is_dir():
        legal = ", or ".join([f"a folder with {content}", *map(json.dumps, others)])
        raise InputError(f"{key}: {config[key]!r} is not a folder. Legal: {legal}.")


def _check_models(config: dict[str, Any]) -> None:
    for index, model in enumerate(config["models"]):
        if ("hub_id" in model) == ("pretrain" in model):
            raise InputError(f"models[{index}] ({model['name']}): give exactly one of 'hub_id' and 'pretrain'.")
        if "hub_id" in model and config["model_root"] is None and "revision" not in model:
            raise InputError(
                f"models[{index}] ({model['name']}): 'revision' is missing;"
                " a downloaded model is pinned to a commit of 40 hex digits."
            )
        if "pretrain" in model:
            check_heads(f"models[{index}].pretrain.architecture", model["pretrain"]["architecture"])


def _check_revisions(config: dict[str, Any]) -> None:
    """Every data set that will be downloaded is pinned."""
    if config["data_root"] != "hub":
        return
    needed = {entry["dataset"] for entry in config["data"]} | set(datasets_of(config["evaluation"]["benchmarks"]))
    missing = sorted(needed - set(config["dataset_revisions"]))
    if missing:
        raise InputError(
            f"dataset_revisions: no revision of {', '.join(missing)};"
            f" data_root 'hub' needs one for each of {', '.join(sorted(needed))}."
        )


def _check_training(training: dict[str, Any]) -> None:
    if ("steps" in training) == ("epochs" in training):
        given = {key: training[key] for key in ("steps", "epochs") if key in training}
        raise InputError(f"training: give exactly one of 'steps' and 'epochs', not {given or 'neither'}.")
    if training.get("steps", training["warmup_steps"] + 1) <= training["warmup_steps"]:
        raise InputError(
            f"training.warmup_steps: {training['warmup_steps']} leaves nothing of training.steps: {training['steps']}."
        )
    if training["step_in_backward"]:
        check_one_gradient_at_a_time("training.step_in_backward", training)


def _check_benchmarks(benchmarks: list[dict[str, Any]]) -> None:
    check_unique("evaluation.benchmarks", benchmarks)
    for index, entry in enumerate(benchmarks):
        if entry["name"] not in BENCHMARKS:
            raise InputError(
                f"evaluation.benchmarks[{index}].name: unknown benchmark {entry['name']!r}."
                f"{hint(entry['name'], list(BENCHMARKS))} Known: {', '.join(BENCHMARKS)}."
            )
        try:
            check_tasks(entry["name"], entry.get("tasks"))
        except EvaluationError as error:
            raise InputError(f"evaluation.benchmarks[{index}].tasks: {error}") from error


# --- runs


def _expand(config: dict[str, Any]) -> list[dict[str, Any]]:
    runs = []
    for model, data, variant, seed in itertools.product(
        config["models"], config["data"], variants(config), config["seeds"]
    ):
        path = f"{model['name']}/{data['name']}/{variant['method']}/{variant['variant']}/seed{seed}"
        runs.append({"model": model["name"], "data": data["name"], **variant, "seed": seed, "path": path})
    return runs


def build_method(config: dict[str, Any], run: dict[str, Any]) -> Any:
    """The run's method object with the experiment's shared AdamW settings."""
    from baselines.contract import AdamWSettings

    training = config["training"]
    keys = ("beta1", "beta2", "epsilon", "weight_decay")
    adamw = AdamWSettings(**{key: training[key] for key in keys}, implementation=training["adamw_implementation"])
    return baselines.build(run["method"], run["hyperparameters"], adamw, run["seed"])


def _check_methods_fit_models(config: dict[str, Any]) -> None:
    """Ask every method whether it can run on every model whose shape is known before anything is prepared."""
    for model in config["models"]:
        shape = known_shape(config, model)
        if shape is not None:
            check_methods(config, model["name"], shape)


def known_shape(config: dict[str, Any], model: dict[str, Any]) -> dict[str, Any] | None:
    """The model's config.json as far as it is known without a download."""
    if "pretrain" in model:
        return dict(model["pretrain"]["architecture"])
    file = Path(config["model_root"] or "", model["hub_id"], "config.json")
    return read_shape(file) if config["model_root"] and file.is_file() else None


def check_methods(config: dict[str, Any], model_name: str, shape: dict[str, Any]) -> None:
    """Raise InputError if a method or a length of the experiment does not suit a model of this shape."""
    _check_lengths(config, model_name, shape)
    for run in config["runs"]:
        if run["model"] == model_name:
            try:
                method = build_method(config, run)
                method.check(shape)
                check_room(method, shape, config["training"]["sequence_length"])
            except ValueError as error:
                raise InputError(
                    f"methods: {run['method']} ({run['variant']}) on model {model_name!r}: {error}"
                ) from error


def _check_lengths(config: dict[str, Any], model_name: str, shape: dict[str, Any]) -> None:
    """Sequences and answers fit the model's positions."""
    most = positions(shape)
    if most is None:
        return
    generated = {"mt_bench.max_new_tokens": (config["mt_bench"] or {}).get("max_new_tokens", 0)}
    for entry in config["evaluation"]["benchmarks"]:
        generated[f"evaluation.benchmarks ({entry['name']}).max_new_tokens"] = entry.get("max_new_tokens", 0)
    legal = {"training.sequence_length": (config["training"]["sequence_length"], most)}
    legal |= {key: (value, most - 1) for key, value in generated.items()}  # an answer has a prompt before it
    for key, (value, limit) in legal.items():
        if value > limit:
            raise InputError(f"{key}: {value} on model {model_name!r} with {most} positions; legal: up to {limit}.")
