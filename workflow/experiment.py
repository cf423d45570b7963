"""Experiments: a YAML becomes checked settings, and checked settings become runs.

`resolve(config)` fills the defaults of `workflow/schemas/experiment.schema.json`, checks form (`workflow/form.py`) and
meaning, and adds the list of runs; the result is what `results/<experiment>/experiment.json` holds and every stage
reads. With `tuning` there is the list of trials too (`workflow/tuning.py`). Each error is one message: path in the
file, value, legal set.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import baselines
from eval import EvaluationError
from eval.benchmarks import BENCHMARKS, SUITES, check_tasks, datasets_of, expand, requested
from eval.chosen import method_and_variant
from workflow import continual_pretraining
from workflow.checks import (
    check_heads,
    check_known,
    check_name,
    check_one_gradient_at_a_time,
    check_published,
    check_text_file,
    check_unique,
)
from workflow.engine.errors import InputError
from workflow.engine.shapes import check_room, positions, read_shape
from workflow.form import completed, hint, read
from workflow.places import GENERATED, prepared
from workflow.seeds import check_seeds, seed_of
from workflow.tuning import trials
from workflow.variants import method_class, variants
from workflow.world.benchmarks import GENERATED_DATA_SETS
from workflow.world.write import drawn

SCHEMA_FILE = Path(__file__).parent / "schemas" / "experiment.schema.json"


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """Check an experiment and return it with all defaults and its lists of runs and trials.

    Raises:
        InputError: anything unknown, missing, contradictory or of the wrong type.
    """
    config = completed(config, json.loads(SCHEMA_FILE.read_text()))
    config["evaluation"]["benchmarks"] = _benchmarks(config["evaluation"]["benchmarks"])
    _check_meaning(config)
    config["prepared"] = prepared(config)
    config["runs"] = _expand(config)
    config["trials"] = trials(config, config["runs"])
    _check_rows(config)
    _check_claimed_scores(config)
    _check_methods_fit_models(config)
    return config


def load(path: Path) -> dict[str, Any]:
    """Read a resolved experiment (JSON) or resolve one from YAML."""
    content = read(path)
    return content if "runs" in content else resolve(content)


def find_run(experiment: dict[str, Any], path: str) -> dict[str, Any]:
    """The run with this path (model/data/method/variant/seed<k>)."""
    return _first_with(experiment["runs"], experiment["name"], "run", path, "path")


def trainings(experiment: dict[str, Any]) -> list[dict[str, Any]]:
    """All that is trained: runs, and trials (model/data/method/variant/tuning/trial<n>/seed<k>)."""
    return [*experiment["runs"], *experiment.get("trials", [])]


def find_training(experiment: dict[str, Any], path: str) -> dict[str, Any]:
    """The run or trial with this path."""
    return _first_with(trainings(experiment), experiment["name"], "run", path, "path")


def noise_floor_run(experiment: dict[str, Any], model: str) -> dict[str, Any]:
    """The run of a model whose checkpoint tells its noise floor: the first of `evaluation.noise_floor.row`, else the
    first that trains, or the first where none does.
    """
    row, runs = experiment["evaluation"]["noise_floor"]["row"], experiment["runs"]
    if row is None:
        chosen = [run for run in runs if method_class("runs", run["method"]).trains]
    else:
        chosen = [run for run in runs if (run["method"], run["variant"]) == method_and_variant(row)]
    listed = [run for run in chosen if run["model"] == model] or runs
    return _first_with(listed, experiment["name"], "model", model, "model")


def _first_with(runs: list[dict[str, Any]], experiment: str, what: str, value: str, key: str) -> dict[str, Any]:
    for run in runs:
        if run[key] == value:
            return run
    known = list(dict.fromkeys(run[key] for run in runs))
    raise InputError(
        f"Unknown {what} {value!r} of experiment {experiment!r}.{hint(value, known)} Known: {', '.join(known)}."
    )


def baseline_of(experiment: dict[str, Any], run: dict[str, Any]) -> dict[str, Any] | None:
    """The run whose answers this run's are compared with: mt_bench.pairwise_baseline's row with the same model, data
    and seed. None for that row's own runs, and where the experiment compares no answers.
    """
    row = (experiment["mt_bench"] or {}).get("pairwise_baseline")
    if row is None:
        return None
    place = dict(zip(("method", "variant"), method_and_variant(row), strict=True))
    place |= {key: run[key] for key in ("model", "data", "seed")}
    baseline = next(other for other in experiment["runs"] if place.items() <= other.items())
    return None if baseline["path"] == run["path"] else baseline


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The entry of a list of models or data sets with this name."""
    return next(entry for entry in entries if entry["name"] == name)


