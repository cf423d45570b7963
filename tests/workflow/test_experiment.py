from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.experiments import ARCHITECTURE, changed, small, write
from workflow.engine.errors import InputError
from workflow.experiment import SCHEMA_FILE, baseline_of, load, resolve

CONTINUAL = {"file": "corpus/text.txt.gz", "steps": 3, "batch_size": 2, "sequence_length": 16}
HUB_MODEL = {"name": "big", "hub_id": "org/big", "revision": "a" * 40}

# what is wrong -> (experiment, words its one message must hold: the path, the value, the legal set)
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown key": (changed("sedes", [0]), ("the experiment", "'sedes'", "Did you mean 'seeds'?", "training")),
    "unknown key below": (changed("training.step_count", 3), ("training:", "'step_count'", "steps, ")),
    "unknown key of a model": (changed("models.0.layers", 3), ("models[0]", "'layers'", "hub_id", "pretrain")),
    "unknown key of an architecture": (
        changed("models.0.pretrain.architecture.layers", 3),
        ("models[0].pretrain.architecture", "'layers'", "num_hidden_layers"),
    ),
    "unknown key of a benchmark": (
        changed("evaluation.benchmarks", [{"name": "gsm8k", "shot": 5}]),
        ("evaluation.benchmarks[0]", "'shot'", "Did you mean 'shots'?"),
    ),
    "missing key": (
        {key: value for key, value in small().items() if key != "methods"},
        ("the experiment", "'methods'", "is missing", "training"),
    ),
    "wrong type": (changed("threads", "two"), ("threads", "'two'", "expected integer")),
    "text where a section belongs": (changed("training", "fast"), ("training", "'fast'", "expected object")),
    "a truth value is no number": (changed("training.steps", True), ("training.steps", "True", "integer")),
    "a fraction of a step": (changed("training.steps", 1.5), ("training.steps", "1.5", "integer")),
    "a whole number written as a fraction": (changed("training.steps", 100.0), ("training.steps", "100.0", "integer")),
    "an infinite rate": (changed("training.learning_rate", float("inf")), ("training.learning_rate", "inf", "number")),
    "a rate that is no number": (changed("training.learning_rate", float("nan")), ("learning_rate", "nan", "number")),
    "too small": (changed("training.batch_size", 0), ("training.batch_size", "0", "minimum of 1")),
    "outside a set": (changed("training.schedule", "cosin"), ("training.schedule", "'cosin'", "'cosine'", "'linear'")),
    "an unsafe name": (changed("name", "../up"), ("name", "'../up'", "match")),
    "a branch for a revision": (
        small(models=[{**HUB_MODEL, "revision": "main"}]),
        ("models[0].revision", "'main'", "[0-9a-f]{40}"),
    ),
    "no revision": (
        small(models=[{"name": "big", "hub_id": "org/big"}]),
        ("models[0] (big)", "'revision' is missing", "40 hex digits"),
    ),
    "no source of a model": (small(models=[{"name": "big"}]), ("models[0] (big)", "'hub_id'", "'pretrain'")),
    "two sources of a model": (
        changed("models.0.hub_id", "org/big"),
        ("models[0] (tiny)", "exactly one", "'hub_id'", "'pretrain'"),
    ),
    "heads that do not divide": (
        changed("models.0.pretrain.architecture.num_attention_heads", 3),
        ("models[0].pretrain.architecture.hidden_size", "32", "num_attention_heads: 3"),
    ),
    "an unknown tracker": (small(tracking=["mlflow"]), ("tracking[0]", "'mlflow'", "'tensorboard', 'wandb'")),
    "an empty list": (small(seeds=[]), ("seeds", "[]", "non-empty")),
    "a number for a hyper-parameter's name": (
        small(methods=[{"method": "lisa", "variant": "a", "hyperparameters": {2: 3}}]),
        ("methods[0].hyperparameters", "2", "string"),
    ),
    "a world too small for its tests": (
        small(world={"towns": 6, "test_items": 40}),
        ("world.test_items", "30 questions on towns", "has 18", "Legal: more towns, or fewer test_items"),
    ),
    "a world larger than its names": (small(world={"people": 200}), ("world.people", "200", "4 to 100")),
    "unknown method": (small(methods=["full", "galor"]), ("methods[1]", "'galor'", "lora", "Did you mean 'galore'?")),
    "unknown method in its settings": (
        small(method_settings={"lsia": {}}),
        ("method_settings.lsia", "'lsia'", "galore", "Did you mean 'lisa'?"),
    ),
    "unknown hyper-parameter": (
        small(methods=[{"method": "lisa", "variant": "a", "hyperparameters": {"gama": 2}}]),
        ("methods[0] (lisa).hyperparameters", "'gama'", "gamma, period_steps"),
    ),
    "unknown hyper-parameter in method_settings": (
        small(method_settings={"lora": {"hyperparameters": {"gamma": 2}}}),
        ("method_settings.lora.hyperparameters", "'gamma'", "rank"),
    ),
    "hyper-parameter of the wrong type": (
        small(methods=[{"method": "lisa", "variant": "a", "hyperparameters": {"gamma": "many"}}]),
        ("methods[0] (lisa).hyperparameters", "'many'", "int"),
    ),
    "illegal hyper-parameter": (
        small(methods=[{"method": "lisa", "variant": "a", "hyperparameters": {"gamma": -1}}]),
        ("methods[0] (lisa).hyperparameters", "-1", "at least 0"),
    ),
    "gamma larger than the layers": (
        small(method_settings={"lisa": {"hyperparameters": {"gamma": 3}}}),
        ("lisa", "'tiny'", "3", "2"),
    ),
    "unknown benchmark": (
        changed("evaluation.benchmarks", [{"name": "mlu"}]),
        ("evaluation.benchmarks[0].name", "'mlu'", "Did you mean 'mmlu'?", "winogrande"),
    ),
    "unknown task": (
        changed("evaluation.benchmarks", [{"name": "mmlu", "tasks": ["mmlu_anatom"]}]),
        ("evaluation.benchmarks[0].tasks", "'mmlu_anatom'", "mmlu_anatomy"),
    ),
    "a benchmark twice": (
        changed("evaluation.benchmarks", [{"name": "gsm8k"}, {"name": "gsm8k"}]),
        ("evaluation.benchmarks[1].name", "'gsm8k'", "twice"),
    ),
    "the other batch size being the same": (
        small(
            evaluation={"batch_size": 5, "noise_floor": {"batch_size": 5}, "benchmarks": [{"name": "gsm8k"}]},
        ),
        ("evaluation.noise_floor.batch_size", "5", "evaluation.batch_size", "any other"),
    ),
    "a noise floor of nothing": (
        small(evaluation={"noise_floor": {"batch_size": 3}}),
        ("evaluation.noise_floor", "evaluation.benchmarks", "[]", "null"),
    ),
    "vLLM on a CPU": (
        small(device="cpu", evaluation={"backend": "vllm"}),
        ("evaluation.backend", "'vllm'", "device is 'cpu'", "Legal: hf, or device: cuda"),
    ),
    "an unknown backend": (changed("evaluation.backend", "vlm"), ("evaluation.backend", "'vlm'", "'hf'", "'vllm'")),
    "several devices of a CPU": (
        small(device="cpu", evaluation={"devices": 2}),
        ("evaluation.devices", "2", "device is 'cpu'", "Legal: 1, or device: cuda"),
    ),
    "a checkpoint with code of its own under vLLM": (
        small(methods=["full", "prefix_tuning"], evaluation={"backend": "vllm"}),
        ("methods: prefix_tuning (default)", "code of its own", "'vllm'", "Legal: backend: hf"),
    ),
    "a general text that is none": (
        changed("evaluation.general_text", {"file": "text/a.parquet"}),
        ("evaluation.general_text.file", "'text/a.parquet'", ".txt or .txt.gz"),
    ),
    "a general text from elsewhere": (
        changed("evaluation.general_text", {"file": "../a.txt"}),
        ("evaluation.general_text.file", "'../a.txt'", "below the data root", ".txt or .txt.gz"),
    ),
    "a general text of the hub": (
        small(
            data_root="hub",
            dataset_revisions={"org/sums": "a" * 40},
            evaluation={"general_text": {"file": "text/a.txt"}},
        ),
        ("evaluation.general_text", "'hub'", "null, or a local folder"),
    ),
    "a window of general text beyond the model's positions": (
        changed("evaluation.general_text", {"file": "a.txt", "sequence_length": 2049}),
        ("evaluation.general_text.sequence_length", "2049", "'tiny'", "legal: up to 2048"),
    ),
    "a window of general text beyond vLLM's": (
        small(evaluation={"backend": "vllm", "general_text": {"file": "a.txt", "sequence_length": 2047}}),
        ("evaluation.general_text.sequence_length", "2047", "legal: up to 2046"),
    ),
    "a window of general text beyond what a method leaves": (
        small(methods=["prefix_tuning"], evaluation={"general_text": {"file": "a.txt", "sequence_length": 2048}}),
        ("methods: prefix_tuning", "2048", "legal: sequences up to"),
    ),
    "no text to pretrain on": (
        changed("continual_pretraining", {"steps": 3, "batch_size": 2}),
        ("continual_pretraining", "exactly one", "'file'", "'dataset'"),
    ),
    "two texts to pretrain on": (
        changed("continual_pretraining", CONTINUAL | {"dataset": "org/text"}),
        ("continual_pretraining", "exactly one", "'file'", "'dataset'"),
    ),
    "a text to pretrain on that is none": (
        changed("continual_pretraining", CONTINUAL | {"file": "/etc/text.md"}),
        ("continual_pretraining.file", "'/etc/text.md'", ".txt or .txt.gz"),
    ),
    "a text file of the hub to pretrain on": (
        small(data_root="hub", dataset_revisions={"org/sums": "main"}, continual_pretraining=CONTINUAL),
        ("continual_pretraining.file", "'hub'", "Legal: dataset, or a local folder as data_root"),
    ),
    "a text of the hub without a revision": (
        small(
            data_root="hub",
            dataset_revisions={"org/sums": "main"},
            continual_pretraining={"dataset": "org/text", "steps": 3, "batch_size": 2},
        ),
        ("dataset_revisions", "org/text", "org/sums"),
    ),
    "a branch that is none of the known": (
        small(dataset_revisions={"org/sums": "dev"}),
        ("dataset_revisions.org/sums", "'dev'", "main", "refs/convert/parquet"),
    ),
    "no length of the pretraining": (
        changed("continual_pretraining", {"file": "a.txt", "batch_size": 2}),
        ("continual_pretraining:", "neither", "'steps'", "'epochs'"),
    ),
    "all of the pretraining warm-up": (
        changed("continual_pretraining", CONTINUAL | {"warmup_steps": 3}),
        ("continual_pretraining.warmup_steps", "3", "continual_pretraining.steps: 3"),
    ),
    "a packed sequence beyond the model's positions": (
        changed("continual_pretraining", CONTINUAL | {"sequence_length": 2049}),
        ("continual_pretraining.sequence_length", "2049", "'tiny'", "legal: up to 2048"),
    ),
    "accumulation before a method that has none": (
        small(
            methods=["lomo"],
            training={"steps": 4, "batch_size": 2, "max_grad_norm": None},
            continual_pretraining=CONTINUAL | {"accumulation_steps": 2},
        ),
        ("methods[0] (lomo)", "continual_pretraining.accumulation_steps is 2; legal: 1"),
    ),
    "a checkpoint that cannot be fine-tuned": (
        small(methods=["full", "series_adapter"], continual_pretraining=CONTINUAL),
        ("methods: series_adapter (default)", "code of its own", "Legal: continual_pretraining: null"),
    ),
    "a model's name twice": (small(models=small()["models"] * 2), ("models[1].name", "'tiny'", "twice")),
    "a data set's name twice": (small(data=small()["data"] * 2), ("data[1].name", "'sums'", "twice")),
    "a method twice": (small(methods=["full", "full"]), ("methods[1]", "'full'", "'default'", "twice")),
    "a variant twice": (
        small(methods=[{"method": "lora", "variant": "a"}, {"method": "lora", "variant": "a"}]),
        ("methods[1]", "'lora'", "'a'", "twice"),
    ),
    "a seed twice": (small(seeds=[1, 1]), ("seeds", "[1, 1]", "unique")),
    "steps and epochs": (changed("training.epochs", 2), ("training:", "'steps': 4", "'epochs': 2", "exactly one")),
    "neither steps nor epochs": (small(training={"batch_size": 2}), ("training:", "neither", "'steps'", "'epochs'")),
    "all of it warm-up": (changed("training.warmup_steps", 4), ("training.warmup_steps", "4", "training.steps: 4")),
    "unknown published table": (
        small(report={"published": ["table1_memry"]}),
        ("report.published[0]", "'table1_memry'", "Did you mean 'table1_memory'?", "mt_bench"),
    ),
    "a data root that is not there": (small(data_root="/no/such/place"), ("data_root", "'/no/such/place'", "world")),
    "a model root that is not there": (small(model_root="/no/such/place"), ("model_root", "'/no/such/place'", "null")),
    "a chat template of a tokenizer made here": (
        small(prompt_format="chat"),
        ("prompt_format", "'chat'", "models[0] (tiny)", "alpaca, question-answer"),
    ),
    "an answer that leaves no room for a learned prefix": (
        small(
            methods=["prefix_tuning"],
            mt_bench={"judge": "rule-based", "max_new_tokens": ARCHITECTURE["max_position_embeddings"] - 5},
        ),
        ("prefix_tuning", "10 positions", "2048", "2038"),
    ),
    "an unknown judge": (small(mt_bench={"judge": "gpt"}), ("mt_bench.judge", "'gpt'", "'rule-based'", "'openai'")),
    "a baseline that is no row": (
        small(mt_bench={"judge": "rule-based", "pairwise_baseline": "lsia"}),
        ("mt_bench.pairwise_baseline", "'lsia'", "Did you mean 'lisa'?", "Legal: null, vanilla, lisa."),
    ),
    "a baseline that is no variant": (
        small(
            methods=["vanilla", {"method": "lora", "variant": "wide"}],
            mt_bench={"judge": "rule-based", "pairwise_baseline": "lora"},
        ),
        ("mt_bench.pairwise_baseline", "'lora'", "Legal: null, vanilla, lora/wide."),
    ),
    "a reference that is no row": (
        small(report={"reference": "ful"}),
        ("report.reference", "'ful' is no row", "Legal: null, vanilla, lisa."),
    ),
    "a claim of no row": (
        small(report={"claims": [{"claim": "x", "pairs": [["lisa", "vanilla"], ["lisa", "lora"]]}]}),
        ("report.claims[0].pairs[1]", "'lora' is no row", "Legal: vanilla, lisa."),
    ),
    "a claim of a pair twice": (
        small(report={"claims": [{"claim": "x", "pairs": [["lisa", "vanilla"], ["vanilla", "lisa/default"]]}]}),
        ("report.claims[0].pairs[1]", "is pairs[0] again"),
    ),
    "two claims in the same words": (
        small(report={"claims": 2 * [{"claim": "x", "pairs": [["lisa", "vanilla"]]}]}),
        ("report.claims[1].claim", "'x' stands twice"),
    ),
    "a claim of a row beside itself": (
        small(report={"claims": [{"claim": "x", "pairs": [["lisa", "lisa/default"]]}]}),
        ("report.claims[0].pairs[0]", "'lisa' beside itself", "[better, worse]"),
    ),
    "a claim of three rows": (
        small(report={"claims": [{"claim": "x", "pairs": [["lisa", "vanilla", "lisa"]]}]}),
        ("report.claims[0].pairs[0]", "too long"),
    ),
    "a claim of a score that is not made": (
        small(report={"claims": [{"claim": "x", "scores": ["gsm8k"], "pairs": [["lisa", "vanilla"]]}]}),
        ("report.claims[0].scores", "unknown score 'gsm8k'", "validation_loss"),
    ),
    "no repeat": (small(mt_bench={"judge": "rule-based", "repeats": 0}), ("mt_bench.repeats", "0", "1")),
    "a wrong checksum": (small(checksums={"a.txt": "12"}), ("checksums.a.txt", "'12'", "{64}")),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_experiment_ends_in_one_message_with_path_value_and_legal_set(mistake: str) -> None:
    config, words = BAD[mistake]
    with pytest.raises(InputError) as caught:
        resolve(config)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_the_small_experiment_itself_is_valid() -> None:
    assert [run["path"] for run in resolve(small())["runs"]] == [
        "tiny/sums/vanilla/default/seed0",
        "tiny/sums/lisa/default/seed0",
    ]


