"""Section 4 of `lisa_limits.py`: step times as ratios between runs that take turns, so that drifts hit both alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks._limits_model import (
    GPU_OPTIONS,
    Everything,
    Run,
    Setup,
    StepTimes,
    ToggleOnly,
    adamw,
    build,
    own_loss,
    start,
    token_ids,
)
from benchmarks._limits_report import Bound, Results, Spread, Table, spread
from lisa import LISA
from lisa.compile import compile_layers
from workflow.engine.speed import count_flops

WARM_UP_TOKENS = 8
WARM_UP_STEPS = 2
NEVER = 10**9  # steps until a redraw
COMPILED_PERIOD_STEPS = 2
Pair = tuple[StepTimes, StepTimes]
MEDIAN = "median (95 % interval of the median; all samples, where they are fewer than six)"
GPU_SPEED_UP = 1.44  # over full fine-tuning by FLOPs, LLaMA-2-7B, gamma 2, 1 x 1024 tokens


@dataclass(frozen=True)
class Sizes:
    """How much of the section to run."""

    rounds: int = 20  # of full against LISA
    periods: int = 8  # of LISA against toggle-only
    period_steps: int = 10  # the benchmark's default
    compiled_rounds: int = 16
    backend: str = "inductor"


def speed(setup: Setup, sizes: Sizes) -> Results:
    """All tables of the section."""
    results = Results()
    for part in (against_full, against_toggling, compiled):
        results.add(part(setup, sizes))
        gc.collect()  # models that know themselves through hooks
    return results


def take_turns(first: Run, second: Run, ids: torch.Tensor, rounds: int, turn: int = 0) -> list[Pair]:
    """One step of each in every round; who begins alternates, the second with an odd `turn`."""
    pairs = []
    for round_ in range(turn, turn + rounds):
        if round_ % 2:
            later, earlier = second.step(ids), first.step(ids)
            pairs.append((earlier, later))
        else:
            pairs.append((first.step(ids), second.step(ids)))
    return pairs


def ratios(pairs: Sequence[Pair], seconds: Callable[[StepTimes], float]) -> Spread:
    """First over second, round by round."""
    return spread([seconds(one) / seconds(other) for one, other in pairs])


# --- full fine-tuning


def against_full(setup: Setup, sizes: Sizes) -> Results:
    """Speed-up over full fine-tuning, and what the skipped FLOPs allow."""
    ids = token_ids(setup)
    full, lisa = full_run(setup), start(setup, LISA, NEVER)
    flops = [step_flops(run, ids) for run in (full, lisa)]
    for run in (full, lisa):
        for _ in range(WARM_UP_STEPS):
            run.step(ids)
    pairs = take_turns(full, lisa, ids, sizes.rounds)
    both, whole = ratios(pairs, lambda t: t.forward_backward_s), ratios(pairs, lambda t: t.whole_s)
    limit = flops[0] / flops[1]
    share = both.over(limit)
    seconds = [statistics.median(pair[i].forward_backward_s for pair in pairs) for i in (0, 1)]
    rows = [
        ["FLOPs of forward and backward, full / LISA: the limit", limit],
        ["forward and backward, full / LISA", both],
        ["of the limit", share],
        ["whole step, full / LISA", whole],
        ["forward and backward of full, s", seconds[0]],
        ["forward and backward of LISA, s", seconds[1]],
    ]
    conditions = f"{setup.describe()}; {sizes.rounds} rounds, a step each in turn; {MEDIAN}."
    table = Table("4a. Speed-up over full fine-tuning", conditions, {"what": "", "value": ".3f"}, rows)
    bounds = [Bound("forward + backward speed-up over full FT / FLOP limit", ">=", 0.95, share.median, share.interval)]
    told = f"7B: forward + backward speed-up over full FT / {GPU_SPEED_UP}"
    if setup.is_for_gpu_bounds():
        gpu = both.over(GPU_SPEED_UP)
        bounds.append(Bound(told, ">=", 0.95, gpu.median, gpu.interval))
    else:
        bounds.append(Bound(told, ">=", 0.95, None, reason=f"needs {GPU_OPTIONS}"))
    return Results([table], bounds)


def full_run(setup: Setup) -> Run:
    """Full fine-tuning on a model of its own."""
    model = build(setup)
    return Run(model, adamw(model), Everything())


def step_flops(run: Run, ids: torch.Tensor) -> int:
    """Of forward and backward; a multiply-add is two."""
    run.method.before_step(0)
    with count_flops() as counter:
        own_loss(run.model, ids).backward()
    run.optimizer.zero_grad(set_to_none=True)
    return counter.total


# --- toggle-only


def against_toggling(setup: Setup, sizes: Sizes) -> Results:
    """Whole periods against a LISA that only toggles `requires_grad`; in its own steps, what a switch costs."""
    ids = token_ids(setup)
    toggling, lisa = (start(setup, method, sizes.period_steps) for method in (ToggleOnly, LISA))
    for run in (toggling, lisa):
        run.visit_all(token_ids(setup, WARM_UP_TOKENS))
        for _ in range(sizes.period_steps):
            run.step(ids)
    periods = [take_turns(toggling, lisa, ids, sizes.period_steps, turn) for turn in range(sizes.periods)]
    whole = spread([sum(a.whole_s for a, _ in period) / sum(b.whole_s for _, b in period) for period in periods])
    later = [pair for period in periods for pair in period[1:]]
    rows = [
        ["whole period, toggle-only / LISA", whole],
        ["steps after the switch, toggle-only / LISA", ratios(later, lambda t: t.whole_s)],
    ]
    bounds = [Bound("whole-step speed-up over the toggle-only reading", ">=", 1.0, whole.median, whole.interval)]
    for name, index in (("LISA", 1), ("toggle-only", 0)):
        own = [[pair[index] for pair in period] for period in periods]
        before, total = spread([switch_parts(p)[0] for p in own]), spread([sum(switch_parts(p)) for p in own])
        rows.append([f"{name}: before_step at a switch, in ordinary steps", before])
        rows.append([f"{name}: the whole switch, in ordinary steps", total])
        if name == "LISA":
            bounds.append(Bound("cost of a switch, in steps", "<", 0.5, total.median, total.interval))
    conditions = (
        f"{setup.describe()}; {sizes.periods} periods of {sizes.period_steps} steps, a step each in turn, every layer"
        f" visited before; {MEDIAN}."
    )
    notes = (
        "A switch costs before_step and what the first step of a period takes longer than the median of the period's"
        " others (fresh moments). Toggle-only keeps the moments of every layer visited and has none to make."
    )
    return Results([Table("4b. Switches", conditions, {"what": "", "value": ".3f"}, rows, notes)], bounds)


def switch_parts(period: Sequence[StepTimes]) -> tuple[float, float]:
    """`before_step` at the switch, and the first step's excess over the others, both in ordinary steps."""
    first, ordinary = period[0], statistics.median(step.whole_s for step in period[1:])
    return first.before_s / ordinary, (first.whole_s - first.before_s) / ordinary - 1