# --- meaning


def _check_meaning(config: dict[str, Any]) -> None:
    check_name(config)
    check_unique("models", config["models"])
    check_unique("data", config["data"])
    _check_models(config)
    _check_training("training", config["training"])
    check_seeds(config)
    _check_continual_pretraining(config)
    _check_world_has(config)
    _check_machine(config["device"], config["evaluation"])
    _check_general_text(config)
    _check_noise_floor(config["evaluation"])
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
            if config["prompt_format"] == "chat":
                raise InputError(
                    f"prompt_format: 'chat' needs a tokenizer with a chat template, and models[{index}]"
                    f" ({model['name']}) gets one that is made here and has none. Legal: alpaca, question-answer."
                )


def _check_revisions(config: dict[str, Any]) -> None:
    """Every data set that will be downloaded is pinned."""
    if config["data_root"] != "hub":
        return
    needed = {entry["dataset"] for entry in config["data"]} | set(datasets_of(config["evaluation"]["benchmarks"]))
    needed |= {text["dataset"] for text in [config["continual_pretraining"]] if text is not None and "dataset" in text}
    missing = sorted(needed - set(config["dataset_revisions"]))
    if missing:
        raise InputError(
            f"dataset_revisions: no revision of {', '.join(missing)};"
            f" data_root 'hub' needs one for each of {', '.join(sorted(needed))}."
        )


def _check_training(key: str, training: dict[str, Any]) -> None:
    if ("steps" in training) == ("epochs" in training):
        given = {length: training[length] for length in ("steps", "epochs") if length in training}
        raise InputError(f"{key}: give exactly one of 'steps' and 'epochs', not {given or 'neither'}.")
    if training.get("steps", training["warmup_steps"] + 1) <= training["warmup_steps"]:
        raise InputError(
            f"{key}.warmup_steps: {training['warmup_steps']} leaves nothing of {key}.steps: {training['steps']}."
        )
    if training["step_in_backward"]:
        check_one_gradient_at_a_time(f"{key}.step_in_backward", training)


def _check_continual_pretraining(config: dict[str, Any]) -> None:
    continual_pretraining.check(config)
    if config["continual_pretraining"] is not None:
        _check_training("continual_pretraining", continual_pretraining.training_of(config))


