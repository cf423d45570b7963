"""Experiments: a YAML becomes checked settings, and checked settings become runs.

`resolve(config)` fills the defaults of `workflow/schemas/experiment.schema.json`, checks form (`workflow/form.py`) and
meaning, and adds the list of runs; the result is what `results/<experiment>/experiment.json` holds and every stage
reads. Each error is one message: path in the file, value, legal set.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import baselines
from eval import EvaluationError
from eval.benchmarks import BENCHMARKS, check_tasks, datasets_of
from eval.published import published_tables
from workflow.engine.errors import InputError
from workflow.engine.step_in_backward import check_step_in_backward
from workflow.form import check_form, fill_defaults, hint, typed
from workflow.places import prepared

RESERVED_NAMES = ("published", "reference")  # folders of results/ that git keeps
SCHEMA_FILE = Path(__file__).parent / "schemas" / "experiment.schema.json"


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """Check an experiment and return it with all defaults and its list of runs.

    Raises:
        InputError: anything unknown, missing, contradictory or of the wrong type.
    """
    schema = json.loads(SCHEMA_FILE.read_text())
    config = typed(config, schema)
    check_form(config, schema)
    fill_defaults(config, schema)
    _check_meaning(config)
    config["prepared"] = prepared(config)
    config["runs"] = _expand(config)
    _check_methods_fit_models(config)
    return config


def load(path: Path) -> dict[str, Any]:
    """Read a resolved experiment (JSON) or resolve one from YAML."""
    import yaml

    if not path.is_file():
        raise InputError(f"No experiment at {path}. Give a results/<name>/experiment.json or a YAML from config/.")
    try:
        text = path.read_text(encoding="utf-8")
        # YAML takes JSON's 1e-08 for a word
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # json's and unicode's errors are ValueErrors
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: an experiment is a mapping of keys, not {type(content).__name__}."
            " config/README.md explains every key."
        )
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
    if config["name"] in RESERVED_NAMES:
        raise InputError(f"name: {config['name']!r} is a folder of this repository; any other name is legal.")
    _check_unique("models", config["models"])
    _check_unique("data", config["data"])
    _check_models(config)
    _check_training(config["training"])
    _check_benchmarks(config["evaluation"]["benchmarks"])
    _check_revisions(config)
    known = published_tables()
    for index, table in enumerate(config["report"]["published"]):
        if table not in known:
            raise InputError(
                f"report.published[{index}]: unknown table {table!r}.{hint(table, known)} Known: {', '.join(known)}."
            )
    _check_folder(config, "data_root", "hub/, mt_bench/, agieval/ and corpus/", others=("world", "hub"))
    _check_folder(config, "model_root", "<organisation>/<name>/ checkpoints", others=(None,))


def _check_folder(config: dict[str, Any], key: str, content: str, others: tuple[str | None, ...]) -> None:
    if config[key] not in others and not Path(config[key]).is_dir():
        legal = ", or ".join([f"a folder with {content}", *map(json.dumps, others)])
        raise InputError(f"{key}: {config[key]!r} is not a folder. Legal: {legal}.")


def _check_unique(key: str, entries: list[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if entry["name"] in seen:
            raise InputError(f"{key}[{index}].name: {entry['name']!r} stands twice; names are unique within {key}.")
        seen.add(entry["name"])


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
            _check_heads(f"models[{index}].pretrain.architecture", model["pretrain"]["architecture"])


def _check_heads(where: str, shape: dict[str, Any]) -> None:
    heads = shape["num_attention_heads"]
    groups = shape.get("num_key_value_heads", heads)
    for key, value, parts in (("hidden_size", shape["hidden_size"], heads), ("num_attention_heads", heads, groups)):
        if value % parts:
            divisor = "num_attention_heads" if key == "hidden_size" else "num_key_value_heads"
            raise InputError(f"{where}.{key}: {value} is not a multiple of {divisor}: {parts}.")


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
        _check_step_in_backward("training.step_in_backward", training)


def _check_step_in_backward(who: str, training: dict[str, Any]) -> None:
    check_step_in_backward(training["accumulation_steps"], training["max_grad_norm"], who)


def _check_benchmarks(benchmarks: list[dict[str, Any]]) -> None:
    _check_unique("evaluation.benchmarks", benchmarks)
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
    for name, shared in config["method_settings"].items():
        _method_class(f"method_settings.{name}", name)
        _hyperparameters(f"method_settings.{name}", name, shared["hyperparameters"])
    variants = [_variant(config, index, entry) for index, entry in enumerate(config["methods"])]
    seen: set[tuple[str, str]] = set()
    for index, variant in enumerate(variants):
        key = (variant["method"], variant["variant"])
        if key in seen:
            raise InputError(
                f"methods[{index}]: {key[0]!r} with variant {key[1]!r} stands twice; variants of a method are unique."
            )
        seen.add(key)
    runs = []
    for model, data, variant, seed in itertools.product(config["models"], config["data"], variants, config["seeds"]):
        path = f"{model['name']}/{data['name']}/{variant['method']}/{variant['variant']}/seed{seed}"
        runs.append({"model": model["name"], "data": data["name"], **variant, "seed": seed, "path": path})
    return runs


def _method_class(where: str, name: str) -> Any:
    try:
        return baselines.method_class(name)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _hyperparameters(where: str, name: str, overrides: dict[str, Any]) -> Any:
    try:
        return baselines.hyperparameters(name, overrides)
    except ValueError as error:
        raise InputError(f"{where}.hyperparameters: {error}") from error


def _variant(config: dict[str, Any], index: int, entry: str | dict[str, Any]) -> dict[str, Any]:
    """A method's variant with all its settings: the method's defaults < method_settings < the entry itself."""
    entry = {"method": entry, "variant": "default", "hyperparameters": {}} if isinstance(entry, str) else entry
    name = entry["method"]
    method = _method_class(f"methods[{index}]", name)
    if method.steps_in_backward:
        _check_step_in_backward(f"methods[{index}] ({name})", config["training"])
    shared = config["method_settings"].get(name, {"hyperparameters": {}})
    overrides = {**shared["hyperparameters"], **entry["hyperparameters"]}
    hyperparameters = _hyperparameters(f"methods[{index}] ({name})", name, overrides)
    sources = (entry, shared, config["training"], {"learning_rate": method.default_learning_rate})
    rate = next(source["learning_rate"] for source in sources if "learning_rate" in source)
    return {
        "method": name,
        "variant": entry["variant"],
        "hyperparameters": asdict(hyperparameters),
        "learning_rate": rate if method.trains else None,
    }


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


def read_shape(file: Path) -> dict[str, Any]:
    """A checkpoint's config.json."""
    try:
        shape = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
    if not isinstance(shape, dict):
        raise InputError(f"{file} holds {type(shape).__name__}; a model's configuration is a mapping.")
    return shape


