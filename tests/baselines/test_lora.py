"""LoRA is peft's LoRA, started from its own seed, merged exactly."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from baselines._peft import adapted_modules, merged_parameters
from baselines.contract import AdamWSettings
from tests.models import LAYERS, batch, start, tiny_gpt2, tiny_llama, train_by_hand


def plain_peft(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear"))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_lora_equals_plain_peft(make):
    run = start("lora", make(), lr=1e-2, seed=5, adamw=AdamWSettings(implementation="for-loop"))
    model = plain_peft(make(), seed=5)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0, foreach=False
    )
    assert run.train(0, 10).losses == train_by_hand(model, optimizer, 10, lr=1e-2)


def test_all_linear_layers_but_the_head_are_adapted():
    model = start("lora").model
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_target_modules_choose_the_layers():
    model = start("lora", target_modules=["q_proj", "v_proj"]).model
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert adapted == {"q_proj", "v_proj"}


BLOCK = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2_BLOCK = ["c_attn", "c_fc", "c_proj"]


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (tiny_llama, [*BLOCK, "embed_tokens", "lm_head"]),
        (lambda: tiny_llama(tied=True), [*BLOCK, "embed_tokens", "lm_head"]),
        (lambda: tiny_llama(tied=True), [*BLOCK, "embed_tokens"]),
        (lambda: tiny_llama(tied=True), BLOCK),
        (tiny_gpt2, [*GPT2_BLOCK, "wte", "lm_head"]),
    ],
    ids=["untied", "tied, both", "tied, embedding", "tied, neither", "gpt2"],
)
def test_embedding_and_head_can_be_adapted_and_the_export_is_the_model_that_was_trained(make, targets, tmp_path):
    run = start("lora", make(), lr=1e-2, target_modules=targets).train(0, 8)
    run.method.export(run.model, tmp_path)
    tokens = batch(99)
    trained, untrained = run.model(input_ids=tokens).logits, make()(input_ids=tokens).logits
    for exported in (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        PeftModel.from_pretrained(make(), tmp_path / "adapter"),
    ):
        torch.testing.assert_close(exported(input_ids=tokens).logits, trained, rtol=0, atol=2e-5)
    assert not torch.allclose(trained, untrained, atol=0.1)


def test_weights_stay_tied_unless_one_end_is_adapted(tmp_path):
    for targets, tied in ((BLOCK, True), ([*BLOCK, "lm_head"], False)):
        run = start("lora", tiny_llama(tied=True), target_modules=targets)
        run.method.export(run.model, tmp_path)
        assert AutoModelForCausalLM.from_pretrained(tmp_path).config.tie_word_embeddings is tied
        assert run.model.config.tie_word_embeddings


@pytest.mark.parametrize(("dtype", "fp32"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_weights_merge_to_the_bit_as_in_peft(dtype, fp32):
    targets = BLOCK if fp32 else [*BLOCK, "embed_tokens"]  # peft rounds an embedding's fp32 adapter before it adds it
    run = start("lora", tiny_llama().to(dtype), lr=1e-2, fp32_adapters=fp32, target_modules=targets)
    adapted = adapted_modules(run.train(0, 4).model)
    ours = {name: merged_parameters(module)["weight"] for name, module in adapted.items()}
    run.model.merge_adapter()
    assert len(ours) == 7 * LAYERS + len(targets) - 7
    for name, module in adapted.items():
        assert torch.equal(ours[name], module.get_base_layer().weight), name


@pytest.mark.parametrize(("fp32", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
def test_adapters_have_the_stated_precision(fp32, dtype):
    model = start("lora", tiny_llama().to(torch.bfloat16), fp32_adapters=fp32).model
    assert {p.dtype for name, p in model.named_parameters() if ".lora_" in name} == {dtype}


def test_another_seed_is_another_start():
    first, second = (start("lora", seed=seed).model.state_dict() for seed in (0, 1))
    name = next(name for name in first if ".lora_A" in name)
    assert not torch.equal(first[name], second[name])


def test_the_adapter_beside_the_checkpoint_is_pefts(tmp_path):
    run = start("lora", lr=1e-2).train(0, 8)
    run.method.export(run.model, tmp_path)
    adapted = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")
    tokens = batch(99)
    torch.testing.assert_close(adapted(input_ids=tokens).logits, run.model(input_ids=tokens).logits, rtol=0, atol=1e-5)


def test_training_goes_on_after_an_export_as_if_there_had_been_none(tmp_path):
    """In bf16, where adding and subtracting an adapter would not give the old weights back."""
    one, other = (start("lora", tiny_llama().to(torch.bfloat16), lr=1e-2).train(0, 4) for _ in range(2))
    one.method.export(one.model, tmp_path)
    assert one.train(4, 8).losses == other.train(4, 8).losses
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
