"""The adapters that peft makes: each is peft's own, merged as peft merges, and is what its paper says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, VeraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import baselines
from baselines._peft import PeftMethod, adapted_modules, merged_parameters
from baselines.contract import AdamWSettings
from tests.models import LAYERS, batch, changed, copies, loss_of, start, tiny_gpt2, tiny_llama, tiny_qwen
from workflow.engine.weight_norms import part_norms

MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "qwen": tiny_qwen}
ADAPTERS = ["lora", "rslora", "lora_plus", "dora", "pissa", "vera", "ia3"]
DECAY = AdamWSettings(weight_decay=0.1, implementation="for-loop")
PLAIN: dict[str, Any] = {  # what `small` means in peft's own words
    "rslora": lambda: LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules="all-linear"),
    "dora": lambda: LoraConfig(r=4, lora_alpha=16, use_dora=True, target_modules="all-linear"),
    "pissa": lambda: LoraConfig(r=4, lora_alpha=4, init_lora_weights="pissa", target_modules="all-linear"),
    "vera": lambda: VeraConfig(r=64, d_initial=0.1, projection_prng_key=5, target_modules="all-linear"),
    "ia3": lambda: IA3Config(target_modules="all-linear", feedforward_modules=".*mlp.*"),
}


def trained(name: str, make: Any = tiny_llama, **arguments: Any) -> Any:
    return start(name, make(), lr=baselines.method_class(name).small_learning_rate, **arguments).train(0, 5)


def logits(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=batch(99)).logits


# --- all of them


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("name", PLAIN)
def test_a_run_is_that_of_plain_peft_bit_for_bit(name, make):
    """Matrices decay, vectors do not, nor (IA)^3's, which peft holds as matrices of one column or row."""
    model = make()
    torch.manual_seed(5)
    model = get_peft_model(model, PLAIN[name]())
    decaying = {id(p) for p in model.parameters() if p.requires_grad and p.ndim == 2 and name != "ia3"}
    groups = [
        {"params": [p for p in model.parameters() if p.requires_grad and id(p) in decaying], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.requires_grad and id(p) not in decaying], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-2, foreach=False)
    losses = []
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + 0.05 * step)
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    run = start(name, make(), lr=1e-2, seed=5, adamw=DECAY).train(0, 20)
    assert run.losses == losses
    assert changed(run.model, copies(model)) == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_weights_and_biases_merge_to_the_bit_as_in_peft(name, kind, dtype):
    model = trained(name, lambda: MODELS[kind]().to(dtype)).model
    adapted, before = adapted_modules(model), copies(model)
    ours = {module: merged_parameters(adapted[module]) for module in adapted}
    assert changed(model, before) == set()
    model.merge_adapter()
    assert len(ours) == LAYERS * {"llama": 7, "qwen": 7, "gpt2": 4}[kind]
    for module, merged in ours.items():
        theirs = dict(adapted[module].get_base_layer().named_parameters())
        assert merged.keys() == theirs.keys()
        assert all(torch.equal(merged[key], theirs[key]) and merged[key].dtype == dtype for key in merged), module


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_adapter_beside_the_checkpoint_is_for_the_original_model(name, kind, tmp_path):
    """Also PiSSA's, whose own base is another."""
    run = trained(name, MODELS[kind])
    run.method.export(run.model, tmp_path)
    torch.manual_seed(99)
    loaded = PeftModel.from_pretrained(MODELS[kind](), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(run.model), rtol=0, atol=2e-5)
    assert not torch.allclose(logits(loaded), logits(MODELS[kind]()), atol=0.1)


@pytest.mark.parametrize("name", ADAPTERS)
def test_training_goes_on_after_an_export_as_if_there_had_been_none(name, tmp_path):
    """In bf16, where no adapter can be taken out of a weight again without a trace."""
    one, other = (trained(name, lambda: tiny_llama().to(torch.bfloat16)) for _ in range(2))
    one.method.export(one.model, tmp_path)
    assert one.train(5, 8).losses == other.train(5, 8).losses
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["dora", "vera", "ia3"])
def test_merged_norms_are_those_of_the_exported_model(name, kind, tmp_path):
    """With the biases, which (IA)^3 scales too."""
    run = trained(name, MODELS[kind])
    run.method.export(run.model, tmp_path)
    merged = {part: norm for part, sort, norm in part_norms(run.model) if sort == "merged"}
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert merged == {part: norm for part, _, norm in part_norms(exported)}
    assert merged != {part: norm for part, _, norm in part_norms(MODELS[kind]())}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("rslora", {"rank": 0}, "rank of LoRA's adapters is 0; legal: at least 1"),
        ("dora", {"dropout": 1.0}, r"dropout of LoRA's adapters is 1.0; legal: from 0 to below 1"),
        ("lora_plus", {"ratio": 0.5}, r"ratio of LoRA\+'s learning rates is 0.5; legal: at least 1"),
        ("lora_plus", {"rank": -1}, "rank of LoRA's adapters is -1"),
        ("vera", {"rank": 0}, "rank of VeRA's matrices is 0; legal: at least 1"),
        ("vera", {"dropout": -0.1}, r"dropout of VeRA is -0.1; legal: from 0 to below 1"),
        ("ia3", {"target_modules": ["k_proj"]}, "legal: both or neither"),
    ],
)
def test_an_illegal_hyper_parameter_is_refused(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        baselines.hyperparameters(name, overrides)


# --- mixtures of experts


def a_mixture() -> nn.Module:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**PeftMethod.refused_example, vocab_size=32))


