"""Live tensor storage against planted tensors, and against the allocator's own trace (torch.profiler)."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workflow.engine.live_storage import ROLES, LiveStorage, tensors_in
from workflow.engine.memory import PARTS, MemoryMeter

KIB = 256  # float32 values in 1 KiB


def peak_of(function: Any) -> tuple[int, LiveStorage]:
    """Bytes by which `function` raises the live storage at its peak."""
    ledger = LiveStorage("cpu")
    with ledger:
        kept = function()
    del kept
    return ledger.peak_bytes, ledger


# --- the ledger


def test_planted_tensor_raises_the_peak_by_exactly_its_bytes():
    def without() -> None:
        torch.zeros(3 * KIB)

    def with_extra() -> Tensor:
        extra = torch.zeros(5 * KIB)
        torch.zeros(3 * KIB)
        return extra

    assert peak_of(without)[0] == 3 * 1024
    assert peak_of(with_extra)[0] == (3 + 5) * 1024


def test_views_add_nothing_and_copies_do():
    def views() -> tuple[Tensor, ...]:
        base = torch.zeros(4, KIB)
        return base, base[1:], base.t(), base.view(-1), base.detach()

    assert peak_of(views)[0] == 4 * 1024
    assert peak_of(lambda: (views(), torch.zeros(KIB).clone()))[0] == (4 + 2) * 1024


def test_freed_tensors_go_at_once_and_a_view_keeps_its_whole_base():
    ledger = LiveStorage("cpu")
    with ledger:
        first = torch.zeros(8, KIB)
        view = first[:1]
        del first
        assert ledger.live_bytes == 8 * 1024
        del view
        assert ledger.live_bytes == 0
        torch.zeros(2 * KIB)
    assert ledger.peak_bytes == 8 * 1024


def test_resizing_an_output_is_noticed():
    def resize() -> Tensor:
        return torch.zeros(KIB).resize_(6 * KIB)

    assert peak_of(resize)[0] == 6 * 1024


def test_freeing_is_noticed_while_nothing_is_metered():
    ledger = LiveStorage("cpu")
    with ledger:
        tensor = torch.zeros(KIB)
    assert ledger.live_bytes == 1024
    del tensor
    assert ledger.live_bytes == 0


def test_other_devices_do_not_count():
    assert peak_of(lambda: torch.zeros(KIB, device="meta"))[0] == 0


def test_tensor_made_before_counts_as_other_once_it_is_used():
    batch = torch.ones(3 * KIB)
    ledger = LiveStorage("cpu")
    with ledger:
        batch.sum()
    assert ledger.peak_by_role == {**dict.fromkeys(ROLES, 0), "other": 3 * 1024, "temporaries": 4}


def test_activations_are_what_a_forward_leaves_and_temporaries_all_else():
    ledger = LiveStorage("cpu")
    with ledger:
        before = torch.zeros(KIB)
        with ledger.forward():
            passing = torch.zeros(2 * KIB)
            del passing
            kept = torch.zeros(4 * KIB)
            assert ledger.live_by_role["activations"] == 0  # not known yet
        after = torch.zeros(8 * KIB)
    assert (ledger.live_by_role["activations"], ledger.live_by_role["temporaries"]) == (4 * 1024, 9 * 1024)
    assert ledger.peak_by_role == ledger.live_by_role
    del before, kept, after


def test_each_micro_batch_has_activations_of_its_own():
    """The first's live on as activations; what its backward made is no activation of the second."""
    ledger, kept = LiveStorage("cpu"), []
    with ledger:
        for _ in range(2):
            with ledger.forward():
                kept.append(torch.zeros(KIB))
            kept.append(torch.zeros(16 * KIB))
    assert (ledger.live_by_role["activations"], ledger.live_by_role["temporaries"]) == (2 * 1024, 32 * 1024)


def test_roles_found_later_reach_back_into_every_peak_at_which_the_storage_lived():
    weight = nn.Parameter(torch.ones(KIB))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    ledger = LiveStorage("cpu")
    with ledger:
        early = ledger.peak
        torch.zeros(64 * KIB)
        ledger.reset_peak()
        with ledger.forward():
            hidden = weight.exp()
            forward = ledger.peak
            ledger.reset_peak()
        hidden.sum().backward()
        backward = ledger.peak
        ledger.reset_peak()
        optimizer.step()
    assert early.by_role["activations"] == early.by_role["gradients"] == 0
    assert (forward.by_role["activations"], forward.by_role["gradients"]) == (1024, 0)
    assert (backward.by_role["activations"], backward.by_role["gradients"]) == (1024, 1024)
    assert all(sum(peak.by_role.values()) == peak.bytes for peak in (early, forward, backward))


def test_the_operator_at_the_peak_is_named_and_none_if_it_stood_before():
    ledger = LiveStorage("cpu")
    with ledger:
        matrix = torch.zeros(KIB, 4)
        product = matrix @ matrix.t()
        assert ledger.peak_operator == "aten.mm.default"
        ledger.reset_peak()
        product.add_(1)
        assert ledger.peak_operator is None
        assert ledger.peak_bytes == matrix.nbytes + product.nbytes