def test_gamma_larger_than_the_layers_of_a_local_checkpoint_is_found_before_anything_starts(tmp_path: Path) -> None:
    checkpoint = tmp_path / "org" / "big"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps({"num_hidden_layers": 3}))
    lisa = {"method": "lisa", "variant": "wide", "hyperparameters": {"gamma": 4}}
    config = small(model_root=str(tmp_path), models=[{"name": "big", "hub_id": "org/big"}], methods=[lisa])
    with pytest.raises(InputError, match=r"lisa \(wide\) on model 'big'.*4.*3"):
        resolve(config)
    config["methods"][0]["hyperparameters"]["gamma"] = 3
    assert len(resolve(config)["runs"]) == 1


def test_a_local_checkpoint_with_damaged_configuration_is_named(tmp_path: Path) -> None:
    checkpoint = tmp_path / "org" / "big"
    checkpoint.mkdir(parents=True)
    config = small(model_root=str(tmp_path), models=[{"name": "big", "hub_id": "org/big"}])
    for content, complaint in (("{", "not JSON"), ("[]", "mapping")):
        (checkpoint / "config.json").write_text(content)
        with pytest.raises(InputError, match=rf"big/config.json.*{complaint}"):
            resolve(config)


def test_a_file_that_is_no_experiment_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    with pytest.raises(InputError, match=r"No experiment at .*x\.yaml"):
        load(file)
    for content, complaint in ((b"a: [1", "cannot be read"), (b"\xff\xfe\x00", "cannot be read"), (b"- 1", "mapping")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=rf"x\.yaml.*{complaint}") as caught:
            load(file)
        assert "\n" not in str(caught.value)