def check_methods(config: dict[str, Any], model_name: str, shape: dict[str, Any]) -> None:
    """Raise InputError if a method or a length of the experiment does not suit a model of this shape."""
    _check_lengths(config, model_name, shape)
    for run in config["runs"]:
        if run["model"] == model_name:
            try:
                build_method(config, run).check(shape)
            except ValueError as error:
                raise InputError(
                    f"methods: {run['method']} ({run['variant']}) on model {model_name!r}: {error}"
                ) from error


def _check_lengths(config: dict[str, Any], model_name: str, shape: dict[str, Any]) -> None:
    """Sequences and answers fit the model's positions."""
    positions = shape.get("max_position_embeddings", shape.get("n_positions"))  # GPT-2's config.json says n_positions
    if positions is None:
        return
    generated = {"mt_bench.max_new_tokens": (config["mt_bench"] or {}).get("max_new_tokens", 0)}
    for entry in config["evaluation"]["benchmarks"]:
        generated[f"evaluation.benchmarks ({entry['name']}).max_new_tokens"] = entry.get("max_new_tokens", 0)
    legal = {"training.sequence_length": (config["training"]["sequence_length"], positions)}
    legal |= {key: (value, positions - 1) for key, value in generated.items()}  # an answer has a prompt before it
    for key, (value, most) in legal.items():
        if value > most:
            raise InputError(f"{key}: {value} on model {model_name!r} with {positions} positions; legal: up to {most}.")