@pytest.mark.parametrize("name", [*ADAPTERS, "qlora"])
def test_experts_in_tensors_of_three_sides_are_refused_before_and_when_preparing(name):
    assert "Mixtral" in baselines.method_class(name).limits()["models"]
    method = baselines.build(name, baselines.method_class(name).small, AdamWSettings(), 0)
    told = f"Model type 'mixtral' holds its experts in tensors of three sides; {name} merges matrices only."
    for refuse in (lambda: method.check(a_mixture().config.to_dict()), lambda: method.prepare(a_mixture())):
        with pytest.raises(ValueError) as error:
            refuse()
        assert str(error.value) == told


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_convolution_is_no_expert(name):
    baselines.build(name, baselines.method_class(name).small, AdamWSettings(), 0).check(
        {"model_type": "falcon_h1", "num_hidden_layers": 2}
    )


def test_an_export_that_would_lose_a_trained_weight_is_an_error(monkeypatch, tmp_path):
    """As peft nests its wrappers around experts, merging would."""
    monkeypatch.setattr(PeftMethod, "check", lambda self, config: None)
    run = start("lora", a_mixture()).train(0, 2)
    with pytest.raises(RuntimeError, match="Merging MixtralForCausalLM loses or renames .*experts"):
        run.method.export(run.model, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- rsLoRA


@pytest.mark.parametrize("rank", [2, 16])
def test_rslora_scales_by_the_root_of_the_rank(rank):
    def scale(name: str) -> float:
        model = start(name, rank=rank, alpha=6.0).model
        return next(iter(adapted_modules(model).values())).scaling["default"]

    assert scale("rslora") == pytest.approx(6 / math.sqrt(rank), rel=1e-12)
    assert scale("lora") == pytest.approx(6 / rank, rel=1e-12)


# --- LoRA+


def rates(run: Any) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) by the name of the parameter."""
    named = {id(p): name for name, p in run.model.named_parameters()}
    groups = run.optimizer.param_groups
    return {named[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_exactly_the_b_matrices_learn_at_the_ratio_throughout_the_schedule(make):
    run = start("lora_plus", make(), lr=1e-3, ratio=8.0, adamw=DECAY)
    for step in range(3):
        rate = 1e-3 / (1 + 0.05 * step)
        found = rates(run)
        assert found.keys() == {name for name, p in run.model.named_parameters() if p.requires_grad}
        for name, (lr, decay) in found.items():
            assert lr == pytest.approx(8 * rate if ".lora_B." in name else rate, rel=1e-12)
            assert decay == 0.1
        run.train(step, step + 1)


def test_lora_plus_is_lora_with_two_rates():
    run = start("lora_plus", lr=1e-3, ratio=8.0, seed=5, adamw=DECAY).train(0, 20)
    plain = start("lora", seed=5, adamw=DECAY)
    sides = [[p for name, p in plain.model.named_parameters() if side in name] for side in (".lora_A.", ".lora_B.")]
    groups = [{"params": params, "lr": lr} for params, lr in zip(sides, (1e-3, 8e-3), strict=True)]
    plain.optimizer = torch.optim.AdamW(groups, weight_decay=0.1, foreach=False)
    plain.schedule = torch.optim.lr_scheduler.LambdaLR(plain.optimizer, lambda step: 1 / (1 + 0.05 * step))
    assert run.losses == plain.train(0, 20).losses
    assert changed(run.model, copies(plain.model)) == set()


def test_at_ratio_one_lora_plus_is_lora():
    plus = start("lora_plus", seed=5, ratio=1.0, adamw=DECAY)
    assert plus.train(0, 10).losses == start("lora", seed=5, adamw=DECAY).train(0, 10).losses


def test_an_adapted_embedding_has_a_rate_of_its_own():
    run = start("lora_plus", lr=1e-3, embedding_learning_rate=1e-5, target_modules=["q_proj", "embed_tokens"])
    assert {lr for name, (lr, _) in rates(run).items() if "embed_tokens" in name} == {1e-5}


# --- DoRA


def test_the_rows_of_a_merged_weight_have_the_trained_magnitudes():
    model = trained("dora").model
    for module in adapted_modules(model).values():
        magnitude = module.lora_magnitude_vector["default"].weight
        assert not torch.allclose(magnitude, module.get_base_layer().weight.norm(dim=1))
        torch.testing.assert_close(merged_parameters(module)["weight"].norm(dim=1), magnitude, rtol=1e-5, atol=0)


def test_magnitudes_train_in_every_layer():
    model = start("dora").model
    names = [name for name, p in model.named_parameters() if p.requires_grad and "magnitude" in name]
    assert len(names) == 7 * LAYERS


# --- PiSSA


def test_pissa_starts_as_the_model_it_was_given():
    for make in MODELS.values():
        torch.testing.assert_close(logits(start("pissa", make()).model), logits(make()), rtol=0, atol=1e-5)


def test_pissa_trains_the_principal_singular_vectors():
    rank, given = 4, dict(tiny_llama().named_modules())
    for name, module in adapted_modules(start("pissa").model.get_base_model()).items():
        values = torch.linalg.svdvals(given[name].weight)
        product, rest = module.get_delta_weight("default"), module.get_base_layer().weight
        torch.testing.assert_close(torch.linalg.svdvals(product)[:rank], values[:rank], rtol=1e-4, atol=0)
        torch.testing.assert_close(torch.linalg.svdvals(rest)[:-rank], values[rank:], rtol=1e-4, atol=1e-5)


def test_pissa_draws_nothing():
    one, other = (start("pissa", seed=seed).train(0, 3) for seed in (0, 1))
    assert changed(one.model, copies(other.model)) == set()


def test_pissa_refuses_a_head_that_is_the_embedding():
    tied = {"target_modules": ["q_proj", "lm_head"]}
    with pytest.raises(ValueError, match="target_modules of PiSSA is .*lm_head.*; legal: the others"):
        start("pissa", tiny_llama(tied=True), **tied)
    start("pissa", tiny_llama(), **tied)


# --- VeRA


def test_all_layers_share_one_random_pair_that_never_trains():
    run = start("vera", lr=1e-1)
    modules = adapted_modules(run.model).values()
    before = run.model.base_model.vera_A["default"].clone()
    run.train(0, 5)
    for name in ("vera_A", "vera_B"):
        assert len({getattr(module, name)["default"].data_ptr() for module in modules}) == 1
    assert torch.equal(run.model.base_model.vera_A["default"], before)
    assert before.shape == (64, 64)  # (rank, inputs of the widest layer)
    trainable = {name.split(".")[-2] for name, p in run.model.named_parameters() if p.requires_grad}
    assert trainable == {"vera_lambda_b", "vera_lambda_d"}


def test_another_seed_is_another_pair():
    pairs = [start("vera", seed=seed).model.base_model.vera_B["default"] for seed in (0, 1)]
    assert not torch.equal(*pairs)


def test_two_vectors_a_layer_at_llama_2_7bs_shape_are_the_papers_1_4_million():
    width, inner, layers, rank = 4096, 11008, 32, baselines.hyperparameters("vera", {}).rank
    outputs = 5 * width + 2 * inner  # query, key, value, output and down; gate and up
    assert layers * (outputs + 7 * rank) == pytest.approx(1.4e6, rel=0.02)


# --- (IA)^3

PEFTS_CHOICE: dict[str, Any] = {"target_modules": None, "feedforward_modules": None}


@pytest.mark.parametrize(
    ("kind", "outputs", "inputs"),
    [
        ("llama", {"k_proj", "v_proj"}, {"down_proj"}),
        ("qwen", {"q_proj", "v_proj"}, {"down_proj"}),
        ("gpt2", {"c_attn"}, {"c_proj"}),
    ],
)
def test_by_default_keys_values_and_inner_activations_are_scaled(kind, outputs, inputs, tmp_path):
    run = start("ia3", MODELS[kind](), lr=0.1, **PEFTS_CHOICE).train(0, 5)
    modules = {name.split(".")[-1]: module for name, module in adapted_modules(run.model).items()}
    assert {name for name, module in modules.items() if module.is_feedforward} == inputs
    assert modules.keys() == outputs | inputs
    run.method.export(run.model, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(exported), logits(run.model), rtol=0, atol=1e-5)


def test_vectors_start_at_one_and_do_not_decay():
    run = start("ia3", lr=0.1, adamw=DECAY, **PEFTS_CHOICE)
    vectors = [p for p in run.model.parameters() if p.requires_grad]
    run.optimizer.zero_grad()
    for vector in vectors:
        vector.grad = torch.zeros_like(vector)
    run.optimizer.step()
    assert all((vector == 1).all() for vector in vectors)


def test_a_kind_of_model_that_peft_has_no_layers_for_is_refused_unless_they_are_given():
    method = baselines.build("ia3", {}, AdamWSettings(), 0)
    with pytest.raises(ValueError, match="for .IA.\\^3 in models of type 'olmo2'. Known: .*llama"):
        method.check({"model_type": "olmo2"})
    given = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    baselines.build("ia3", given, AdamWSettings(), 0).check({"model_type": "olmo2"})