# --- words


def test_words_that_must_be_numbers_are_read_as_numbers() -> None:
    """YAML takes 1e-3 for a word, and nested values of Snakemake's --config arrive as words."""
    lisa = {"method": "lisa", "variant": "a", "learning_rate": "1e-3", "hyperparameters": {"gamma": "2"}}
    training = {"steps": "4", "batch_size": "2", "max_grad_norm": "null", "gradient_checkpointing": "true"}
    resolved = resolve(small(methods=[lisa], training=training))
    assert resolved["runs"][0]["learning_rate"] == 0.001
    assert resolved["runs"][0]["hyperparameters"]["gamma"] == 2
    found = resolved["training"]
    assert (found["steps"], found["max_grad_norm"], found["gradient_checkpointing"]) == (4, None, True)


def test_words_that_are_names_stay_words() -> None:
    resolved = resolve(small(name="7", models=[{**small()["models"][0], "name": "1e3"}]))
    assert resolved["name"] == "7"
    assert resolved["runs"][0]["model"] == "1e3"


# --- defaults


def defaults(schema: dict[str, Any], path: str = "") -> dict[str, Any]:
    found = {}
    for key, sub in schema.get("properties", {}).items():
        if "default" in sub and not isinstance(sub["default"], dict):
            found[f"{path}{key}"] = sub["default"]
        found |= defaults(sub, f"{path}{key}.")
    return found


