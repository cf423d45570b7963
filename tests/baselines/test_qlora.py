"""QLoRA is peft over bitsandbytes' four-bit weights, in a form that resumes, counts its memory and exports."""

from __future__ import annotations

from typing import Any

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

import baselines
from baselines._bitsandbytes import FourBit, quantise
from baselines.contract import AdamWSettings
from tests.models import Run, batch, copies, loss_of, start, tiny_gpt2, tiny_llama, tiny_qwen, train_by_hand
from workflow.engine.models import loading_device
from workflow.engine.shapes import read_config
from workflow.engine.simulator import simulate
from workflow.engine.speed import count_flops
from workflow.engine.training_step import Conditions
from workflow.engine.weight_norms import part_norms

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
precisions = pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))


def linear(dtype: torch.dtype = torch.float32, rows: int = 96, columns: int = 192) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows).to(dtype)


def packages_own(layer: nn.Linear) -> Any:
    """bitsandbytes' Linear4bit with the same weight."""
    made = bitsandbytes.nn.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, quant_type="nf4", compress_statistics=True
    )
    made.weight = bitsandbytes.nn.Params4bit(layer.weight.detach().clone(), quant_type="nf4", module=made)
    made.bias = layer.bias
    return made.to("cpu")  # which quantises


def four_bit(layer: nn.Linear) -> Any:
    quantise(layer)
    return layer


def packed(layer: Any) -> torch.Tensor:
    return dict(layer.named_parameters())["weight"]


# --- the layer


@precisions
def test_a_layer_equals_the_packages_own_to_the_bit(dtype: torch.dtype) -> None:
    own, layer = packages_own(linear(dtype)), four_bit(linear(dtype))
    draw = torch.randn(5, 192, generator=torch.Generator().manual_seed(1))
    x, y = (draw.to(dtype).requires_grad_() for _ in "xy")
    made, expected = layer(x), own(y)
    for result in (made, expected):
        result.sum().backward()
    assert torch.equal(made, expected)
    assert torch.equal(x.grad, y.grad)
    assert torch.equal(packed(layer), own.weight)
    assert torch.equal(layer.weight, bitsandbytes.functional.dequantize_4bit(own.weight.data, own.weight.quant_state))


def test_a_weight_takes_4_bits_and_an_eighth() -> None:
    layer = four_bit(linear(rows=1024, columns=1024))
    held = packed(layer).nbytes + sum(buffer.nbytes for buffer in layer.buffers())
    constants = 4 * (16 + 256 + 1)  # NF4's values, the scales' 8-bit code and their mean
    assert held == 1024**2 / 2 + 1024**2 / 64 + 4 * 1024**2 / 64 / 256 + constants


@precisions
def test_dequantising_gives_a_plain_layer_with_the_same_outputs(dtype: torch.dtype) -> None:
    layer = four_bit(linear(dtype))
    x = torch.randn(5, 192).to(dtype)
    before, weight = layer(x), layer.weight
    layer.dequantise()
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, weight)
    assert layer.weight.dtype == dtype
    assert not list(layer.buffers())
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("columns", [32, 48, 64, 96, 160, 172, 192])
@precisions
def test_quantised_weights_are_near_the_weights_and_not_equal(dtype: torch.dtype, columns: int) -> None:
    """Where rows are no multiple of 64 numbers, the package's own layer is wrong by a quarter on a CPU."""
    plain, layer = linear(dtype, 64, columns).weight, four_bit(linear(dtype, 64, columns)).weight
    assert 0.01 < (layer - plain).norm() / plain.norm() < 0.12


def test_autocast_sets_the_precision_of_the_product() -> None:
    layer, x = four_bit(linear()), torch.randn(5, 192)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = layer(x)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), layer(x), rtol=0.05, atol=0.05)


# --- the method


def wider(make: Any) -> nn.Module:
    """With inputs of 64 and 128 numbers, which the package's own layer multiplies rightly."""
    config = make().config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen])
@precisions
def test_qlora_trains_as_peft_on_the_packages_layers(make: Any, dtype: torch.dtype) -> None:
    run = start("qlora", wider(make).to(dtype), lr=1e-2, seed=5, adamw=AdamWSettings(implementation="for-loop"))
    model = wider(make).to(dtype)
    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]:
        model.set_submodule(name, packages_own(module))
    model.is_loaded_in_4bit = True  # so that peft takes its class for the package's layers
    torch.manual_seed(5)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.to(dtype)  # peft's are fp32
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0, foreach=False)
    assert run.train(0, 6).losses == train_by_hand(model, optimizer, 6, lr=1e-2)


