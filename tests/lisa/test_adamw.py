"""AdamW with 8-bit moments: torch's own where 32 bits are asked for, bitsandbytes' where 8 are, and safe to save."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lisa import LISA, adamw
from lisa.adamw import BLOCK_VALUES, AdamW, Quantised, code_book, dequantise, quantise
from tests.models import changed, copies, loss_of, state_bytes, tiny_llama

CPU = torch.device("cpu")
LR = 1e-2
VALUES = 10 * BLOCK_VALUES + 77  # whole blocks and one that is not full
FLAGS = [{"fused": True}, {"foreach": True}, {"foreach": False}]


def parameter(values: int = VALUES, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(values, generator=torch.Generator().manual_seed(seed)).to(dtype))


def gradient(weight: Tensor, step: int) -> Tensor:
    """Uniform in magnitude from 0.1 to 1, either sign: nothing a block's scale would hide."""
    numbers = torch.rand(2, *weight.shape, generator=torch.Generator().manual_seed(1000 + step))
    return (torch.where(numbers[0] < 0.5, -1, 1) * (0.1 + 0.9 * numbers[1])).to(weight.dtype)


def train(optimizer: torch.optim.Optimizer, start: int = 0, end: int = 50) -> list[Tensor]:
    """Steps `start` to `end` on `gradient`; returns the weights."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(start, end):
        for weight in weights:
            weight.grad = gradient(weight, step)
        optimizer.step()
        optimizer.zero_grad()
    return [weight.detach().clone() for weight in weights]


def groups(*weights: nn.Parameter) -> list[dict[str, Any]]:
    """The first in 32 bits, all others in 8."""
    return [{"params": weights[:1]}, {"params": weights[1:], "moment_bits": 8}]


def equal(some: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, other, strict=True))


def quantised(moment: Tensor, signed: bool) -> tuple[Quantised, Tensor]:
    """`moment` (blocks, width) in codes, and what they stand for."""
    held = Quantised(torch.zeros_like(moment, dtype=torch.uint8), torch.zeros(len(moment)))
    quantise(moment, code_book(CPU, signed), out=held)
    return held, dequantise(held, code_book(CPU, signed))


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [True, False])
def test_the_codes_are_those_of_bitsandbytes(signed):
    from bitsandbytes.functional import create_dynamic_map

    assert torch.equal(code_book(CPU, signed).values, create_dynamic_map(signed))


@pytest.mark.parametrize("signed", [True, False])
def test_every_value_gets_the_nearest_code_but_no_second_moment_zero(signed):
    numbers = torch.rand(2, 40, BLOCK_VALUES, generator=torch.Generator().manual_seed(0))
    moment = 10 ** (-9 * numbers[0]) * (torch.where(numbers[1] < 0.5, -1, 1) if signed else 1)  # all decades and below
    held, _ = quantised(moment, signed)
    values = code_book(CPU, signed).values
    distance = (moment / moment.abs().amax(1, keepdim=True)).unsqueeze(-1) - (values if signed else values[1:])
    nearest = distance.abs().argmin(-1) + (0 if signed else 1)
    assert torch.equal(held.codes.long(), nearest)
    assert held.codes.unique().numel() > 200


@pytest.mark.parametrize(("signed", "share"), [(True, 0.0071), (False, 0.0036)])
def test_a_moment_is_off_by_the_stated_share_of_its_scale(signed, share):
    moment = torch.linspace(-1 if signed else 0, 1, 100 * BLOCK_VALUES).view(BLOCK_VALUES, 100).t().contiguous()
    held, back = quantised(moment, signed)
    assert torch.equal(held.scales, moment.abs().amax(1))
    assert share / 1.1 < ((back - moment).abs().amax(1) / held.scales).max() < share


def test_a_block_of_zeros_stays_zero():
    held, back = quantised(torch.zeros(2, BLOCK_VALUES), signed=False)
    assert not held.scales.any() and not back.any()


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_32_bit_groups_are_torchs_to_the_bit(flags):
    theirs = torch.optim.AdamW([parameter()], lr=LR, **flags)
    ours = AdamW(groups(parameter(), parameter(seed=1)), lr=LR, **flags)
    assert torch.equal(train(theirs)[0], train(ours)[0])
    a, b = theirs.state[theirs.param_groups[0]["params"][0]], ours.state[ours.param_groups[0]["params"][0]]
    assert a.keys() == b.keys() and equal(list(a.values()), list(b.values()))


@pytest.mark.parametrize(
    "settings",
    [{}, {"weight_decay": 0.5}, {"betas": (0.5, 0.9)}, {"eps": 0.1}, {"maximize": True}, {"lr": torch.tensor(LR)}],
    ids=lambda settings: next(iter(settings), "defaults"),
)
def test_the_first_step_is_torchs(settings):
    """It starts from moments of zero, which are exact; the rounding comes after it."""
    settings = {"lr": LR, "foreach": False, **settings}
    theirs = train(torch.optim.AdamW([parameter()], **settings), end=1)[0]
    ours = train(AdamW([parameter()], moment_bits=8, **settings), end=1)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert not torch.equal(ours, parameter())


def test_arithmetic_on_bf16_weights_is_in_fp32():
    weight = parameter(dtype=torch.bfloat16)
    exact = nn.Parameter(weight.detach().float())
    exact.grad, weight.grad = gradient(weight, 0).float(), gradient(weight, 0)
    torch.optim.AdamW([exact], lr=LR, foreach=False).step()
    AdamW([weight], lr=LR, moment_bits=8).step()
    apart = (weight.float() - exact).abs() / exact.abs()
    assert apart.max() < 2**-8 * 1.01  # one rounding to 8 bits of significand


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fifty_steps_are_those_of_bitsandbytes(dtype):
    """Its CPU kernel looks codes up in a coarser table, so that some are one off."""
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    # its overrides are the process's, by index in the group: the Trainer leaves some ("embeddings keep 32 bits")
    GlobalOptimManager.get_instance().initialize()

    settings = {"lr": LR, "weight_decay": 0.1}
    theirs = train(AdamW8bit([parameter(4 * VALUES, dtype)], min_8bit_size=1, **settings))[0].float()
    ours = train(AdamW([parameter(4 * VALUES, dtype)], moment_bits=8, **settings))[0].float()
    exact = train(torch.optim.AdamW([parameter(4 * VALUES)], **settings))[0]
    moved = (exact - parameter(4 * VALUES)).norm()
    assert (ours - theirs).norm() < (0.01 if dtype == torch.float32 else 0.02) * moved
    if dtype == torch.float32:  # it is the rounding that they share
        assert (ours - exact).norm() > 3 * (ours - theirs).norm()


def test_values_far_below_their_blocks_scale_take_no_long_steps():
    """A second moment of zero would: with the zero code, steps here reach 100 times the learning rate."""

    def longest_step(optimizer: torch.optim.Optimizer) -> float:
        (weight,) = optimizer.param_groups[0]["params"]
        longest = 0.0
        for step in range(100):
            noise = torch.randn(len(weight), generator=torch.Generator().manual_seed(step))
            weight.grad = 1e-3 * (1 + noise) * torch.where(torch.arange(len(weight)) % 16 == 0, 1e-3, 1.0)
            before = weight.detach().clone()
            optimizer.step()
            longest = max(longest, (weight - before).abs().max().item())
        return longest / LR

    settings = {"lr": LR, "weight_decay": 0.0}
    assert longest_step(torch.optim.AdamW([parameter()], **settings)) < 1.5
    assert longest_step(AdamW([parameter()], moment_bits=8, **settings)) < 3


def test_a_tiny_model_learns_as_well_as_in_32_bits():
    losses = {}
    for bits in adamw.MOMENT_BITS:
        model = tiny_llama()
        optimizer = AdamW(model.parameters(), lr=3e-3, moment_bits=bits)
        for step in range(100):
            loss = loss_of(model, step)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses[bits] = loss.item()
    assert losses[8] == pytest.approx(losses[32], rel=0.05)
    assert losses[8] != losses[32]


@pytest.mark.parametrize("piece_values", [BLOCK_VALUES, 3 * BLOCK_VALUES])
def test_pieces_leave_no_trace(piece_values, monkeypatch):
    whole = train(AdamW([parameter()], lr=LR, moment_bits=8))
    monkeypatch.setattr(adamw, "PIECE_VALUES", piece_values)
    assert equal(train(AdamW([parameter()], lr=LR, moment_bits=8)), whole)


def test_a_schedule_moves_the_learning_rate_of_8_bit_groups():
    weight = parameter()
    optimizer = AdamW([weight], lr=LR, weight_decay=0.0, moment_bits=8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step < 3))
    moved = []
    for step in range(5):
        before = weight.detach().clone()
        train(optimizer, step, step + 1)
        schedule.step()
        moved.append(not torch.equal(weight, before))
    assert moved == [True, True, True, False, False]


def test_hooks_run_once_a_step():
    train(torch.optim.AdamW([parameter()]), end=1)  # torch wraps the step of every class that was ever built
    optimizer, calls = AdamW(groups(parameter(), parameter())), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(optimizer, end=2)
    assert calls == ["before", "after"] * 2


def test_a_closure_is_evaluated_once_and_its_loss_returned():
    weight, calls = parameter(), []
    optimizer = AdamW([weight], moment_bits=8)

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        weight.grad = gradient(weight, 0)
        return torch.tensor(7.0)

    assert optimizer.step(closure) == 7.0
    assert calls == [True] and optimizer.state[weight]["step"] == 1


def test_loss_scaling_reaches_all_groups():
    """torch leaves unscaling to the fused kernel where an optimizer says it can."""
    results = []
    for scaler in (torch.amp.GradScaler("cpu", init_scale=1024.0), torch.amp.GradScaler("cpu", enabled=False)):
        weights = [parameter(), parameter(seed=1)]
        optimizer = AdamW(groups(*weights), lr=LR, fused=True)
        for step in range(3):
            scaler.scale(sum((weight * gradient(weight, step)).sum() for weight in weights)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        results.append([weight.detach() for weight in weights])
    assert equal(*results)


def test_parameters_without_gradient_are_left_alone():
    idle, busy = parameter(), parameter(seed=1)
    optimizer = AdamW([idle, busy], moment_bits=8)
    busy.grad = gradient(busy, 0)
    optimizer.step()
    assert torch.equal(idle, parameter()) and idle not in optimizer.state


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_is_two_bytes_a_value_and_eight_a_block(dtype):
    optimizer = AdamW([parameter(dtype=dtype), parameter(BLOCK_VALUES), parameter(1)], moment_bits=8)
    train(optimizer, end=2)
    step_bytes = 4
    assert state_bytes(optimizer) == sum(2 * n + 8 * -(-n // 256) + step_bytes for n in (VALUES, 256, 1))


def test_temporaries_do_not_grow_with_the_parameter(monkeypatch):
    from workflow.engine.live_storage import LiveStorage

    monkeypatch.setattr(adamw, "PIECE_VALUES", 2**12)
    peaks = []
    for pieces in (2, 32):
        weight = parameter(pieces * 2**12, torch.bfloat16)
        optimizer = AdamW([weight], moment_bits=8)
        train(optimizer, end=1)
        weight.grad = gradient(weight, 1)
        ledger = LiveStorage("cpu")
        ledger.watch(nn.ParameterList([weight]), optimizer)
        with ledger:
            held = ledger.live_bytes
            optimizer.step()
        peaks.append(ledger.peak_bytes - held)
    assert 0 < peaks[0] == peaks[1] < 8 * 4 * 2**12


# --- state ------------------------------------------------------------------------------------------------------------


def by_state_dict(optimizer: AdamW) -> AdamW:
    """Through a file, into an optimizer over copies of the same weights that has been used before."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    weights = [nn.Parameter(p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    other = AdamW(groups(*weights), lr=1.0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize(
    "travel",
    [by_state_dict, copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))],
    ids=["state_dict", "deepcopy", "pickle"],
)
def test_a_saved_optimizer_goes_on_to_the_bit(dtype, fused, travel: Callable[[AdamW], AdamW]):
    optimizer = AdamW(groups(parameter(dtype=dtype), parameter(dtype=dtype, seed=1)), lr=LR, fused=fused)
    train(optimizer, end=5)
    again = travel(optimizer)
    for old, new in zip(tensors(optimizer), tensors(again), strict=True):
        assert old.dtype == new.dtype and torch.equal(old, new)
    assert equal(train(again, 5, 10), train(optimizer, 5, 10))


