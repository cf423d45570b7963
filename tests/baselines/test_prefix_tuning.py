"""Prefix tuning is peft's; its checkpoint is the same model without peft."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

import baselines
from baselines.contract import AdamWSettings
from tests.models import LAYERS, batch, loss_of, start, tiny_gpt2, tiny_llama, tiny_qwen
from workflow.engine.shapes import check_room
from workflow.engine.training_step import checkpoint_layers

MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "qwen": tiny_qwen}
EVERYWHERE = pytest.mark.parametrize("kind", MODELS)
HEADS = {"llama": 4, "gpt2": 4, "qwen": 2}  # of keys and values; each 8 wide
TOKENS = 5


def trained(kind: str = "llama", **overrides: object):
    return start("prefix_tuning", MODELS[kind](), lr=3e-2, num_virtual_tokens=TOKENS, **overrides).train(0, 8)


def exported(run, folder) -> nn.Module:
    run.method.export(run.model, folder)
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    """A trained model of each kind in peft, and its checkpoint."""
    run = trained(request.param)
    return run.model.eval(), exported(run, tmp_path_factory.mktemp("checkpoint"))


def logits(model: nn.Module, **inputs: Tensor | None) -> Tensor:
    with torch.no_grad():
        return model(**{"input_ids": batch(99), **inputs}).logits


def left_padded() -> dict[str, Tensor]:
    mask = torch.ones(4, 7, dtype=torch.long)
    mask[0, :3], mask[2, :1] = 0, 0
    return {"input_ids": batch(3)[:, :7] * mask, "attention_mask": mask}


@pytest.mark.parametrize("width", [None, 24])
@EVERYWHERE
def test_training_is_plain_pefts(kind, width):
    adamw = AdamWSettings(implementation="for-loop")
    settings = {"num_virtual_tokens": TOKENS, "projection_width": width}
    run = start("prefix_tuning", MODELS[kind](), 1e-2, adamw, 5, **settings).train(0, 6)
    base = MODELS[kind]()
    torch.manual_seed(5)
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=TOKENS,
        prefix_projection=width is not None,
        encoder_hidden_size=width,
    )
    model, losses = get_peft_model(base, config), []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0, foreach=False)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + 0.05 * step)
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert run.losses == losses


@EVERYWHERE
def test_the_prefix_has_the_heads_of_keys_and_values(kind, tmp_path):
    model = exported(trained(kind), tmp_path)
    assert model.prefix.keys_values.shape == (LAYERS, 2, HEADS[kind], TOKENS, 8)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"attention_mask": torch.ones(4, 12, dtype=torch.long)},
        {"position_ids": torch.arange(12).expand(4, 12)},
        {**left_padded(), "position_ids": (left_padded()["attention_mask"].cumsum(1) - 1).clamp(min=0)},
        {"use_cache": False},
    ],
    ids=["bare", "mask", "positions", "left padding", "no cache"],
)
def test_the_checkpoints_logits_are_pefts(both, inputs):
    trained_model, model = both
    torch.testing.assert_close(logits(model, **inputs), logits(trained_model, **inputs), rtol=0, atol=1e-5)


def test_positional_arguments_are_understood(both):
    _, model = both
    with torch.no_grad():
        assert torch.equal(model(batch(99)).logits, logits(model))


def test_what_the_checkpoint_writes_is_what_peft_writes(both):
    trained_model, model = both
    settings = {**left_padded(), "max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(**settings), trained_model.generate(**settings))


@pytest.mark.parametrize("beams", [1, 3])
def test_neither_cache_nor_padding_changes_a_token(both, beams):
    """Without a cache every token is computed anew; a row without its padding is the same row."""
    _, model = both
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "num_beams": beams}
    inputs = left_padded()
    reference = model.generate(**inputs, **settings)
    alone = model.generate(inputs["input_ids"][:1, 3:], **settings)
    assert torch.equal(model.generate(**inputs, **settings, use_cache=False), reference)
    assert torch.equal(alone[0], reference[0, 3:])


def test_a_past_goes_on_where_it_stopped(both):
    _, model = both
    with torch.no_grad():
        cache = model(batch(99)[:, :7], use_cache=True).past_key_values
        rest = model(batch(99)[:, 7:], past_key_values=cache).logits
    torch.testing.assert_close(rest, logits(model)[:, 7:], rtol=0, atol=1e-5)
    assert cache.get_seq_length() == 12 + TOKENS


def test_a_cache_that_the_caller_made_is_filled(both):
    _, model = both
    cache = DynamicCache(config=model.config)
    assert torch.equal(logits(model, past_key_values=cache, use_cache=True), logits(model))
    assert cache.get_seq_length() == 12 + TOKENS


def test_caches_of_fixed_length_and_ready_made_masks_are_refused(both):
    _, model = both
    with pytest.raises(ValueError, match=r"mask of \(batch, tokens\)"):
        logits(model, attention_mask=torch.ones(4, 1, 12, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match="DynamicCache"):
        logits(model, past_key_values=StaticCache(config=model.config, max_cache_len=32))


@EVERYWHERE
def test_without_leave_to_run_code_the_checkpoint_is_refused(kind, tmp_path):
    run = trained(kind)
    run.method.export(run.model, tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize("width", [None, 24])
@EVERYWHERE
def test_the_adapter_beside_the_checkpoint_is_pefts(kind, width, tmp_path):
    run = trained(kind, projection_width=width)
    model = exported(run, tmp_path)
    adapted = PeftModel.from_pretrained(MODELS[kind](), tmp_path / "adapter").eval()
    for other in (model, run.model.eval()):
        torch.testing.assert_close(logits(other), logits(adapted), rtol=0, atol=1e-5)


def test_in_bf16_the_checkpoint_is_bf16(tmp_path):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(tiny_llama().config, dtype=torch.bfloat16)
    run = start("prefix_tuning", base, lr=3e-2).train(0, 4)
    model = exported(run, tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(model), logits(run.model.eval()))


@pytest.mark.parametrize("family", ["olmo2", "gpt_neox", "qwen3", "phi3", "mistral", "opt"])
def test_other_families_too(family, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = AutoConfig.for_model(
        family, vocab_size=32, pad_token_id=0, num_key_value_heads=4, **sizes, initializer_range=0.2
    )
    torch.manual_seed(0)
    run = start("prefix_tuning", AutoModelForCausalLM.from_config(config).eval(), lr=3e-2).train(0, 3)
    model = exported(run, tmp_path)
    torch.testing.assert_close(logits(model), logits(run.model.eval()), rtol=0, atol=1e-5)


def test_gradient_checkpointing_is_refused():
    model = tiny_llama()
    checkpoint_layers(model)
    with pytest.raises(
        ValueError, match="Gradient checkpointing is on, which prefix tuning cannot do with: the prefix"
    ):
        start("prefix_tuning", model)


@pytest.mark.parametrize(("setting", "legal"), [("num_virtual_tokens", "at least 1"), ("projection_width", "null")])
def test_illegal_settings_are_refused(setting, legal):
    with pytest.raises(ValueError, match=f"{setting} of prefix tuning is 0; legal: {legal}"):
        baselines.build("prefix_tuning", {setting: 0}, AdamWSettings(), 0)


def test_a_prefix_that_leaves_too_few_positions_is_refused_before_anything_runs():
    shape, method = {"max_position_embeddings": 64}, baselines.build("prefix_tuning", {}, AdamWSettings(), 0)
    check_room(method, shape, 54)
    with pytest.raises(ValueError, match="10 positions .* 55 tokens, and the model has 64; legal: .* up to 54"):
        check_room(method, shape, 55)
    check_room(baselines.build("full", {}, AdamWSettings(), 0), shape, 64)


@pytest.mark.parametrize("config", [{"model_type": "gptj"}, {"model_type": "falcon", "multi_query": True}])
def test_models_whose_cache_has_another_shape_are_refused(config):
    with pytest.raises(ValueError, match=config["model_type"]):
        baselines.build("prefix_tuning", {}, AdamWSettings(), 0).check(config)


def test_prepare_refuses_what_check_refuses():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gptj", vocab_size=32, **sizes))
    with pytest.raises(ValueError, match="shape of the key-value cache of model type 'gptj'"):
        baselines.build("prefix_tuning", {}, AdamWSettings(), 0).prepare(model)