# --- compiled layers


def compiled(setup: Setup, sizes: Sizes) -> Results:
    """LISA with every layer compiled, redrawn every COMPILED_PERIOD_STEPS, against the same without."""
    ids = token_ids(setup)
    eager, fast = (start(setup, LISA, COMPILED_PERIOD_STEPS) for _ in range(2))
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend(sizes.backend)
    compile_layers(fast.model, backend=graphs)
    began = time.perf_counter()
    with torch.compiler.config.patch(force_disable_caches=True):  # kernels that an earlier process left on disk
        for _ in range(COMPILED_PERIOD_STEPS):  # the first period, with active and with frozen layers
            fast.step(ids)
    compile_s, first_period = time.perf_counter() - began, graphs.frame_count
    for _ in range(COMPILED_PERIOD_STEPS):
        eager.step(ids)
    pairs = take_turns(eager, fast, ids, sizes.compiled_rounds)
    whole, both = ratios(pairs, lambda t: t.whole_s), ratios(pairs, lambda t: t.forward_backward_s)
    recompiles = graphs.frame_count - first_period
    rows = [
        ["graphs after the first period (one kind of layer)", first_period],
        [f"graphs made later, in {sizes.compiled_rounds // COMPILED_PERIOD_STEPS} redraws", recompiles],
        ["first period, compilation included, s", compile_s],
        ["forward and backward, eager / compiled", both],
        ["whole step, eager / compiled", whole],
    ]
    conditions = (
        f"{setup.describe()}; torch.compile layer by layer, {sizes.backend}; {sizes.compiled_rounds} rounds, a step"
        f" each in turn; {MEDIAN}."
    )
    bounds = [
        Bound("per-layer compile: graphs per layer kind", "<=", 2, first_period),
        Bound("per-layer compile: recompiles after the first period", "==", 0, recompiles),
    ]
    return Results([Table("4c. Compiled layer by layer", conditions, {"what": "", "value": ".3g"}, rows)], bounds)