def tensors(optimizer: AdamW) -> Iterator[Tensor]:
    for state in optimizer.state_dict()["state"].values():
        yield from state.values()


def test_state_that_was_dropped_starts_afresh():
    weight = parameter()
    optimizer = AdamW([weight], lr=LR, moment_bits=8)
    train(optimizer, end=5)
    fresh = AdamW([nn.Parameter(weight.detach().clone())], lr=LR, moment_bits=8)
    optimizer.state.pop(weight)
    assert equal(train(optimizer, 5, 10), train(fresh, 5, 10))
    assert optimizer.state[weight]["step"] == 5


def test_loading_hooks_see_tensors_and_have_the_last_word():
    seen: list[Any] = []

    def look(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any] | None = None) -> None:
        states = optimizer.state if state_dict is None else state_dict["state"]
        seen.extend(value.dtype for state in states.values() for value in state.values())

    optimizer = AdamW([parameter(dtype=torch.bfloat16)], moment_bits=8)
    train(optimizer, end=1)
    other = AdamW([parameter(dtype=torch.bfloat16)], moment_bits=8)
    other.register_load_state_dict_pre_hook(look)
    other.register_load_state_dict_post_hook(look)
    other.load_state_dict(optimizer.state_dict())
    assert seen == [torch.float32, *[torch.uint8, torch.float32] * 2] * 2


