"""Which layers exist: found in every family by structure alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from lisa import decoder_layers
from tests.models import LAYERS, tiny_gpt2, tiny_llama

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 2, "moe_intermediate_size": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "phi": {},
    "phi3": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "falcon": {},
    "bloom": {"n_layer": 3, "n_head": 2},
    "cohere": {},
    "granite": {},
    "starcoder2": {},
    "olmo2": {},
    "mixtral": {"num_local_experts": 2},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_found_in_every_family(family):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]}))
    layers = decoder_layers(model)
    assert len(layers) == 3
    assert len({type(layer) for layer in layers}) == 1
    assert {layer_type.__name__ for layer_type in map(type, layers)}.pop().endswith(("Layer", "Block"))


def test_layers_of_gpt2_are_its_blocks():
    model = tiny_gpt2()
    assert decoder_layers(model) == list(model.transformer.h)


def test_layers_are_found_through_wrappers():
    from peft import LoraConfig, get_peft_model

    model = tiny_llama()
    expected = list(model.model.layers)
    assert decoder_layers(torch.compile(model)) == expected
    assert decoder_layers(get_peft_model(model, LoraConfig(target_modules="all-linear"))) == expected


def test_a_layer_count_of_one_is_found():
    assert len(decoder_layers(tiny_llama(layers=1))) == 1


class Plain(nn.Module):
    """No configuration, lists inside the layers as a mixture of experts has them."""

    def __init__(self, lists: int) -> None:
        super().__init__()
        for index in range(lists):
            blocks = [nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2)])}) for _ in range(3)]
            setattr(self, f"blocks{index}", nn.ModuleList(blocks))


def test_plain_modules_need_no_configuration():
    model = Plain(1)
    assert decoder_layers(model) == list(model.blocks0)


def test_several_lists_are_an_error_that_names_them_and_says_what_to_pass():
    with pytest.raises(ValueError, match=r"blocks0 \(3 layers\), blocks1 \(3 layers\).*Pass layers="):
        decoder_layers(Plain(2))


def test_a_path_decides_between_several_lists():
    model = Plain(2)
    assert decoder_layers(model, "blocks1") == list(model.blocks1)


def test_a_path_is_found_inside_a_wrapper():
    model = tiny_llama()
    assert decoder_layers(torch.compile(model), "model.layers") == list(model.model.layers)


def test_encoder_and_decoder_are_not_confused():
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2, vocab_size=32)
    with pytest.raises(ValueError, match=r"encoder.block \(2 layers\), decoder.block \(2 layers\)"):
        decoder_layers(T5ForConditionalGeneration(config))


def test_no_list_is_an_error():
    with pytest.raises(ValueError, match="Cannot tell the decoder layers of Linear"):
        decoder_layers(nn.Linear(2, 2))


@pytest.mark.parametrize("path", ["model.layer", "model.norm", ""])
def test_a_wrong_path_is_an_error_that_names_the_lists_there_are(path):
    with pytest.raises(ValueError, match=rf"at '{path}' in LlamaForCausalLM.*model.layers \({LAYERS} layers\)"):
        decoder_layers(tiny_llama(), path)
