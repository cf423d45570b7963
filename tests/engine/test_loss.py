"""The loss in chunks against the models' own, what it refuses, and the memory that either holds."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    PhiConfig,
)

import baselines
from baselines.contract import AdamWSettings
from tests.engine.small_loop import examples, losses, make_loop
from tests.models import tiny_gpt2, tiny_llama
from workflow.engine.data import IGNORED
from workflow.engine.errors import InputError
from workflow.engine.live_storage import LiveStorage
from workflow.engine.loss import ChunkedLoss, linear_cross_entropy

VOCABULARY = 32
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def built(config: Any) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def lora() -> nn.Module:
    model = baselines.build("lora", {"rank": 4}, AdamWSettings(), 0).prepare(tiny_llama())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)  # as they are zero at first, the others would have no gradient
    return model


def frozen_head() -> nn.Module:
    model = tiny_llama()
    model.lm_head.requires_grad_(False)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": tiny_llama,
    "llama, tied": lambda: tiny_llama(tied=True),
    "gpt2, tied": tiny_gpt2,
    "phi, a bias in the head": lambda: built(PhiConfig(**SIZES, attention_dropout=0.0)),
    "llama, frozen head": frozen_head,
    "lora": lora,
    "mixtral without its router's loss": lambda: built(MixtralConfig(**SIZES, num_local_experts=4)),
    "gemma2 without its cap": lambda: built(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=None)),
}


def batch() -> dict[str, Tensor]:
    """Two rows, one of them padded, the first third not learned."""
    torch.manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (2, 12))
    labels, mask = tokens.clone(), torch.ones_like(tokens)
    labels[:, :4], labels[1, 9:], mask[1, 9:] = IGNORED, IGNORED, 0
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


LEARNED = int((batch()["labels"][:, 1:] != IGNORED).sum())


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def own_loss(model: nn.Module) -> Tensor:
    return model(**batch(), use_cache=False, num_items_in_batch=LEARNED).loss


@pytest.mark.parametrize("chunk_tokens", [1, 4, 1000])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_the_models_own(name: str, chunk_tokens: int) -> None:
    model = MODELS[name]().train()
    wanted_loss = own_loss(model)
    wanted = gradients(model, wanted_loss)
    loss = ChunkedLoss(model, chunk_tokens)(batch(), LEARNED)
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-6)
    assert_close(gradients(model, loss), wanted)


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], rtol: float = 5e-5) -> None:
    """Equal up to `rtol` of each gradient's own norm."""
    assert got.keys() == wanted.keys()
    assert len(got) > 2
    for name, gradient in wanted.items():
        assert torch.dist(got[name], gradient) <= rtol * gradient.norm(), name


@pytest.mark.parametrize("name", ["llama", "lora"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model = MODELS[name]().train()
    wanted = gradients(model, own_loss(model))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_close(gradients(model, ChunkedLoss(model, 4)(batch(), LEARNED)), wanted)


def test_under_autocast_the_head_computes_in_its_precision() -> None:
    model = tiny_llama().train()
    with torch.autocast("cpu", torch.bfloat16):
        wanted_loss = own_loss(model)
        loss = ChunkedLoss(model, 4)(batch(), LEARNED)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-6)  # bit for bit the same logits, of fewer positions
    wanted = gradients(model, wanted_loss)
    assert_close(gradients(model, loss), wanted, rtol=2e-2)  # bf16 rounds to 4e-3


def test_bf16_gradients_of_few_chunks_are_as_exact_as_those_of_one() -> None:
    exact = tiny_llama().bfloat16().float().train()
    wanted = gradients(exact, own_loss(exact))["lm_head.weight"]
    model = tiny_llama().bfloat16().train()

    def error(loss: Tensor) -> float:
        return torch.dist(gradients(model, loss)["lm_head.weight"].float(), wanted).item()

    assert error(ChunkedLoss(model, 4)(batch(), LEARNED)) < 1.5 * error(own_loss(model))


def test_no_learned_token_gives_no_gradient() -> None:
    model = tiny_llama().train()
    rows = {**batch(), "labels": torch.full((2, 12), IGNORED)}
    loss = ChunkedLoss(model, 4)(rows, learned=1)
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


def test_a_second_backward_is_an_error() -> None:
    loss = ChunkedLoss(tiny_llama(), 4)(batch(), LEARNED)
    loss.backward(retain_graph=True)
    with pytest.raises(AttributeError, match="gradients"):
        loss.backward()


def test_the_gradient_scales_with_what_is_made_of_the_loss() -> None:
    model = tiny_llama().train()
    wanted = gradients(model, 3 * own_loss(model))
    assert_close(gradients(model, 3 * ChunkedLoss(model, 4)(batch(), LEARNED)), wanted)


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_comes_out_as_it_was(mode: bool) -> None:
    model = tiny_llama().train(mode)
    before = model(batch()["input_ids"]).logits
    loss = ChunkedLoss(model, 4)
    assert model.training is mode
    with pytest.raises(IndexError):  # the embedding knows no such token
        loss({**batch(), "input_ids": batch()["input_ids"] + VOCABULARY}, LEARNED)
    assert torch.equal(model(batch()["input_ids"]).logits, before)


@pytest.mark.skipif(not hasattr(functional, "linear_cross_entropy"), reason="torch has it from 2.13 on")
def test_agrees_with_torchs_own_chunks() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(16, 50), torch.randn(10, 16, requires_grad=True)
    targets = torch.randint(0, 50, (10,))
    leaves = (hidden, head.weight, head.bias)
    ours = linear_cross_entropy(hidden, head, targets, 1, 3)
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=3)
    theirs = functional.linear_cross_entropy(
        hidden, head.weight, targets, linear_bias=head.bias, reduction="sum", options=options
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves))


