"""The speed meters: step times, tokens a second, floating-point operations of a step, model FLOPs utilisation (MFU).

Step times and throughput, `window` being the micro-batches of one optimizer step:

    clock = StepClock(warmup_steps=3, device=device)
    clock.start()
    train_step(window)
    step_s = clock.stop(*count_tokens(batch["attention_mask"] for batch in window), timed=not metered)
    record |= clock.record()

Floating-point operations, on one real step with all its micro-batches, which is then not a timed one:

    with count_flops() as counter:
        train_step(window)
    record["flops_per_step"] = counter.total
    record["mfu"] = mfu(flops_per_s, torch.cuda.get_device_name(), "bf16")
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True)
class TimedStep:
    """One optimizer step that counts."""

    seconds: float
    unpadded_tokens: int
    padded_tokens: int


class StepClock:
    """Wall time of whole optimizer steps, on CUDA between two synchronisations.

    The first `warmup_steps` steps of the process do not count (allocator, autotuning, caches), and neither do those
    with `timed=False`, which a meter slowed, or those that never reach `stop`. Evaluation belongs between steps.
    """

    def __init__(self, warmup_steps: int, device: torch.device | str = "cpu") -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, not {warmup_steps}.")
        self.warmup_steps = warmup_steps
        self.device = torch.device(device)
        self.timed: list[TimedStep] = []
        self._ended = 0  # steps, timed or not
        self._began_s: float | None = None

    def start(self) -> None:
        """A step begins: after its batches are there, so that reading data is not the method's time."""
        self._synchronize()
        self._began_s = time.perf_counter()

    def stop(self, unpadded_tokens: int, padded_tokens: int, *, timed: bool = True) -> float:
        """The step has ended; its whole accumulation window held so many tokens. Returns its seconds, timed or not."""
        if self._began_s is None:
            raise RuntimeError("StepClock.stop() without start().")
        self._synchronize()
        seconds = time.perf_counter() - self._began_s
        self._began_s = None
        if timed and self._ended >= self.warmup_steps:
            self.timed.append(TimedStep(seconds, unpadded_tokens, padded_tokens))
        self._ended += 1
        return seconds

    def record(self) -> dict[str, Any]:
        """The `time` and `throughput` objects of a run record; None where no step was timed."""
        seconds = [step.seconds for step in self.timed]
        total_s = sum(seconds)
        return {
            "time": {
                "step_median_s": statistics.median(seconds) if seconds else None,
                "step_p90_s": percentile(seconds, 0.9) if seconds else None,
                "warmup_steps": self.warmup_steps,
                "timed_steps": len(seconds),
            },
            "throughput": {
                "tokens_per_s": sum(step.unpadded_tokens for step in self.timed) / total_s if seconds else None,
                "padded_tokens_per_s": sum(step.padded_tokens for step in self.timed) / total_s if seconds else None,
            },
        }

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def percentile(values: Iterable[float], fraction: float) -> float:
    """The value below which `fraction` of the values lie, interpolated between neighbours (NumPy's default)."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def count_tokens(attention_masks: Iterable[torch.Tensor]) -> tuple[int, int]:
    """Unpadded and padded tokens of an accumulation window, from the masks of all its micro-batches."""
    unpadded = padded = 0
    for mask in attention_masks:  # (batch, tokens), 1 where there is a token
        unpadded += int(mask.sum())
        padded += mask.numel()
    return unpadded, padded


def cpu_attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Forward: two matrix products. The arguments are shapes (batch, heads, tokens, head width)."""
    return sdpa_flop_count(query, key, value)


def cpu_attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Backward: five, as the scores are computed again."""
    return sdpa_backward_flop_count(grad, query, key, value)


# Torch's counter knows the fused attention of CUDA only; on the CPU it would count none.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: cpu_attention_backward_flops,
}


class _NoModules:
    """In place of torch's ModuleTracker: all that is counted is the model's as a whole."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *exception: Any) -> None:
        pass


@dataclass
class FlopCount:
    """`total` is 0 until the context has ended."""

    total: int = 0


@contextlib.contextmanager
def count_flops() -> Iterator[FlopCount]:
    """Floating-point operations of matrix products and attention, forward and backward; a multiply-add is two.

    Counts what is executed: a frozen matrix skips its weight gradient, checkpointing runs forward twice, padding counts
    like tokens, attention counts in full although it is causal. Blind to kernels torch has no formula for.
    """
    count = FlopCount()
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    counter.mod_tracker = _NoModules()  # torch's own holds on to every layer that checkpointing computes again
    with counter:
        yield count
    count.total = counter.get_total_flops()


# Dense peaks in TFLOP/s (no sparsity; 16-bit with fp32 accumulation) from NVIDIA's data sheets and white papers.
# A pattern must match all of the name the driver reports: laptop cards, export variants, MIG slices stay unknown.
HOPPER_SXM = {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9}  # Hopper white paper; H200 data sheet: 989, 67
AMPERE_A100 = {"bf16": 312.0, "fp16": 312.0, "tf32": 156.0, "fp32": 19.5}  # A100 data sheet, all four forms
DENSE_PEAKS_TFLOPS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"NVIDIA H200", HOPPER_SXM),
    (r"NVIDIA H100 80GB HBM3", HOPPER_SXM),
    (r"NVIDIA H100 PCIe", {"bf16": 756.0, "fp16": 756.0, "tf32": 378.0, "fp32": 51.2}),  # Hopper white paper
    (r"NVIDIA A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe", AMPERE_A100),
    (r"NVIDIA L40S", {"bf16": 362.05, "fp16": 362.05, "tf32": 183.0, "fp32": 91.6}),  # data sheet
    (r"NVIDIA A40", {"bf16": 149.7, "fp16": 149.7, "tf32": 74.8, "fp32": 37.4}),  # data sheet
    (r"NVIDIA GeForce RTX 4090", {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6}),  # Ada white paper
    (r"NVIDIA GeForce RTX 3090", {"bf16": 71.0, "fp16": 71.0, "tf32": 35.6, "fp32": 35.6}),  # GA102 white paper
    (r"Tesla V100-SXM2-(16|32)GB", {"fp16": 125.0, "fp32": 15.7}),  # data sheet
    (r"Tesla V100-PCIE-(16|32)GB", {"fp16": 112.0, "fp32": 14.0}),  # data sheet
    (r"Tesla T4", {"fp16": 65.0, "fp32": 8.1}),  # data sheet
)


def peak_flops(device_name: str, precision: str) -> float | None:
    """Published dense peak of a device in FLOP/s for bf16, bf16-mixed, fp16, tf32 or fp32; None if unknown."""
    dtype = precision.removesuffix("-mixed")
    for pattern, peaks_tflops in DENSE_PEAKS_TFLOPS:
        if re.fullmatch(pattern, device_name):
            return peaks_tflops[dtype] * 1e12 if dtype in peaks_tflops else None
    return None


def mfu(flops_per_s: float, device_name: str, precision: str) -> float | None:
    """Share of the device's published dense peak that a run reaches, 0 to 1; None where the peak is unknown: no guess.

    With executed operations (`count_flops`) and checkpointing this is hardware utilisation.
    """
    peak = peak_flops(device_name, precision)
    return None if peak is None else flops_per_s / peak
