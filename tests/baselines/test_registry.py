"""The registry: methods are files, and every mistake is an error that names the thing, the value and the legal set."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest

import baselines
from baselines import contract

ADAMW = contract.AdamWSettings()
ROOT = Path(baselines.__file__).parents[1]


def run_python(script: str, *paths: Path) -> str:
    """What `script` prints in a process that finds packages in `paths` first."""
    lines = f"import sys; sys.path[:0] = {[str(path) for path in (*paths, ROOT)]}\n{script}"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip()


def test_the_five_methods_are_found_in_order():
    names = baselines.names()
    assert names == sorted(names)
    assert {"vanilla", "full", "lora", "galore", "lisa"} <= set(names)
    assert not {"contract", "__init__"} & set(names)


def test_looking_at_all_methods_costs_torch_at_most():
    heavy = ["transformers", "peft", "galore_torch", "apollo_torch", "bitsandbytes", "accelerate", "datasets"]
    seen = f"print([m for m in ['torch', *{heavy}] if m in sys.modules])"
    assert run_python(f"import baselines; baselines.names(); {seen}") == "[]"
    classes = "[baselines.hyperparameters(n, {}) for n in baselines.names()]"
    assert run_python(f"import baselines; {classes}; {seen}") == "['torch']"


def test_a_new_file_is_a_new_method(tmp_path):
    shutil.copytree(ROOT / "baselines", tmp_path / "baselines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "baselines" / "full.py", tmp_path / "baselines" / "mine.py")
    script = "import baselines; print('mine' in baselines.names(), baselines.method_class('mine').__module__)"
    assert run_python(script, tmp_path) == "True baselines.mine"


def test_an_unknown_method_is_an_error_with_the_known_ones():
    with pytest.raises(ValueError) as error:
        baselines.build("galor", {}, ADAMW, 0)
    known = ", ".join(baselines.names())
    advice = f"Known: {known}. Add baselines/galor.py to define one."
    assert str(error.value) == f"Unknown method 'galor'. {advice} Did you mean 'galore'?"


@pytest.mark.parametrize("name", ["contract", "__init__", "_projectors", "../lisa", "nothing like it"])
def test_what_is_no_method_is_unknown(name):
    with pytest.raises(ValueError, match="Unknown method"):
        baselines.method_class(name)


def test_overrides_replace_defaults():
    method = baselines.build("lisa", {"gamma": 4}, ADAMW, 7)
    assert (method.hyperparameters.gamma, method.hyperparameters.period_steps) == (4, 10)
    assert (method.adamw, method.seed) == (ADAMW, 7)


def test_an_unknown_hyperparameter_is_an_error_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'gama' \(value 3\) of method lisa. Known: gamma, period_steps, sampler, .*, layers"
    ):
        baselines.hyperparameters("lisa", {"gama": 3})
    with pytest.raises(ValueError, match="'rank' .* of method full. Known: none"):
        baselines.hyperparameters("full", {"rank": 8})


@pytest.mark.parametrize(
    ("method", "key", "value", "legal"),
    [
        ("lisa", "gamma", "2", "int"),
        ("lisa", "gamma", 2.0, "int"),
        ("lisa", "gamma", True, "int"),
        ("lisa", "gamma", None, "int"),
        ("lora", "alpha", "16", "float"),
        ("lora", "alpha", False, "float"),
        ("lora", "fp32_adapters", 1, "bool"),
        ("lora", "target_modules", ["q_proj", 3], "str or list of str"),
        ("lisa", "layers", 5, "str or null"),
    ],
)
def test_a_wrong_type_is_an_error(method, key, value, legal):
    with pytest.raises(ValueError) as error:
        baselines.hyperparameters(method, {key: value})
    given = f"{value!r}, of type {type(value).__name__}; legal: {legal}."
    assert str(error.value) == f"Hyper-parameter {key!r} of method {method} is {given}"


def test_yaml_spellings_are_taken():
    lora = baselines.hyperparameters("lora", {"alpha": 16, "target_modules": ["q_proj", "v_proj"]})
    assert (lora.alpha, type(lora.alpha), lora.target_modules) == (16.0, float, ("q_proj", "v_proj"))
    assert baselines.hyperparameters("lora", {"target_modules": "all-linear"}).target_modules == "all-linear"
    assert baselines.hyperparameters("lisa", {"layers": None}).layers is None


def test_tuples_of_numbers_are_converted(monkeypatch):
    @dataclass(frozen=True)
    class Rates:
        rates: tuple[float, ...] = ()

    class Method(contract.Method):
        Hyperparameters = Rates

    monkeypatch.setattr(baselines, "method_class", lambda name: Method)
    assert baselines.hyperparameters("toy", {"rates": [1, 0.5]}) == Rates((1.0, 0.5))


@pytest.mark.parametrize(
    ("method", "override"),
    [
        ("lisa", {"gamma": -1}),
        ("lisa", {"period_steps": 0}),
        ("badam", {"switch_every": 0}),
        ("badam", {"switch_mode": "fixed"}),
        ("lora", {"rank": 0}),
        ("lora", {"dropout": 1.0}),
        ("galore", {"rank": 0}),
        ("galore", {"update_proj_gap": 0}),
        ("galore", {"proj_type": "standard"}),
        *((name, {"alpha": value}) for name in ("lora", "rslora", "dora", "pissa", "qlora") for value in (0, -16)),
        *((name, {"scale": value}) for name in ("galore", "lisa_galore", "owlore", "apollo") for value in (0, -1)),
        ("vera", {"d_initial": 0}),
        ("vera", {"d_initial": -0.1}),
        ("lora_plus", {"embedding_learning_rate": 0}),
    ],
)
def test_an_illegal_value_is_an_error_with_the_value_and_what_is_legal(method, override):
    (key, value) = next(iter(override.items()))
    with pytest.raises(ValueError, match=f"{key}.* {value!r}.*; legal: "):
        baselines.build(method, override, ADAMW, 0)


def test_an_unquoted_word_that_yaml_takes_for_a_boolean_is_explained():
    with pytest.raises(ValueError, match="'embeddings' of method lisa is False.*put them in quotes"):
        baselines.hyperparameters("lisa", {"embeddings": False})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_whatever_the_method(value):
    floats = [(name, *entry) for name in baselines.names() for entry in hints(name).items() if "float" in str(entry[1])]
    assert {"lora", "galore", "vera", "adalomo"} <= {name for name, *_ in floats}
    for name, key, hint in floats:
        given = [0.5, value] if "tuple" in str(hint) else value
        with pytest.raises(ValueError, match=f"'{key}' of method {name} is {re.escape(str(given))}; legal: a finite"):
            baselines.hyperparameters(name, {key: given})


def hints(name):
    return typing.get_type_hints(baselines.method_class(name).Hyperparameters)


LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize("name", ["lora", "pissa", "qlora"])
@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["query_key_value"], r"\['query_key_value'\], which matches no module; legal: .*down_proj, .*q_proj"),
        (["proj"], "'proj'.* matches no module"),
        ("q_proj", "'q_proj', which matches no module; legal: .*regular expression of whole names"),
        ("(q_proj", "no regular expression"),
        ([], "matches no module; legal: "),
    ],
)
def test_adapted_modules_that_the_model_does_not_have_are_refused(name, targets, told):
    with pytest.raises(ValueError, match=told):
        baselines.build(name, {"target_modules": targets}, ADAMW, 0).check(LLAMA)


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", ["mlp.up_proj", "c_attn"], ["lm_head"]])
def test_adapted_modules_that_the_model_has_are_taken(targets):
    baselines.build("lora", {"target_modules": targets}, ADAMW, 0).check(LLAMA)