# --- what is refused


def lora_on_head() -> nn.Module:
    settings = {"rank": 4, "target_modules": ("q_proj", "lm_head")}
    return baselines.build("lora", settings, AdamWSettings(), 0).prepare(tiny_llama())


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a cap": (lambda: built(Gemma2Config(**SIZES, head_dim=8)), "Gemma2ForCausalLM changes its logits"),
    "a scale": (lambda: built(CohereConfig(**SIZES)), "CohereForCausalLM changes its logits"),
    "a divisor": (lambda: built(GraniteConfig(**SIZES, logits_scaling=2.0)), "GraniteForCausalLM changes its logits"),
    "a loss of the router": (
        lambda: built(MixtralConfig(**SIZES, num_local_experts=4, output_router_logits=True)),
        "MixtralForCausalLM adds to the loss",
    ),
    "adapters on the head": (lora_on_head, "the output head of PeftModelForCausalLM is Linear"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_losses_that_do_not_follow_from_the_heads_output_are_refused(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(InputError, match=f"training.loss_chunk_tokens: .*{message}.*; legal: .*null"):
        ChunkedLoss(build(), 4)


# --- in the loop


@pytest.mark.parametrize("method", ["full", "lora", "lisa", "galore"])
def test_every_method_trains_alike(method: str, tmp_path: Path) -> None:
    common = {"steps": 8, "accumulation_steps": 2}
    own = make_loop(tmp_path / "own", method, **common).run()
    chunked = make_loop(tmp_path / "chunked", method, loss_chunk_tokens=5, **common).run()
    assert losses(tmp_path / "chunked") == pytest.approx(losses(tmp_path / "own"), rel=1e-4)
    assert chunked.validation_loss == pytest.approx(own.validation_loss, rel=1e-4)


def test_trains_under_mixed_precision(tmp_path: Path) -> None:
    make_loop(tmp_path / "own", precision="bf16-mixed").run()
    make_loop(tmp_path / "chunked", precision="bf16-mixed", loss_chunk_tokens=5).run()
    assert losses(tmp_path / "chunked") == pytest.approx(losses(tmp_path / "own"), rel=1e-2)


def test_the_loop_refuses_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="loss_chunk_tokens"):
        make_loop(tmp_path, model=built(CohereConfig(**SIZES)), loss_chunk_tokens=4)
    assert not (tmp_path / "log.jsonl").exists()


def test_flops_of_learned_positions_in_the_head_are_the_same(tmp_path: Path) -> None:
    """Nothing is computed again: where every position but the last is learned, only that one's are missing."""
    length = 8
    items = [type(item)(list(range(1, length + 1)), list(range(1, length + 1))) for item in examples(16)]
    common = {"steps": 1, "items": items}
    own = make_loop(tmp_path / "own", **common).run()
    chunked = make_loop(tmp_path / "chunked", loss_chunk_tokens=3, **common).run()
    head = 3 * 2 * 32 * 64  # forward and two gradients, a multiply-add is two; width and vocabulary of the tiny Llama
    assert own.flops_per_step - chunked.flops_per_step == 2 * head  # two rows


# --- memory

LARGE_VOCABULARY, LONG = 20_000, 128
LOGITS_BYTES = (LONG - 1) * LARGE_VOCABULARY * 4


def wide_llama() -> LlamaForCausalLM:
    """Its logits outweigh its weights sixteen times."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=LARGE_VOCABULARY, tie_word_embeddings=True, **sizes))


def long_examples() -> list[Any]:
    ids = list(range(LONG))
    return [type(examples(1)[0])(ids, ids)] * 8


def unmarked(part: str) -> contextlib.nullcontext[None]:
    return contextlib.nullcontext()


def activations_at_peak(loop: Any) -> int:
    with LiveStorage("cpu") as ledger:
        ledger.watch(loop.model, loop.optimizer)
        ledger.reset_peak()
        loop.training_step.backward([loop._batch([0])], around=unmarked)
    return ledger.peak_bytes - ledger.peak_by_role["weights"] - ledger.peak_by_role["gradients"]


@pytest.mark.parametrize(("chunk_tokens", "most_logits"), [(None, 3.1), (32, 0.7), (8, 0.3)])
def test_peak_of_forward_and_backward_in_units_of_the_batchs_logits(
    chunk_tokens: int | None, most_logits: float, tmp_path: Path
) -> None:
    loop = make_loop(tmp_path, model=wide_llama(), items=long_examples(), loss_chunk_tokens=chunk_tokens)
    ratio = activations_at_peak(loop) / LOGITS_BYTES
    assert 0.6 * most_logits < ratio < most_logits


def test_the_models_own_logits_are_gone_before_backward(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, model=wide_llama(), items=long_examples())
    model, backward = loop.accelerator.unwrap_model(loop.model), loop.accelerator.backward
    logits: list[weakref.ref[Any]] = []
    model.lm_head.register_forward_hook(lambda *args: logits.append(weakref.ref(args[-1].untyped_storage())))
    alive: list[bool] = []

    def note(loss: Tensor) -> None:
        gc.collect()
        alive.append(logits[-1]() is not None)
        backward(loss)

    loop.accelerator.backward = note
    loop.training_step.backward([loop._batch([0]), loop._batch([1])], around=unmarked)
    assert alive == [False, False]

    outputs: list[Any] = []
    model.register_forward_hook(lambda *args: outputs.append(args[-1]))  # whoever keeps the outputs is found out
    loop.training_step.backward([loop._batch([0])], around=unmarked)
    assert alive[-1]