def _benchmarks(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries with every suite replaced by its benchmarks."""
    check_unique("evaluation.benchmarks", entries)
    for index, entry in enumerate(entries):
        where = f"evaluation.benchmarks[{index}]"
        check_known(f"{where}.name", "benchmark", entry["name"], [*BENCHMARKS, *SUITES])
        try:
            if entry["name"] in BENCHMARKS:
                check_tasks(entry["name"], entry.get("tasks"))
        except EvaluationError as error:
            raise InputError(f"{where}.tasks: {error}") from error
    try:
        return expand(entries)
    except EvaluationError as error:
        raise InputError(f"evaluation.benchmarks: {error}") from error


def _check_world_has(config: dict[str, Any]) -> None:
    """The generated world can have its size, and has a part of the benchmarks only."""
    if config["data_root"] != GENERATED:
        return
    try:
        drawn(**config["world"])
    except ValueError as error:
        raise InputError(f"world.{error}") from error
    for entry in config["evaluation"]["benchmarks"]:
        missing = [
            task.name for task in requested(entry).tasks if (task.dataset, task.config) not in GENERATED_DATA_SETS
        ]
        if missing:
            there = _tasks_in_world(entry["name"])
            legal = f"tasks: {', '.join(there)}" if there else ", ".join(filter(None, map(_part_in_world, BENCHMARKS)))
            raise InputError(
                f"evaluation.benchmarks ({entry['name']}): data_root 'world' generates no {missing[0]}."
                f" Legal: {legal}; or another data_root."
            )


def _tasks_in_world(name: str) -> list[str]:
    return [task.name for task in BENCHMARKS[name].tasks if (task.dataset, task.config) in GENERATED_DATA_SETS]


def _part_in_world(name: str) -> str:
    """A benchmark with how much of it the world has; empty if nothing."""
    there, whole = len(_tasks_in_world(name)), len(BENCHMARKS[name].tasks)
    return name if there == whole else f"{name} ({there} of {whole} tasks)" if there else ""


def _check_machine(device: str, evaluation: dict[str, Any]) -> None:
    """vLLM and several devices are CUDA's; whether there are any, a stage sees where it runs."""
    if device != "cpu":
        return
    if evaluation["backend"] == "vllm":
        raise InputError("evaluation.backend: 'vllm' needs CUDA, but device is 'cpu'. Legal: hf, or device: cuda.")
    if evaluation["devices"] > 1:
        raise InputError(
            f"evaluation.devices: {evaluation['devices']} are CUDA devices, but device is 'cpu'."
            " Legal: 1, or device: cuda."
        )


def _check_general_text(config: dict[str, Any]) -> None:
    """The text is a text file of a data root that is no download."""
    wanted, key = config["evaluation"]["general_text"], "evaluation.general_text.file"
    if wanted is not None:
        check_text_file(key, wanted["file"], config["data_root"], instead="general_text: null")


def _check_noise_floor(evaluation: dict[str, Any]) -> None:
    """The noise floor has benchmarks to measure, and another batch size than theirs."""
    if evaluation["noise_floor"] is None:
        return
    if not evaluation["benchmarks"]:
        raise InputError(
            "evaluation.noise_floor: needs an entry in evaluation.benchmarks, which is []. Legal: null, or benchmarks."
        )
    if evaluation["noise_floor"]["batch_size"] == evaluation["batch_size"]:
        raise InputError(
            f"evaluation.noise_floor.batch_size: {evaluation['batch_size']} is evaluation.batch_size."
            " Legal: any other whole number from 1."
        )


# --- runs


def _expand(config: dict[str, Any]) -> list[dict[str, Any]]:
    runs = []
    for model, data, variant, seed in itertools.product(
        config["models"], config["data"], variants(config), config["seeds"]
    ):
        path = f"{model['name']}/{data['name']}/{variant['method']}/{variant['variant']}/seed{seed}"
        runs.append({"model": model["name"], "data": data["name"], **variant, "seed": seed, "path": path})
    return runs


def _check_rows(config: dict[str, Any]) -> None:
    """What the experiment names as rows are some: baseline and reference of comparisons, and the rows of claims."""
    _check_row(config, "mt_bench.pairwise_baseline", (config["mt_bench"] or {}).get("pairwise_baseline"), "null, ")
    _check_row(config, "report.reference", config["report"]["reference"], "null, ")
    _check_row(config, "evaluation.noise_floor.row", (config["evaluation"]["noise_floor"] or {}).get("row"), "null, ")
    claims = config["report"]["claims"]
    for place, claim in enumerate(claims):
        if claim["claim"] in [other["claim"] for other in claims[:place]]:
            raise InputError(
                f"report.claims[{place}].claim: {claim['claim']!r} stands twice; each has words of its own."
            )
        _check_pairs(config, f"report.claims[{place}].pairs", claim["pairs"])


def _check_pairs(config: dict[str, Any], where: str, pairs: list[list[str]]) -> None:
    """Each is of two rows, and of two rows there is one."""
    seen: list[set[tuple[str, str]]] = []
    for number, pair in enumerate(pairs):
        for name in pair:
            _check_row(config, f"{where}[{number}]", name)
        rows = set(map(method_and_variant, pair))
        if len(rows) == 1:
            raise InputError(f"{where}[{number}]: {pair[0]!r} beside itself; a pair is two rows, [better, worse].")
        if rows in seen:
            raise InputError(f"{where}[{number}]: {pair} is pairs[{seen.index(rows)}] again; each stands once.")
        seen.append(rows)


def _check_row(config: dict[str, Any], where: str, name: str | None, others: str = "") -> None:
    rows = dict.fromkeys((run["method"], run["variant"]) for run in config["runs"])
    if name is not None and method_and_variant(name) not in rows:
        legal = [method if variant == "default" else f"{method}/{variant}" for method, variant in rows]
        raise InputError(
            f"{where}: {name!r} is no row of this experiment.{hint(name, legal)} Legal: {others}{', '.join(legal)}."
        )


def _check_claimed_scores(config: dict[str, Any]) -> None:
    """Claims are held against scores that the experiment has."""
    names = {entry["name"] for entry in config["evaluation"]["benchmarks"]}
    suites = [name for name, suite in SUITES.items() if names.issuperset(suite.members)]
    legal = ["validation_loss", *(name for name in BENCHMARKS if name in names), *suites]
    legal += ["mt_bench"] if config["mt_bench"] else []
    for place, claim in enumerate(config["report"]["claims"]):
        for score in claim["scores"]:
            check_known(f"report.claims[{place}].scores", "score", score, legal)


def build_method(config: dict[str, Any], run: dict[str, Any]) -> Any:
    """The run's method object with the experiment's shared AdamW settings."""
    from baselines.contract import AdamWSettings

    training = config["training"]
    keys = ("beta1", "beta2", "epsilon", "weight_decay")
    adamw = AdamWSettings(**{key: training[key] for key in keys}, implementation=training["adamw_implementation"])
    start, draws = (seed_of(part, config, run) for part in ("initialisation", "draws"))
    return baselines.build(run["method"], run["hyperparameters"], adamw, start, draws)


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
    for run in trainings(config):
        if run["model"] == model_name:
            try:
                method = build_method(config, run)
                method.check(shape)
                check_room(method, shape, _longest(config))
                _check_backend(config, method)
                _check_goes_on(config, method)
            except ValueError as error:
                where = "tuning" if "trial" in run else "methods"
                raise InputError(
                    f"{where}: {run['method']} ({run['variant']}) on model {model_name!r}: {error}"
                ) from error


def _check_backend(config: dict[str, Any], method: Any) -> None:
    """vLLM runs checkpoints of transformers' own architectures, not those with a modelling file of ours."""
    if config["evaluation"]["backend"] == "vllm" and "plain export" in method.limits():
        raise ValueError(
            "its checkpoint brings code of its own, which evaluation.backend 'vllm' cannot run. Legal: backend: hf."
        )


def _check_goes_on(config: dict[str, Any], method: Any) -> None:
    """The checkpoint that continual pretraining leaves is the base model of the fine-tuning."""
    if config["continual_pretraining"] is not None and "plain export" in method.limits():
        raise ValueError(
            "its checkpoint brings code of its own, which is not trained further: after continual_pretraining there"
            " would be no base model to fine-tune. Legal: continual_pretraining: null, or another method."
        )


def _longest(config: dict[str, Any]) -> int:
    """Tokens of the longest sequence that a model of the experiment surely sees; an answer has a prompt before it."""
    answers = [1 + tokens for tokens in _generated(config).values() if tokens]
    return max([config["training"]["sequence_length"], _packed(config), _window(config), *answers])


def _generated(config: dict[str, Any]) -> dict[str, int]:
    """Tokens of the longest answers, by the key that allows them; 0 where a benchmark has its own limit or none."""
    allowed = {"mt_bench.max_new_tokens": (config["mt_bench"] or {}).get("max_new_tokens", 0)}
    for entry in config["evaluation"]["benchmarks"]:
        allowed[f"evaluation.benchmarks ({entry['name']}).max_new_tokens"] = entry.get("max_new_tokens", 0)
    return allowed


def _window(config: dict[str, Any]) -> int:
    """Tokens of a window of general text; 0 where none is measured."""
    return (config["evaluation"]["general_text"] or {}).get("sequence_length", 0)


def _packed(config: dict[str, Any]) -> int:
    """Tokens of a sequence of continual pretraining; 0 without it."""
    return (config["continual_pretraining"] or {}).get("sequence_length", 0)


def _check_lengths(config: dict[str, Any], model_name: str, shape: dict[str, Any]) -> None:
    """Sequences and answers fit the model's positions."""
    most = positions(shape)
    if most is None:
        return
    extra = 2 if config["evaluation"]["backend"] == "vllm" else 0  # it reads a window's last token and writes one more
    legal = {
        "training.sequence_length": (config["training"]["sequence_length"], most),
        "continual_pretraining.sequence_length": (_packed(config), most),
        "evaluation.general_text.sequence_length": (_window(config), most - extra),
    }
    legal |= {key: (value, most - 1) for key, value in _generated(config).items()}  # an answer has a prompt before it
    for key, (value, limit) in legal.items():
        if value > limit:
            raise InputError(f"{key}: {value} on model {model_name!r} with {most} positions; legal: up to {limit}.")
