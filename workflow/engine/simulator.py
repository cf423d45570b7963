"""The memory simulator: the peak of a training step, predicted on a machine without a GPU.

    simulation = simulate(config, "lisa", {"gamma": 2}, Conditions(batch_size=1, sequence_length=1024))
    simulation.peak_bytes, simulation.phase, simulation.operator, simulation.components

The real model, the real method through its contract, the real optimizer and the suite's own training step run on
tensors without data (`dataless.py`), while the ledger that also meters real runs adds up live storages
(`live_storage.py`).

What is simulated are steps in the middle of training: optimizer state exists, and every unit that the method draws has
trained before. Of the draws two are gone through, that of the last layers (whose gradients are there while nearly all
activations are) and that of the first (which, where the embeddings are frozen, keeps most activations), and where draws
differ in size the same two of the largest; of each the first step of the period, with its redraw or decomposition, and
the second. Where every draw is alike in size, no other needs more. Where the size is drawn too (the independent
sampler, embeddings drawn like a layer), it is the worst of the draws until all had trained; rarer ones may need more.

Not seen: the CUDA context, scratch memory inside kernels, rounding and fragmentation (`margin.py` allows for them).
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import nn

import baselines
from workflow.engine.dataless import dataless
from workflow.engine.errors import InputError
from workflow.engine.live_storage import ROLES
from workflow.engine.memory import MemoryMeter, PhasePeak
from workflow.engine.models import count_parameters, random_model
from workflow.engine.timeline import Timeline
from workflow.engine.training_step import (
    Batch,
    Conditions,
    TrainingStep,
    build_method,
    checkpoint_layers,
    synthetic_window,
)
from workflow.engine.visits import Visits

PARTS = ("load", "forward", "backward", "step")
SHORTEST_PERIOD = 2  # steps: one that begins the period, one that has the state of what is active
MOST_PERIODS = 2000  # draws until all units have trained; a sampler may make some of them very rare
MASKLESS = "maskless_sdpa"  # a name that transformers builds no mask for


@dataclass(frozen=True)
class Simulation:
    """What a step needs, in bytes."""

    peak_bytes: int
    phase: str  # where the peak is: load | forward | backward | step
    operator: str | None  # at the peak, as "aten.mm.default"
    phases: dict[str, int]  # peak of each of load, forward, backward, step
    components: dict[str, int]  # the peak by role (`live_storage.ROLES`); sums to it
    parameters: int
    trainable_parameters: dict[str, int]  # always, sampled, total
    drawn_units: int  # units of which some train at a time; 0 for most methods
    visited_units: int  # of them, how many had trained before the simulated steps
    steps: int  # of training after which every unit had trained, at two steps a draw
    flops: dict[str, int] | None  # of a step, on average of the draws: forward, backward, total
    simulated_s: float
    timeline: Timeline | None = field(default=None, repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """All but the timeline."""
        return {key: value for key, value in asdict(replace(self, timeline=None)).items() if key != "timeline"}


def simulate(
    config: Any,
    method: str,
    hyperparameters: Mapping[str, Any],
    conditions: Conditions,
    *,
    seed: int = 0,
    flops: bool = False,
    timeline: bool = False,
) -> Simulation:
    """Predict a training step of a model with this transformers configuration under `method`.

    Args:
        hyperparameters: of the method, over its defaults; its period is shortened to two steps.
        seed: of the method's draws.
        flops: count floating-point operations as well, which takes one more forward and backward.
        timeline: keep what was alive at each operator of the step that needed most.

    Raises:
        ValueError: the method or a hyper-parameter is unknown, or not for this model. InputError: so are conditions.
    """
    began = time.perf_counter()
    built = build_method(method, shortened(method, hyperparameters), conditions, seed)
    built.check(config.to_dict())
    with dataless(), accelerate_afresh():
        meter = MemoryMeter("cpu")
        on_host = built.prepares_on_host  # then the device never sees the model as it is loaded
        with meter.phase("load"), contextlib.nullcontext() if on_host else meter.step():
            model = _model(config, conditions)
            if not on_host:
                meter.watch(model)
        parameters = count_parameters(model)
        if conditions.gradient_checkpointing:
            checkpoint_layers(model)
        step = TrainingStep(model, built, conditions, learning_rate=1e-5, steps=1, meter=meter)
        trainable = built.trainable_parameters(step.unwrapped())
        window = _window(model.config, conditions)
        passage = _go_through(step, meter, window, timeline)
        operations = _mean_flops(step, window, passage) if flops else None
        phase, peak = _largest(meter.phases)
        return Simulation(
            peak_bytes=peak.live_bytes,
            phase=phase,
            operator=peak.operator,
            phases={part: meter.phases[part].live_bytes for part in PARTS if part in meter.phases},
            components=peak.live_by_role or dict.fromkeys(ROLES, 0),
            parameters=parameters,
            trainable_parameters=trainable,
            drawn_units=passage.visits.total,
            visited_units=passage.visits.visited,
            steps=passage.steps,
            flops=operations,
            simulated_s=time.perf_counter() - began,
            timeline=passage.timeline,
        )


@contextlib.contextmanager
def accelerate_afresh() -> Iterator[None]:
    """Within, accelerate knows no precision and no device yet; it holds one of each for the whole process, which stands
    again afterwards.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    saved = [dict(state) for state in states]
    for state in states:
        state.clear()
    try:
        yield
    finally:
        for state, content in zip(states, saved, strict=True):
            state.clear()
            state.update(content)


