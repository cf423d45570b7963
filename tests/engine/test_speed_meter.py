"""The clock on a clock of our own, tokens from hand-made masks, FLOPs against arithmetic on the shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models import tiny_llama
from workflow.engine import speed
from workflow.engine.live_storage import LiveStorage
from workflow.engine.speed import StepClock, count_flops, count_tokens, mfu, peak_flops, percentile
from workflow.engine.training_step import checkpoint_layers


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until the test moves it: `now[0]` in seconds."""
    seconds = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: seconds[0])
    return seconds


def step(clock: StepClock, now: list[float], seconds: float, tokens: int = 10, **timed: bool) -> float:
    clock.start()
    now[0] += seconds
    return clock.stop(tokens, 2 * tokens, **timed)


def test_warm_up_and_metered_steps_do_not_count(now):
    clock = StepClock(warmup_steps=2)
    assert [step(clock, now, seconds) for seconds in (50, 40)] == [50, 40]
    assert step(clock, now, 30, timed=False) == 30
    for seconds in (1, 2, 3):
        step(clock, now, seconds)
    times = clock.record()["time"]
    assert times == {"step_median_s": 2, "step_p90_s": pytest.approx(2.8), "warmup_steps": 2, "timed_steps": 3}


def test_time_between_steps_does_not_count(now):
    clock = StepClock(warmup_steps=0)
    step(clock, now, 2)
    now[0] += 1000  # evaluation
    step(clock, now, 2)
    assert clock.record()["throughput"]["tokens_per_s"] == pytest.approx(20 / 4)


def test_step_that_raises_is_dropped(now):
    clock = StepClock(warmup_steps=0)
    clock.start()
    now[0] += 500
    step(clock, now, 1)
    assert clock.record()["time"]["timed_steps"] == 1
    assert clock.record()["time"]["step_median_s"] == 1


def test_a_metered_warm_up_step_uses_up_the_warm_up(now):
    clock = StepClock(warmup_steps=1)
    step(clock, now, 9, timed=False)
    step(clock, now, 1)
    assert clock.record()["time"]["timed_steps"] == 1


@pytest.mark.parametrize("accumulation", [1, 4])
def test_throughput_counts_the_tokens_of_the_whole_window(now, accumulation):
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])  # 4 tokens in 8 places
    clock = StepClock(warmup_steps=0)
    for _ in range(5):
        clock.start()
        now[0] += 0.5
        clock.stop(*count_tokens([mask] * accumulation))
    throughput = clock.record()["throughput"]
    assert throughput["tokens_per_s"] == pytest.approx(4 * accumulation / 0.5)
    assert throughput["padded_tokens_per_s"] == pytest.approx(8 * accumulation / 0.5)


def test_without_timed_steps_nothing_is_claimed(now):
    clock = StepClock(warmup_steps=3)
    step(clock, now, 1)
    record = clock.record()
    assert record["time"] == {"step_median_s": None, "step_p90_s": None, "warmup_steps": 3, "timed_steps": 0}
    assert record["throughput"] == {"tokens_per_s": None, "padded_tokens_per_s": None}


def test_cuda_is_synchronised_at_both_ends(now, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append((device.type, now[0])))
    step(StepClock(warmup_steps=0, device="cuda"), now, 3)
    assert calls == [("cuda", 100.0), ("cuda", 103.0)]


def test_misuse_of_the_clock_is_named():
    with pytest.raises(ValueError, match="warmup_steps must be at least 0, not -1"):
        StepClock(warmup_steps=-1)
    with pytest.raises(RuntimeError, match="without start"):
        StepClock(warmup_steps=0).stop(1, 1)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 1.0), (0.5, 2.5), (0.9, 3.7), (1.0, 4.0)])
def test_percentile_interpolates_like_numpy(fraction, expected):
    assert percentile([4.0, 1.0, 3.0, 2.0], fraction) == pytest.approx(expected)
    assert percentile([7.0], fraction) == 7.0


# --- FLOPs


def llama(attention: str = "sdpa") -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=64, max_position_embeddings=64, use_cache=False, **shape)
    return LlamaForCausalLM._from_config(config, attn_implementation=attention)


def flops_of_step(model: nn.Module, windows: int = 1) -> int:
    ids = torch.arange(2 * 16).reshape(2, 16)  # (batch, tokens)
    with count_flops() as counter:
        for _ in range(windows):
            model(input_ids=ids, labels=ids).loss.backward()
    return counter.total


def matrix_values(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def test_forward_and_backward_of_matrices_take_six_operations_a_value_and_token():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    x = torch.ones(5, 8, requires_grad=True)
    with count_flops() as counter:
        model(x).sum().backward()
    assert counter.total == 6 * 5 * (8 * 16 + 16 * 4)


def test_frozen_layer_saves_exactly_its_weight_gradients():
    model = llama()
    full = flops_of_step(model)
    model.model.layers[1].requires_grad_(False)
    assert full - flops_of_step(model) == 2 * 2 * 16 * matrix_values(model.model.layers[1])


def test_accumulation_multiplies_the_operations():
    model = llama()
    assert flops_of_step(model, windows=4) == 4 * flops_of_step(model)


@pytest.mark.parametrize(("attention", "products"), [("eager", 2 + 4), ("sdpa", 2 + 5)])
def test_attention_counts_on_the_cpu_too(attention, products):
    """Fused backward computes the scores a second time: five products after the forward's two, where eager has four."""
    batch, heads, tokens, head_width, layers = 2, 2, 16, 16, 3
    model = llama(attention)
    matrices = 6 * batch * tokens * matrix_values(model)
    attention_flops = layers * products * 2 * batch * heads * tokens * tokens * head_width
    assert flops_of_step(model) == matrices + attention_flops


# --- MFU


def test_mfu_is_the_share_of_the_published_peak():
    assert mfu(0.4 * 989.4e12, "NVIDIA H200", "bf16") == pytest.approx(0.4)
    assert mfu(31.2e12, "NVIDIA A100-SXM4-80GB", "bf16-mixed") == pytest.approx(0.1)
    assert mfu(1.95e12, "NVIDIA A100 80GB PCIe", "fp32") == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "",
        "NVIDIA H100",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100",
    ],
)
def test_unknown_device_has_no_peak(name):
    assert peak_flops(name, "bf16") is None
    assert mfu(1e12, name, "bf16") is None


def test_arithmetic_a_device_lacks_has_no_peak():
    assert peak_flops("Tesla T4", "fp16") == 65e12
    assert peak_flops("Tesla T4", "bf16") is None


def test_peaks_order_as_the_arithmetic_does():
    for pattern, peaks in speed.DENSE_PEAKS_TFLOPS:
        assert set(peaks) <= {"bf16", "fp16", "tf32", "fp32"}, pattern
        assert peaks.get("bf16", peaks["fp16"]) == peaks["fp16"] > peaks["fp32"], pattern


def test_counting_leaves_checkpointing_its_memory() -> None:
    """torch's counter holds on to the layers that checkpointing computes again, unless it is kept from it."""
    peaks = {}
    for checkpointing in (True, False):
        torch.manual_seed(0)
        model = tiny_llama(layers=12)
        model.train()
        if checkpointing:
            checkpoint_layers(model)
        tokens = torch.randint(0, 32, (8, 64))
        with LiveStorage("cpu") as ledger:
            ledger.watch(model)
            ledger.reset_peak()
            with count_flops():
                model(input_ids=tokens, labels=tokens).loss.backward()
        peaks[checkpointing] = ledger.peak_bytes - ledger.peak_by_role["weights"] - ledger.peak_by_role["gradients"]
    assert peaks[True] < peaks[False] / 2
