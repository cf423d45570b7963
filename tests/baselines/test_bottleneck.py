"""Series and parallel adapters against their formulas written out, and their checkpoints against the trained models."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import baselines
from baselines import _bottleneck
from baselines.contract import AdamWSettings
from tests.models import LAYERS, batch, start, tiny_gpt2, tiny_llama, tiny_qwen

METHODS = ("series_adapter", "parallel_adapter")
MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "qwen": tiny_qwen}
EVERY = pytest.mark.parametrize("name", METHODS)
EVERYWHERE = pytest.mark.parametrize("kind", MODELS)


def trained(name: str, kind: str = "llama", **overrides: object):
    return start(name, MODELS[kind](), lr=1e-2, **overrides).train(0, 5)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=batch(99)).logits


class Written(nn.Module):
    """A module with its adapter, as the papers' formulas stand."""

    def __init__(self, module: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.adapter, self.module, self.activation = module.adapter, module, activation
        del module.adapter
        module._forward_hooks.clear()

    def bottleneck(self, x: Tensor) -> Tensor:
        down, up = self.adapter.down, self.adapter.up
        return self.activation(x @ down.weight.T + down.bias) @ up.weight.T + up.bias


class Series(Written):
    def forward(self, *args, **given):
        out = self.module(*args, **given)
        hidden, *rest = out if isinstance(out, tuple) else (out,)
        hidden = hidden + self.bottleneck(hidden)
        return (hidden, *rest) if isinstance(out, tuple) else hidden


class Parallel(Written):
    def forward(self, x):
        return self.module(x) + 4 * self.bottleneck(x)


@EVERYWHERE
def test_series_adapters_stand_after_attention_and_mlp(kind):
    model = trained("series_adapter", kind).model
    expected = logits(model)
    for layer in model.base_model.layers if kind != "gpt2" else model.base_model.h:
        attention = "attn" if kind == "gpt2" else "self_attn"
        for part in (attention, "mlp"):
            setattr(layer, part, Series(getattr(layer, part), nn.GELU()))
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


@EVERYWHERE
def test_parallel_adapters_stand_beside_the_mlp_times_four(kind):
    model = trained("parallel_adapter", kind).model
    expected = logits(model)
    for layer in model.base_model.layers if kind != "gpt2" else model.base_model.h:
        layer.mlp = Parallel(layer.mlp, nn.ReLU())
    assert sum(isinstance(module, _bottleneck.Bottleneck) for module in model.modules()) == LAYERS
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


@EVERYWHERE
@EVERY
def test_the_start_is_the_given_model_to_the_bit(name, kind):
    assert torch.equal(logits(start(name, MODELS[kind]()).model), logits(MODELS[kind]()))


@EVERYWHERE
@EVERY
def test_the_models_own_parameters_keep_their_names(name, kind):
    names = {n for n, _ in start(name, MODELS[kind]()).model.named_parameters()}
    assert {n for n in names if ".adapter." not in n} == {n for n, _ in MODELS[kind]().named_parameters()}


@pytest.mark.parametrize(
    ("name", "options", "norms"),
    [("series_adapter", {}, True), ("series_adapter", {"train_norms": False}, False), ("parallel_adapter", {}, False)],
)
def test_adapters_train_and_norms_where_asked(name, options, norms):
    trains = {n for n, p in start(name, **options).model.named_parameters() if p.requires_grad}
    assert {n for n in trains if ".adapter." not in n} == (
        {n for n, _ in tiny_llama().named_parameters() if "norm" in n} if norms else set()
    )
    assert sum(".adapter." in n for n in trains) == 4 * LAYERS * (2 if name == "series_adapter" else 1)


@EVERY
def test_another_seed_is_another_start(name):
    weights = [start(name, seed=seed).model.model.layers[0].mlp.adapter.down.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- the checkpoint


@EVERYWHERE
@EVERY
def test_without_leave_to_run_code_the_checkpoint_is_refused(name, kind, tmp_path):
    run = trained(name, kind)
    run.method.export(run.model, tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)


@EVERYWHERE
@EVERY
def test_the_checkpoint_writes_the_trained_models_text_with_padding_on_the_left(name, kind, tmp_path):
    run = trained(name, kind)
    run.method.export(run.model, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    tokens, mask = batch(3)[:, :6], torch.ones(4, 6, dtype=torch.long)
    mask[0, :2] = 0
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    written, expected = (model.eval().generate(tokens, **settings) for model in (exported, run.model))
    assert torch.equal(written, expected)
    alone = exported.generate(tokens[:1, 2:], **{**settings, "attention_mask": None, "use_cache": False})
    assert torch.equal(written[0, 6:], alone[0, 4:])


@EVERY
def test_a_checkpoint_in_bf16_stays_in_bf16(name, tmp_path):
    run = start(name, tiny_llama().to(torch.bfloat16), lr=1e-2).train(0, 4)
    run.method.export(run.model, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert {p.dtype for p in exported.parameters()} == {torch.bfloat16}
    weights = run.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in exported.state_dict().items())
    assert exported.state_dict().keys() == weights.keys()


@EVERY
def test_the_adapter_alone_makes_the_trained_model_of_the_base(name, tmp_path):
    run = trained(name)
    run.method.export(run.model, tmp_path)
    weights, settings = load_file(tmp_path / "adapter/adapter.safetensors"), tmp_path / "adapter/adapter.json"
    base = tiny_llama()
    _bottleneck.insert(base, **json.loads(settings.read_text()))
    assert base.load_state_dict(weights, strict=False).unexpected_keys == []
    assert set(weights) == {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert torch.equal(logits(base), logits(run.model))


def test_checkpoints_of_all_kinds_live_in_one_process(tmp_path):
    """transformers copies each piece of code to a place of its own; series and parallel adapters have the same."""
    names, expected, loaded = (*METHODS, "prefix_tuning"), {}, {}
    for name in names:
        for kind in ("llama", "gpt2"):
            run = trained(name, kind)
            folder = tmp_path / name / kind / "model"
            run.method.export(run.model, folder)
            expected[folder] = logits(run.model)
    for _ in range(2):  # the second time all modules are there
        loaded |= {
            folder: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
            for folder in expected
        }
        for folder, model in loaded.items():
            torch.testing.assert_close(logits(model), expected[folder], rtol=0, atol=1e-5)
    assert len({type(model) for model in loaded.values()}) == 4


@pytest.mark.parametrize("name", [*METHODS, "prefix_tuning"])
def test_the_code_of_a_checkpoint_needs_torch_and_transformers_only(name, tmp_path):
    run = start(name)
    run.method.export(run.model, tmp_path)
    (file,) = tmp_path.glob("*.py")
    nodes = list(ast.walk(ast.parse(file.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in imported} <= {"torch", "transformers", "inspect", "typing"}


def test_a_model_class_that_a_checkpoint_cannot_import_is_refused(tmp_path: Path):
    class Mine(type(tiny_llama())):
        pass

    model = tiny_llama()
    run = start("series_adapter", model)
    model.__class__ = Mine
    with pytest.raises(ValueError, match=r"Mine is of .*test_bottleneck; legal: a model class of transformers"):
        run.method.export(model, tmp_path)


# --- which models, which settings


FAMILIES = ("falcon", "gpt_neox", "qwen3", "phi3", "olmo2", "mistral", "gptj", "mixtral")


@pytest.mark.parametrize("family", FAMILIES)
@EVERY
def test_other_families_train_and_export(name, family, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = AutoConfig.for_model(
        family, vocab_size=32, pad_token_id=0, num_key_value_heads=4, rotary_dim=4, **sizes, initializer_range=0.2
    )
    torch.manual_seed(0)
    run = start(name, AutoModelForCausalLM.from_config(config).eval(), lr=1e-2).train(0, 3)
    run.method.export(run.model, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert len(set(run.losses)) == 3
    torch.testing.assert_close(logits(exported), logits(run.model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "children"), [("opt", "fc1"), ("bloom", "mlp")])
@EVERY
def test_layers_of_another_build_are_refused(name, family, children):
    """Before work is lost: OPT has no module for its MLP; BLOOM's add the residual themselves."""
    config = AutoConfig.for_model(family, vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(
        ValueError, match=rf"'{family}' ends: looked for one module named .*residual.*{children}"
    ) as told:
        baselines.build(name, {}, AdamWSettings(), 0).check(config.to_dict())
    with pytest.raises(ValueError) as prepared:
        start(name, AutoModelForCausalLM.from_config(config))
    assert str(prepared.value) == str(told.value)


@EVERY
def test_where_layers_are_named_the_check_looks_there(name):
    method = baselines.build(name, {"layers": "model.stages"}, AdamWSettings(), 0)
    with pytest.raises(ValueError, match=r"model\.stages"):
        method.check(tiny_llama().config.to_dict())
    baselines.build(name, {"layers": "model.layers"}, AdamWSettings(), 0).check(tiny_llama().config.to_dict())


@EVERY
@pytest.mark.parametrize(
    ("setting", "value", "legal"),
    [("bottleneck", 0, "at least 1"), ("nonlinearity", "sine", "gelu, relu, tanh"), ("scale", 0.0, "above 0")],
)
def test_illegal_settings_are_refused(name, setting, value, legal):
    with pytest.raises(ValueError, match=f"{setting} of the adapters is .*; legal: {legal}"):
        baselines.build(name, {setting: value}, AdamWSettings(), 0)