def test_a_checkpoint_of_torchs_adamw_loads_into_32_bits_only():
    theirs = torch.optim.AdamW([parameter()], lr=LR)
    train(theirs, end=5)
    ours = AdamW([nn.Parameter(theirs.param_groups[0]["params"][0].detach().clone())], lr=LR)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))  # torch would share its tensors
    assert equal(train(ours, 5, 10), train(theirs, 5, 10))
    with pytest.raises(ValueError, match="parameter group 0 has 32-bit moments; legal: 8"):
        AdamW([parameter()], moment_bits=8).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("policy", ["drop", "offload"])
def test_lisa_resumes_to_the_bit_with_8_bit_embeddings_and_head(policy):
    def build(seed: int) -> tuple[nn.Module, AdamW, LISA]:
        model = tiny_llama(seed)
        big = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
        rest = [p for p in model.parameters() if all(p is not other for other in big)]
        optimizer = AdamW([{"params": rest}, {"params": big, "moment_bits": 8}], lr=3e-3)
        drawn = {"embeddings": "drawn", "head": "drawn"}  # so that 8-bit moments are dropped and parked too
        return model, optimizer, LISA(model, optimizer, gamma=2, period_steps=3, seed=0, state=policy, **drawn)

    def go_on(model: nn.Module, optimizer: AdamW, lisa: LISA, start: int, end: int) -> None:
        for step in range(start, end):
            lisa.before_step(step)
            loss_of(model, step).backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, resumed = build(0), build(1)
    go_on(*whole, 0, 10)
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in whole], buffer)
    buffer.seek(0)
    for part, state in zip(resumed, torch.load(buffer, weights_only=True), strict=True):
        part.load_state_dict(state)
    go_on(*whole, 10, 20)
    go_on(*resumed, 10, 20)
    assert changed(resumed[0], copies(whole[0])) == set()
    assert equal(list(tensors(whole[1])), list(tensors(resumed[1])))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 16, "8", None])