def test_retained_activation_is_seen_as_activation_in_backward_too():
    weight = nn.Parameter(torch.ones(KIB))

    def step(retained: list[Tensor]) -> int:
        ledger = LiveStorage("cpu")
        ledger.watch(nn.ParameterList([weight]))
        with ledger:
            with ledger.forward():
                hidden = weight.exp()
                retained.append(hidden.detach().clone())
                total = hidden.sum()
            total.backward()
        weight.grad = None
        return ledger.peak_by_role["activations"]

    class Dropping(list):  # type: ignore[type-arg]
        def append(self, item: Any) -> None:
            """Keep nothing."""

    assert step([]) - step(Dropping()) == 1024


def test_tensors_are_found_inside_objects_once_and_cycles_end():
    inner = SimpleNamespace(matrix=torch.zeros(2), pair=[torch.zeros(3)], name="x", rank=4)
    inner.itself = inner
    assert sorted(tensor.numel() for tensor in tensors_in({"a": inner, "b": inner, "step": 1})) == [2, 3]


# --- the allocator's own trace


PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")


def allocator_trace(step: Any) -> tuple[int, int]:
    """Highest and last running sum of the allocations and frees that `torch.profiler` saw during `step`, in bytes.

    A matrix product counts when it is done: what its kernel takes for itself meanwhile is no tensor, and whether it
    takes anything depends on the machine (in bf16 103 kB were seen on one).
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    running = highest = until = 0
    for event in events:
        if event.name() in PRODUCTS:
            until = max(until, event.end_ns())
        elif event.name() == "[memory]":
            if event.start_ns() > until:
                highest = max(highest, running, running + event.nbytes())
            running += event.nbytes()
    return max(highest, running), running


def small_llama(seed: int = 0) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=64, use_cache=False, **shape))


def with_lora(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", lora_dropout=0.1))


def with_two_layers_drawn(model: nn.Module) -> nn.Module:
    for index, layer in enumerate(model.model.layers):
        layer.requires_grad_(index in (1, 3))
    return model


def with_checkpointing(model: nn.Module) -> nn.Module:
    """The generator states that checkpointing saves by default are 5 kB a layer that no operator makes."""
    settings = {"use_reentrant": False, "preserve_rng_state": False}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    return model


def with_all_trained(model: nn.Module) -> nn.Module:
    return model


@pytest.mark.parametrize("adamw", ["fused", "foreach"])
@pytest.mark.parametrize("shape", [(4, 48), (1, 4)], ids=["activations-dominate", "state-dominates"])
@pytest.mark.parametrize("prepare", [with_all_trained, with_lora, with_two_layers_drawn, with_checkpointing])
def test_peak_of_a_training_step_agrees_with_the_allocator(prepare, shape, adamw):
    model = prepare(small_llama()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **{adamw: True})
    ids = torch.arange(shape[0] * shape[1]).reshape(shape) % 256
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def step() -> None:
        for _ in range(2):  # micro-batches
            with meter.part("forward"):
                loss = model(**batch).loss
            with meter.part("backward"):
                loss.backward()
        del loss
        with meter.part("step"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    meter = MemoryMeter("cpu")
    with meter.phase("train"):
        step()  # optimizer state appears
        meter.watch(model, optimizer)
        before = meter.ledger.live_bytes
        with meter.step():
            step()
        traced, left = allocator_trace(step)
    assert left == 0
    peak = meter.record()["allocated_peak_bytes"]
    rise = peak - before - sum(tensor.nbytes for tensor in batch.values())
    assert rise == pytest.approx(traced, rel=0.01)  # stricter than the peak itself: weights and moments are not in it
    record = meter.record()
    assert sum(record["components"].values()) == peak
    assert max(record["phases"][part] for part in PARTS) == peak
    assert all(sum(found.live_by_role.values()) == found.live_bytes for found in meter.phases.values())


@pytest.mark.parametrize("prepare", [with_all_trained, with_lora, with_two_layers_drawn])
def test_activations_are_what_autograd_saves(prepare):
    """Against autograd's own hooks. Besides, the loss is alive; what was there before is no activation."""
    model = prepare(small_llama()).train()
    ids = torch.arange(4 * 48).reshape(4, 48) % 256
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    before = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers(), ids)}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        expected_loss = model(input_ids=ids, labels=ids).loss
    expected = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in before)

    ledger = LiveStorage("cpu")
    ledger.watch(model)
    with ledger, ledger.forward():
        loss = model(input_ids=ids, labels=ids).loss
    assert ledger.live_by_role["activations"] == pytest.approx(expected + loss.nbytes, rel=0.001)
    assert loss == expected_loss


def test_metering_changes_no_result():
    def losses(metered: bool) -> list[float]:
        model = small_llama()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        meter = MemoryMeter("cpu")
        ids = torch.arange(64).reshape(2, 32)
        out = []
        with meter.phase("train", model, optimizer):
            for _ in range(3):
                with meter.step() if metered else contextlib.nullcontext():
                    loss = model(input_ids=ids, labels=ids).loss
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                out.append(loss.item())
        return out

    assert losses(True) == losses(False)
