"""Memory experiments at the boundary: what a YAML becomes, and the one message that a bad one ends in."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.published import agrees
from eval.published import load as load_published
from tests.conftest import ROOT
from tests.workflow.experiments import small, write
from workflow import experiment
from workflow.engine.cards import card_memory_bytes
from workflow.engine.errors import InputError
from workflow.engine.measuring import Effort
from workflow.engine.shapes import read_config
from workflow.engine.training_step import Conditions
from workflow.kinds import resolve as resolve_any
from workflow.memory_experiment import SCHEMA_FILE, find_cell, load, resolve

ARCHITECTURE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
MEMORY: dict[str, Any] = {
    "name": "memory",
    "kind": "memory",
    "models": [{"name": "tiny", "architecture": ARCHITECTURE}],
    "methods": ["full", {"method": "lora", "variant": "r4", "hyperparameters": {"rank": 4}}],
    "training": {"sequence_length": 16},
}


def memory(**changes: Any) -> dict[str, Any]:
    """The small memory experiment with top-level keys replaced."""
    return {**copy.deepcopy(MEMORY), **changes}


def setting(**keys: Any) -> dict[str, Any]:
    """The small memory experiment with one setting."""
    return memory(settings=[{"name": "changed", **keys}])


CHECKPOINTING = {"gradient_checkpointing": True}
STEPPING = {"step_in_backward": True}  # with the gradient's norm clipped at 1.0, which needs all gradients

# what is wrong -> (experiment, words its one message must hold: the path, the value, the legal set)
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown key": (memory(setings=[]), ("the experiment", "'setings'", "Did you mean 'settings'?", "measure")),
    "a key of the other kind": (memory(seeds=[0]), ("the experiment", "'seeds'", "training")),
    "no kind": ({key: value for key, value in memory().items() if key != "kind"}, ("'kind'", "is missing")),
    "unknown condition": (memory(training={"steps": 3}), ("training:", "'steps'", "sequence_length")),
    "unknown condition of a setting": (
        setting(training={"checkpointing": True}),
        ("settings[0].training", "'checkpointing'", "Did you mean 'gradient_checkpointing'?"),
    ),
    "a condition of a setting outside its set": (
        setting(training={"precision": "fp16"}),
        ("settings[0].training.precision", "'fp16'", "'bf16-mixed'"),
    ),
    "too small": (memory(training={"batch_size": 0}), ("training.batch_size", "0", "minimum of 1")),
    "unknown card": (memory(card="RTX 9990"), ("card: ", "'RTX 9990'", "Known: ", "24GiB")),
    "unknown model": (
        memory(models=[{"name": "llama-2-7"}]),
        ("models[0] (llama-2-7)", "'llama-2-7'", "Did you mean 'llama-2-7b'?", "mistral-7b", "hub id"),
    ),
    "unknown shape": (memory(models=[{"name": "a", "shape": "gpt5"}]), ("models[0] (a)", "'gpt5'", "gpt2-small")),
    "shape and architecture": (
        memory(models=[{"name": "a", "shape": "phi-2", "architecture": ARCHITECTURE}]),
        ("models[0] (a)", "'shape'", "'architecture'"),
    ),
    "heads that do not divide": (
        memory(models=[{"name": "a", "architecture": {**ARCHITECTURE, "num_attention_heads": 3}}]),
        ("models[0].architecture.hidden_size", "32", "num_attention_heads: 3"),
    ),
    "a sequence beyond the positions": (
        memory(training={"sequence_length": 129}),
        ("models[0] (tiny)", "sequence_length: 129", "128"),
    ),
    "a setting's sequence beyond the positions": (
        setting(training={"sequence_length": 200}),
        ("models[0] (tiny)", "sequence_length: 200", "128"),
    ),
    "unknown method": (memory(methods=["lsia"]), ("methods[0]", "'lsia'", "Did you mean 'lisa'?", "galore")),
    "unknown hyper-parameter": (
        memory(method_settings={"lora": {"hyperparameters": {"rnk": 2}}}),
        ("method_settings.lora.hyperparameters", "'rnk'", "rank"),
    ),
    "a method that trains nothing": (memory(methods=["vanilla"]), ("methods[0]", "'vanilla'", "trains nothing")),
    "a variant twice": (memory(methods=["full", "full"]), ("methods[1]", "'full'", "'default'", "twice")),
    "gamma larger than the layers": (
        memory(methods=[{"method": "lisa", "variant": "wide", "hyperparameters": {"gamma": 3}}]),
        ("models[0] (tiny)", "lisa (wide)", "3", "2"),
    ),
    "gamma of a setting larger than the layers": (
        setting(hyperparameters={"gamma": 3}, methods=["lisa"]) | {"methods": ["lisa"]},
        ("models[0] (tiny)", "lisa (default)", "3", "2"),
    ),
    "a step in backward with clipping": (
        memory(training=STEPPING),
        ("training.step_in_backward", "max_grad_norm 1.0", "null"),
    ),
    "a step in backward with clipping in a setting": (
        setting(training=STEPPING, methods=["full"]),
        ("settings[0] (changed) on full/default", "max_grad_norm 1.0", "null"),
    ),
    "a model's name twice": (memory(models=memory()["models"] * 2), ("models[1].name", "'tiny'", "twice")),
    "a setting's name twice": (
        memory(settings=[{"name": "a", "training": CHECKPOINTING}] * 2),
        ("settings[1].name", "'a'", "twice"),
    ),
    "a setting with the name of none": (
        memory(settings=[{"name": "default", "training": CHECKPOINTING}]),
        ("settings[0].name", "'default'"),
    ),
    "a setting of an unknown method": (
        setting(training=CHECKPOINTING, methods=["lora/r5"]),
        ("settings[0] (changed).methods", "'lora/r5'", "Did you mean 'lora/r4'?", "full, full/default"),
    ),
    "a setting of an unknown model": (
        setting(training=CHECKPOINTING, models=["tini"]),
        ("settings[0] (changed).models", "'tini'", "Did you mean 'tiny'?"),
    ),
    "a setting's hyper-parameter that not all of its methods have": (
        setting(hyperparameters={"rank": 2}),
        ("settings[0] (changed) on full/default", "'rank'"),
    ),
    "a setting that changes nothing": (
        setting(training={"precision": "bf16"}),
        ("settings[0] (changed)", "changes nothing", "full/default", "tiny"),
    ),
    "too few steps": (
        memory(measure={"warmup_steps": 5, "timed_steps": 10, "max_steps": 14}),
        ("measure.max_steps", "14", "15"),
    ),
    "unknown published table": (memory(report={"published": ["table1"]}), ("report.published[0]", "'table1'")),
    "a reserved name": (memory(name="reference"), ("name", "'reference'")),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_experiment_ends_in_one_message_with_path_value_and_legal_set(mistake: str) -> None:
    config, words = BAD[mistake]
    with pytest.raises(InputError) as caught:
        resolve(config)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_a_profile_that_asks_for_trackers_suits_memory_experiments_too() -> None:
    cells = resolve(memory(tracking=["tensorboard"]))["cells"]
    assert cells == resolve(memory())["cells"]


def test_an_unknown_kind_names_the_known_ones_and_without_one_models_are_trained() -> None:
    with pytest.raises(InputError, match=r"kind: .*'memroy'.*Did you mean 'memory'\?.*training, memory"):
        resolve_any(memory(kind="memroy"))
    assert "cells" in resolve_any(memory())
    assert resolve_any(small()) == resolve_any(small(kind="training"))
    assert resolve_any(small())["kind"] == "training"


# --- cells


def test_cells_are_models_by_variants_and_those_that_settings_name() -> None:
    models = [{"name": name, "architecture": ARCHITECTURE} for name in ("a", "b")]
    settings = [
        {"name": "everywhere", "training": CHECKPOINTING},
        {"name": "by-method", "hyperparameters": {"dropout": 0.5}, "methods": ["lora"], "models": ["b"]},
        {"name": "by-variant", "training": {"attention": "eager"}, "methods": ["lora/r8", "full"], "models": ["a"]},
    ]
    methods = ["full", *({"method": "lora", "variant": f"r{r}", "hyperparameters": {"rank": r}} for r in (4, 8))]
    found = resolve(memory(models=models, methods=methods, settings=settings))["cells"]
    variants = ["full/default", "lora/r4", "lora/r8"]
    base = [f"{model}/{variant}/default" for model in "ab" for variant in variants]
    assert [cell["path"] for cell in found] == [
        *base,
        *(path.removesuffix("default") + "everywhere" for path in base),
        "b/lora/r4/by-method",
        "b/lora/r8/by-method",
        "a/full/default/by-variant",
        "a/lora/r8/by-variant",
    ]


def test_a_setting_changes_what_it_says_and_nothing_else() -> None:
    settings = [{"name": "x", "training": CHECKPOINTING, "hyperparameters": {"dropout": 0.5}, "methods": ["lora"]}]
    resolved = resolve(memory(settings=settings))
    before, after = (find_cell(resolved, f"tiny/lora/r4/{name}") for name in ("default", "x"))
    assert after["conditions"] == before["conditions"] | CHECKPOINTING
    assert after["hyperparameters"] == before["hyperparameters"] | {"dropout": 0.5}
    same = {*before} - {"path", "setting", "conditions", "hyperparameters"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert resolved["settings"][0]["training"] == CHECKPOINTING


def test_a_cell_holds_all_that_the_simulator_takes() -> None:
    cell = resolve(memory())["cells"][1]
    assert Conditions(**cell["conditions"]) == Conditions(sequence_length=16)
    assert (cell["hyperparameters"]["rank"], cell["hyperparameters"]["dropout"]) == (4, 0.0)
    config = read_config(cell["shape"])
    assert (config.model_type, config.num_hidden_layers, config.vocab_size) == ("llama", 2, 64)


def test_a_card_is_its_memory_for_a_process_and_none_is_none() -> None:
    assert resolve(memory(card="RTX 3090"))["card_bytes"] == card_memory_bytes("RTX 3090")
    assert resolve(memory(card="24GB"))["card_bytes"] == 24 * 10**9
    assert resolve(memory())["card_bytes"] is None


def test_words_of_the_command_line_are_read_as_numbers_in_settings_too() -> None:
    changed = {"epsilon": "1e-6", "batch_size": "2", "max_grad_norm": "null", "gradient_checkpointing": "true"}
    conditions = resolve(setting(training=changed))["cells"][2]["conditions"]
    assert {key: conditions[key] for key in changed} == {
        "epsilon": 1e-6,
        "batch_size": 2,
        "max_grad_norm": None,
        "gradient_checkpointing": True,
    }


def test_a_model_is_the_shape_of_its_name_unless_it_names_one() -> None:
    models = [{"name": "gpt2-small"}, {"name": "mine", "shape": "tinyllama", "published_as": "TinyLlama"}]
    cells = resolve(memory(models=models, methods=["full"]))["cells"]
    assert [(cell["shape"], cell["published_as"]) for cell in cells] == [
        ("gpt2-small", None),
        ("tinyllama", "TinyLlama"),
    ]


def test_a_shape_of_the_hub_is_not_downloaded_before_its_cells_are_simulated() -> None:
    wide = {"method": "lisa", "variant": "wide", "hyperparameters": {"gamma": 999}}
    cells = resolve(memory(models=[{"name": "big", "shape": "org/big"}], methods=[wide]))["cells"]
    assert cells[0]["shape"] == "org/big"


def test_an_unknown_cell_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"tiny/ful/default/default.*Did you mean 'tiny/full/default/default'\?"):
        find_cell(resolve(memory()), "tiny/ful/default/default")


# --- files


def test_experiment_json_loads_back_equal_and_a_training_experiment_is_refused(tmp_path: Path) -> None:
    resolved = load(write(tmp_path, memory()))
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(resolved))
    assert load(file) == resolved
    with pytest.raises(InputError, match=r"experiment.yaml: kind: 'training' has no cells .*; legal: memory"):
        load(write(tmp_path, small()))


def test_a_machine_without_jsonschema_is_told_to_take_the_resolved_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve(memory())
    (tmp_path / "experiment.json").write_text(json.dumps(resolved))
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert load(tmp_path / "experiment.json") == resolved
    with pytest.raises(InputError, match=r"jsonschema.*experiment\.json"):
        load(write(tmp_path, memory()))


# --- what must stay equal


def properties(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["properties"]


def test_the_conditions_of_the_schema_are_the_simulators_own_with_its_defaults() -> None:
    schema = properties(SCHEMA_FILE)["training"]["properties"]
    assert {key: sub["default"] for key, sub in schema.items()} == asdict(Conditions())


def test_the_measuring_of_the_schema_is_the_measurements_own_with_its_defaults() -> None:
    schema = properties(SCHEMA_FILE)["measure"]["properties"]
    effort = asdict(Effort())
    assert {key: schema[key]["default"] for key in effort} == effort


def test_both_kinds_of_experiments_name_methods_and_conditions_alike() -> None:
    ours, theirs = properties(SCHEMA_FILE), properties(experiment.SCHEMA_FILE)
    for key in ("methods", "method_settings"):
        assert ours[key] == theirs[key]
    legal = {"type", "enum", "minimum", "exclusiveMinimum", "exclusiveMaximum"}
    for key, sub in ours["training"]["properties"].items():
        other = theirs["training"]["properties"][key]
        assert {word: sub.get(word) for word in legal} == {word: other.get(word) for word in legal}, key


# --- the paper's table


def table1() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config/paper/table1_memory.yaml").read_text())


def test_every_published_cell_of_table_1_is_planned_and_in_the_papers_words() -> None:
    resolved = resolve(table1())
    planned = [cell for cell in resolved["cells"] if cell["setting"] == "default"]
    for cell in load_published("table1_memory"):
        fitting = [
            ours
            for ours in planned
            if (ours["published_as"], ours["method"]) == (cell.model, cell.method)
            and agrees(cell, ours["hyperparameters"])
        ]
        assert len(fitting) == 1, cell
    assert {cell["method"] for cell in planned} == {"full", "lora", "lisa", "galore", "badam"}


def matrices(model: Any) -> Iterator[tuple[str, bool]]:
    """Each linear layer and embedding by its last name, and whether it is adapted."""
    kinds = ("Linear", "Conv1D", "Embedding")
    for name, module in model.named_modules():
        adapted = hasattr(module, "get_delta_weight")
        if adapted or (type(module).__name__ in kinds and "lora_" not in name and not name.endswith("base_layer")):
            yield name.split(".")[-1], adapted


@pytest.mark.filterwarnings("ignore")  # peft: tied layers, Conv1D
@pytest.mark.parametrize("name", [model["name"] for model in table1()["models"]])
def test_the_papers_lora_adapts_every_matrix_of_every_model_of_table_1(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from workflow.engine.training_step import build_method

    config = read_config(name)
    config.num_hidden_layers = 1
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        lora = table1()["method_settings"]["lora"]["hyperparameters"] | {"rank": 1}
        model = build_method("lora", lora, Conditions(), seed=0).prepare(model)
    found = list(matrices(model))
    assert len(found) >= 6
    assert {last for last, adapted in found if not adapted} <= {"wpe"}  # GPT-2's positions