@pytest.mark.parametrize(("make", "layers"), [(tiny_llama, 7), (tiny_gpt2, 4), (tiny_qwen, 7)])
def test_all_linear_layers_but_the_head_are_quantised_and_adapted(make: Any, layers: int) -> None:
    model = start("qlora", make()).model
    quantised = [name for name, module in model.named_modules() if isinstance(module, FourBit)]
    assert len(quantised) == 4 * layers
    assert all(name.endswith(".base_layer") for name in quantised)
    floating = [p for name, p in model.named_parameters() if "lora_" not in name and p.is_floating_point()]
    assert any(torch.equal(p, make().get_output_embeddings().weight) for p in floating)
    assert not any(p.requires_grad for p in floating)


def test_evaluation_between_steps_changes_nothing() -> None:
    """The package's own layer repacks its weights where a CPU has AVX-512, and cannot train on."""

    def evaluate(run: Run) -> None:
        run.model.eval()
        with torch.no_grad():
            run.model(input_ids=batch(50))
        run.model.train()

    plain, evaluated = start("qlora").train(0, 6), start("qlora").train(0, 3)
    evaluate(evaluated)
    assert evaluated.train(3, 6).losses == plain.losses


def test_the_export_without_training_is_the_dequantised_base(tmp_path: Any) -> None:
    run = start("qlora")
    run.method.export(run.model, tmp_path)
    exported, base = AutoModelForCausalLM.from_pretrained(tmp_path), tiny_llama()
    for layer in [m for name, m in base.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"]:
        quantise(layer)
        layer.dequantise()
    assert all(torch.equal(p, copies(exported)[name]) for name, p in base.named_parameters())


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("lm_head", "q_proj")])
def test_layers_that_no_adapter_wraps_are_exported_dequantised(targets: tuple[str, ...], tmp_path: Any) -> None:
    run = start("qlora", tiny_llama(tied=False), target_modules=targets).train(0, 2)
    run.model.eval()
    with torch.no_grad():
        trained = run.model(input_ids=batch(99)).logits
    run.method.export(run.model, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [name for name, _ in exported.named_parameters()] == [
        n for n, _ in tiny_llama(tied=False).named_parameters()
    ]
    with torch.no_grad():
        torch.testing.assert_close(exported(input_ids=batch(99)).logits, trained, rtol=0, atol=1e-5)


def test_operations_are_loras() -> None:
    counts = []
    for name in ("lora", "qlora"):
        run = start(name, rank=4)
        with count_flops() as counter:
            loss_of(run.model, 0).backward()
        counts.append(counter.total)
    assert counts[0] == counts[1] > 0


def test_norms_of_parts_count_the_quantised_weights() -> None:
    def merged(name: str) -> dict[str, float]:
        return {part: value for part, kind, value in part_norms(start(name).model) if kind == "merged"}

    assert merged("qlora") == pytest.approx(merged("lora"), rel=0.02)


def test_the_model_is_loaded_on_the_host_and_only_the_small_one_counts() -> None:
    config = read_config("llama-2-7b")
    config.num_hidden_layers = 1
    made, lora = (simulate(config, name, {"rank": 8}, Conditions()) for name in ("qlora", "lora"))
    embeddings = 2 * config.vocab_size * config.hidden_size
    in_four_bits = (lora.parameters - embeddings) * (0.5 + 1 / 64 + 4 / 64 / 256)
    adapters = 2 * made.trainable_parameters["total"]
    assert made.components["weights"] == pytest.approx(2 * embeddings + in_four_bits + adapters, rel=1e-3)
    assert made.phases["load"] == 0
    device = torch.device("cuda")
    assert [
        loading_device(baselines.build(name, {}, AdamWSettings(), 0), device).type for name in ("qlora", "lora")
    ] == ["cpu", "cuda"]


def test_a_simulation_leaves_nothing_behind_that_has_no_data() -> None:
    config = read_config("llama-2-7b")
    config.num_hidden_layers = 1
    simulate(config, "qlora", {}, Conditions())
    assert torch.equal(four_bit(linear()).weight, packages_own_weight())


def packages_own_weight() -> torch.Tensor:
    own = packages_own(linear())
    return bitsandbytes.functional.dequantize_4bit(own.weight.data, own.weight.quant_state)