def test_every_default_of_the_schema_is_in_a_resolved_experiment() -> None:
    evaluation = {"noise_floor": {"batch_size": 4}, "general_text": {"file": "corpus/world.txt.gz"}}
    evaluation |= {"benchmarks": [{"name": "gsm8k"}]}
    resolved = resolve(small(mt_bench={"judge": "rule-based"}, evaluation=evaluation, tuning={"trials": 2}))
    resolved |= {"continual_pretraining": resolve(small(continual_pretraining=CONTINUAL))["continual_pretraining"]}
    expected = defaults(json.loads(SCHEMA_FILE.read_text()))
    for given in ("mt_bench", "tuning", "continual_pretraining", *(f"evaluation.{key}" for key in evaluation)):
        del expected[given]
    assert len(expected) > 20
    assert expected.pop("continual_pretraining.sequence_length") == 1024  # CONTINUAL has its own
    for path, value in expected.items():
        place: Any = resolved
        for part in path.split("."):
            place = place[part]
        assert place == value, path
    assert resolved["data"][0]["train_split"] == "train"
    assert resolved["models"][0]["pretrain"]["seed"] == 0


def test_resolving_leaves_its_argument_as_it_was_and_shares_no_default() -> None:
    config = small()
    first, second = resolve(config), resolve(config)
    assert config == small()
    first["evaluation"]["benchmarks"].append("x")
    assert second["evaluation"]["benchmarks"] == []
    models = resolve(small(models=[{**small()["models"][0], "name": name} for name in "ab"]))["models"]
    models[0]["checksums"]["x"] = "y"
    assert models[1]["checksums"] == {}


