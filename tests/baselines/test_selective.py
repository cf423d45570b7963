"""BitFit, norm tuning and the last layers: which parameters train, and which models are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, OlmoConfig

import baselines
from baselines.contract import AdamWSettings, Method
from baselines.last_layers import LastLayersHyperparameters
from tests.models import LAYERS, start, tiny_gpt2, tiny_llama, tiny_qwen
from workflow.engine.shapes import read_config

NO_BIASES = "Model type 'llama' has no biases for BitFit to train. Train its norms instead: method norm_tuning."


class OnlyMeta(TorchFunctionMode):
    """Fails once a tensor is made that takes memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        assert not isinstance(made, torch.Tensor) or made.is_meta or made.numel() < 10_000, func
        return made


def build(name: str, **hyperparameters: object) -> Method:
    return baselines.build(name, hyperparameters, AdamWSettings(), 0)


def trained(name: str, model: nn.Module, **hyperparameters: object) -> set[str]:
    model = build(name, **hyperparameters).prepare(model)
    return {name for name, p in model.named_parameters() if p.requires_grad}


def with_names(model: nn.Module, *ends: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.endswith(ends)}


# --- BitFit


def test_all_biases_train_those_of_norms_included():
    found = trained("bitfit", tiny_gpt2())
    assert found == with_names(tiny_gpt2(), ".bias")
    assert "transformer.ln_f.bias" in found
    assert len(found) == 6 * LAYERS + 1


def test_qwen_has_biases_on_queries_keys_and_values():
    assert trained("bitfit", tiny_qwen()) == with_names(tiny_qwen(), "q_proj.bias", "k_proj.bias", "v_proj.bias")


@pytest.mark.parametrize("config", [tiny_llama().config.to_dict(), read_config("llama-2-7b").to_dict(), {}], ids=len)
def test_a_model_without_biases_is_sent_to_the_norms(config):
    """A configuration without a model type is a Llama's."""
    with pytest.raises(ValueError) as error:
        build("bitfit").check(config)
    assert str(error.value) == NO_BIASES


def test_a_llama_with_biases_is_trained():
    build("bitfit").check({**tiny_llama().config.to_dict(), "attention_bias": True})


def test_the_check_of_a_large_model_allocates_and_draws_nothing():
    config, state = read_config("llama-2-70b").to_dict(), torch.get_rng_state()
    with OnlyMeta(), pytest.raises(ValueError, match="no biases"):
        build("bitfit").check(config)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_check_takes_a_config_as_it_stands_in_a_checkpoint(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    build("bitfit").check(json.loads((tmp_path / "config.json").read_text()))


# --- norms


def test_norms_are_found_by_their_class():
    ends = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight")
    assert trained("norm_tuning", tiny_llama()) == with_names(tiny_llama(), *ends)
    ends = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "ln_f.weight", "ln_f.bias")
    assert trained("norm_tuning", tiny_gpt2()) == with_names(tiny_gpt2(), *ends)


def test_norms_of_queries_and_keys_count():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = AutoConfig.for_model("qwen3", vocab_size=32, num_hidden_layers=2, head_dim=8, **sizes)
    found = trained("norm_tuning", AutoModelForCausalLM.from_config(config))
    assert len(found) == 2 * 4 + 1
    assert {"model.layers.0.self_attn.q_norm.weight", "model.norm.weight"} <= found


def test_a_model_whose_norms_have_no_parameters_is_refused():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    with pytest.raises(ValueError, match="'olmo' has no normalisation layers with parameters"):
        build("norm_tuning").check(OlmoConfig(vocab_size=32, **sizes).to_dict())


# --- last layers


def inside(model: nn.Module, *starts: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(starts)}


def test_a_fourth_of_the_layers_rounded_up_is_the_default():
    top = ("model.norm.", "lm_head.")
    assert trained("last_layers", tiny_llama()) == inside(tiny_llama(), "model.layers.3.", *top)
    five = tiny_llama(layers=5)
    assert trained("last_layers", tiny_llama(layers=5)) == inside(five, "model.layers.3.", "model.layers.4.", *top)


def test_norm_and_head_train_only_if_asked():
    found = trained("last_layers", tiny_llama(), layers_trained=2, norm=False, head=False)
    assert found == inside(tiny_llama(), "model.layers.2.", "model.layers.3.")


def test_a_tied_head_trains_as_the_embedding_it_is():
    tied = tiny_llama(tied=True)
    assert trained("last_layers", tiny_llama(tied=True)) == inside(tied, "model.layers.3.", "model.norm.")
    found = trained("last_layers", tiny_llama(tied=True), embeddings=True, head=False)
    assert found == inside(tied, "model.layers.3.", "model.norm.", "model.embed_tokens.")


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_qwen], ids=lambda make: make.__name__)
def test_all_layers_and_embeddings_are_full_fine_tuning_bit_for_bit(make):
    settings = AdamWSettings(weight_decay=0.1)
    largest = baselines.method_class("last_layers").full_limit(make().config.to_dict())
    limit = start("last_layers", make(), adamw=settings, **largest).train(0, 5)
    full = start("full", make(), adamw=settings).train(0, 5)
    assert limit.losses == full.losses
    assert all(map(torch.equal, limit.model.parameters(), full.model.parameters()))


def test_nothing_below_the_layers_that_train_is_kept_for_backward():
    run = start("last_layers")
    states = run.model.model(input_ids=torch.zeros(1, 4, dtype=torch.long), output_hidden_states=True).hidden_states
    assert [state.requires_grad for state in states] == [False] * LAYERS + [True]


@pytest.mark.parametrize("count", [0, LAYERS + 1])
def test_a_number_of_layers_that_is_not_there_is_refused(count):
    with pytest.raises(ValueError, match=f"layers_trained is {count}; legal: "):
        build("last_layers", layers_trained=count).check(tiny_llama().config.to_dict())


def test_a_fourth_is_said_by_none():
    assert LastLayersHyperparameters().layers_trained is None