def shortened(name: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters with the method's period, if it has one, cut to two steps."""
    period = baselines.method_class(name).period_hyperparameter
    if period is None:
        return dict(hyperparameters)
    own = getattr(baselines.hyperparameters(name, hyperparameters), period)
    return {**hyperparameters, period: min(own, SHORTEST_PERIOD)}


class _Passage(NamedTuple):
    visits: Visits
    steps: int  # that they took
    extremes: list[int]  # first steps of the draw of the first units, and of that of the last
    mean_first: float  # index of the first active unit, on average of the draws
    timeline: Timeline | None  # of the step that needed most


def _go_through(step: TrainingStep, meter: MemoryMeter, window: list[Batch], timeline: bool) -> _Passage:
    """Let every unit train, then meter the extreme draws again."""
    step.calibrate(window)
    visits, draws, index = Visits(step.method), dict[tuple[int, ...], int](), 0
    while not (draws and visits.complete) and index < SHORTEST_PERIOD * MOST_PERIODS:
        step.method.before_step(index)
        _step_on_zeros(step)
        visits.note()
        draws.setdefault(visits.active(), index)
        index += SHORTEST_PERIOD
    extremes, needed_most = list(dict.fromkeys((draws[min(draws)], draws[max(draws)]))), None
    with meter.phase("train", step.model, step.optimizer):
        for start in dict.fromkeys((*extremes, *_of_largest(draws, visits.units))):
            for place in range(SHORTEST_PERIOD):
                before = meter.phases["train"].live_bytes
                with meter.step(timeline=timeline):
                    step(start + place, window)
                if meter.phases["train"].live_bytes > before:
                    needed_most = meter.timeline
    mean_first = statistics.mean(min(active, default=0) for active in draws)
    return _Passage(visits, index, extremes, mean_first, needed_most)


def _of_largest(draws: Mapping[tuple[int, ...], int], units: list[list[nn.Parameter]]) -> tuple[int, int]:
    """First steps of the first and the last of those draws that have the most parameters: units may differ in size
    (embeddings drawn like a layer), and draws in the number of their units.
    """
    sizes = {draw: sum(p.numel() for unit in draw for p in units[unit]) for draw in draws}
    largest = [draw for draw in draws if sizes[draw] == max(sizes.values())]
    return draws[min(largest)], draws[max(largest)]


def _mean_flops(step: TrainingStep, window: list[Batch], passage: _Passage) -> dict[str, int]:
    """FLOPs of a step, on average of the draws: linear in the first active unit, down to which backward goes."""
    counts, first = [], []
    for start in passage.extremes:
        step.method.before_step(start)
        counts.append(step.flops(window))
        first.append(min(passage.visits.active(), default=0))
    share = (passage.mean_first - first[0]) / (first[-1] - first[0]) if first[-1] > first[0] else 0.0
    return {name: round(counts[0][name] + share * (counts[-1][name] - counts[0][name])) for name in counts[0]}


def _step_on_zeros(step: TrainingStep) -> None:
    """The optimizer's step on gradients of zeros: its state comes to exist without forward and backward."""
    for parameter in step.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    step.optimizer.step()
    step.optimizer.zero_grad(set_to_none=True)


def _largest(phases: Mapping[str, PhasePeak]) -> tuple[str, PhasePeak]:
    """The part that reached the peak; "redraw" if none of them did, but what a method does before its step."""
    peaks = {name: phases[name] for name in (*PARTS, "train") if name in phases}
    name = max(peaks, key=lambda name: peaks[name].live_bytes)  # the first of equals
    return ("redraw" if name == "train" else name), peaks[name]


def _model(config: Any, conditions: Conditions) -> nn.Module:
    """The model of this configuration, with an attention that needs no data."""
    make = functools.partial(random_model, config, precision=conditions.precision, device="cpu")
    if conditions.attention == "eager" or _is_windowed(config, conditions):
        return make(attention=conditions.attention)
    _check_fused_attention(config, conditions.attention)
    try:
        return make(attention=_maskless())
    except KeyError as error:
        if error.args != (MASKLESS,):
            raise
        return make(attention="sdpa")  # a model (Falcon) with a list of its own: its mask is counted, too much by that


def _check_fused_attention(config: Any, attention: str) -> None:
    """Raise InputError if models of this kind have no fused attention, or no attention at all."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not model._supports_sdpa:
        raise InputError(f"attention: {config.model_type!r} models have no {attention}; legal: eager.")


def _is_windowed(config: Any, conditions: Conditions) -> bool:
    """Whether the sequence is longer than a sliding window, so that transformers gives sdpa a mask in earnest."""
    window = getattr(config, "sliding_window", None)
    return conditions.attention == "sdpa" and window is not None and conditions.sequence_length > window


def _window(config: Any, conditions: Conditions) -> list[Batch]:
    return synthetic_window(config.vocab_size, conditions, "cpu", seed=0)


@functools.cache
def _maskless() -> str:
    """The name of transformers' sdpa attention without a mask, which it builds only for tensors without data, and
    without dropout, for which fused kernels on CUDA keep no memory, while the CPU has none that drop. Where there are
    more keys than queries (a learned prefix) a mask is there in earnest.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attention(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **arguments: Any) -> Any:
        shape = (len(query), 1, query.shape[2], key.shape[2])  # batch, heads, queries, keys
        mask = None if shape[2] == shape[3] else torch.ones(shape, dtype=torch.bool, device=query.device)
        return sdpa_attention_forward(module, query, key, value, mask, **{**arguments, "dropout": 0.0})

    AttentionInterface.register(MASKLESS, attention)
    return MASKLESS