def test_experiment_json_loads_back_equal(tmp_path: Path) -> None:
    resolved = load(write(tmp_path, small()))
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(resolved, indent=2))
    assert "1e-08" in file.read_text()  # which YAML would read as a word
    assert load(file) == resolved
    assert isinstance(load(file)["training"]["epsilon"], float)


def test_a_setting_that_a_method_cannot_honour_is_named_by_its_place_in_the_file():
    with pytest.raises(InputError, match=r"^methods\[1\] \(lomo\): training\.max_grad_norm is 1\.0; legal: null"):
        resolve(small(methods=["full", "lomo"]))


def test_a_run_is_compared_with_the_baselines_run_of_the_same_model_data_and_seed() -> None:
    methods = ["lisa", {"method": "lora", "variant": "a"}, {"method": "lora", "variant": "b"}]
    data = [{**small()["data"][0], "name": name} for name in ("one", "two")]
    for given, baseline in (("lora/b", "lora/b"), ("lisa", "lisa/default"), ("lisa/default", "lisa/default")):
        mt_bench = {"judge": "rule-based", "pairwise_baseline": given}
        resolved = resolve(small(methods=methods, data=data, seeds=[3, 4], mt_bench=mt_bench))
        found = {run["path"]: baseline_of(resolved, run) for run in resolved["runs"]}
        assert len(found) == 12
        for path, other in found.items():
            model, data_name, method, variant, seed = path.split("/")
            expected = f"{model}/{data_name}/{baseline}/{seed}"
            assert (other and other["path"]) == (None if path == expected else expected)


@pytest.mark.parametrize("mt_bench", [None, {"judge": "rule-based"}])
def test_without_a_baseline_no_run_is_compared(mt_bench: dict | None) -> None:
    resolved = resolve(small(mt_bench=mt_bench))
    assert [baseline_of(resolved, run) for run in resolved["runs"]] == [None, None]


def test_null_can_be_said_on_the_command_line_where_a_word_is_legal_too() -> None:
    judged = {"judge": "rule-based", "pairwise_baseline": "null"}
    assert resolve(small(mt_bench=judged))["mt_bench"]["pairwise_baseline"] is None