def test_other_moment_bits_are_an_error(bits):
    message = rf"moment_bits is {bits!r}; legal: 8 or 32\."
    with pytest.raises(ValueError, match=message):
        AdamW([parameter()], moment_bits=bits)
    with pytest.raises(ValueError, match=message):
        AdamW([{"params": [parameter()], "moment_bits": bits}])
    optimizer = AdamW([parameter()], moment_bits=8)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [parameter()], "moment_bits": bits})
    assert len(optimizer.param_groups) == 1


def test_groups_added_later_take_the_constructors_bits_or_their_own():
    optimizer = AdamW([parameter()], moment_bits=8)
    optimizer.add_param_group({"params": [parameter()]})
    optimizer.add_param_group({"params": parameter(), "moment_bits": 32})
    assert [group["moment_bits"] for group in optimizer.param_groups] == [8, 8, 32]


@pytest.mark.parametrize("flag", ["amsgrad", "capturable", "differentiable"])
def test_what_8_bits_cannot_do_is_an_error(flag):
    with pytest.raises(ValueError, match=f"8-bit moments do not work with {flag}"):
        AdamW([parameter()], moment_bits=8, **{flag: True})
    AdamW([parameter()], **{flag: True})


@pytest.mark.parametrize(
    ("weight", "what"),
    [
        (nn.Parameter(torch.zeros(4, dtype=torch.float64)), "contiguous torch.float64"),
        (nn.Parameter(torch.zeros(4, dtype=torch.complex64)), "contiguous torch.complex64"),
        (nn.Parameter(torch.zeros(4, 3).t()), "strided torch.float32"),
    ],
    ids=["float64", "complex", "strided"],
)
def test_other_parameters_are_an_error(weight, what):
    with pytest.raises(ValueError, match=f"A parameter of {what} cannot have 8-bit moments"):
        AdamW([weight], moment_bits=8)


def test_sharded_parameters_have_32_bits_only():
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        weight = nn.Parameter(distribute_tensor(torch.zeros(8, 4), init_device_mesh("cpu", (1,))))
        with pytest.raises(ValueError, match="8-bit moments of sharded parameters"):
            AdamW([weight], moment_bits=8)
        weight.sum().backward()
        AdamW([weight], lr=LR).step()
        assert weight.to_local().abs().min() > 0
    finally:
        dist.destroy_process_group()


def test_sparse_gradients_are_an_error():
    embedding = nn.Embedding(8, 4, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse=False"):
        AdamW(embedding.parameters(), moment_bits=8).step()
