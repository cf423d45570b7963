"""Which layers are drawn: pure functions of (seed, period, weights), the same on every machine, rank and torch version.

No generator is kept, so a run resumes at any step and nothing else that draws can disturb it.

draw_uniform      exactly gamma, uniformly without replacement: LISA of arXiv 2403.17919 v3, Algorithm 1; the default.
draw_independent  every layer by itself with probability p_l: v1, Algorithm 1. How many are active, and with it the peak
                  of memory, is random.
draw_weighted     exactly gamma, without replacement, heavier layers more often.
draw_adaptive     exactly gamma, by the gradient norms seen so far. Beyond the paper.

A layer's weight can be the paper's ratio of norms, `paper_weights`; none of its experiments uses one.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Sequence

SAMPLERS = ("uniform", "independent", "weighted", "adaptive")
EXPLORATION = 0.1  # share of the adaptive sampler's weights that gradients have no say in


def draw_uniform(seed: int, period: int, layers: int, gamma: int) -> tuple[int, ...]:
    """Exactly `gamma` of `layers` layer indices, ascending, uniform without replacement (v3, Algorithm 1).

    Every layer gets a uniform number, and the `gamma` smallest win.

    Raises:
        ValueError: `gamma` outside 0..layers.
    """
    check_gamma(gamma, layers)
    return _smallest(uniforms(seed, period, layers), gamma)


def draw_independent(seed: int, period: int, probabilities: Sequence[float]) -> tuple[int, ...]:
    """Indices of the layers that are on, ascending; layer l is with probability p_l, whatever the others are (v1).

    The paper's p_l is gamma / N_L for every decoder layer: `inclusion_probabilities` of equal weights.

    Raises:
        ValueError: a probability outside 0..1.
    """
    for index, probability in enumerate(probabilities):
        if not 0 <= probability <= 1:
            raise ValueError(f"The probability to draw layer {index} is {probability}; legal: 0..1.")
    keys = uniforms(seed, period, len(probabilities))
    return tuple(index for index, probability in enumerate(probabilities) if keys[index] < probability)


def draw_weighted(seed: int, period: int, weights: Sequence[float], gamma: int) -> tuple[int, ...]:
    """Exactly `gamma` indices, ascending: drawn one after the other, each time by weight among those that are left.

    Every layer gets an exponential waiting time of rate w_l, and the `gamma` shortest win (Efraimidis and Spirakis
    2006, doi 10.1016/j.ipl.2005.11.003). With equal weights these are the draws of `draw_uniform`.

    Raises:
        ValueError: `gamma` outside 0..number of weights; a weight that is not a positive, finite number.
    """
    check_gamma(gamma, len(weights))
    check_weights(weights, len(weights))
    return _smallest(_waiting_times(seed, period, weights), gamma)


def draw_adaptive(
    seed: int, period: int, norms: Sequence[float | None], gamma: int, exploration: float = EXPLORATION
) -> tuple[int, ...]:
    """Exactly `gamma` indices, ascending: layers never seen come first, the others by their gradient norm.

    Beyond the LISA paper: layer importance as the mean gradient norm is the idea of GRASS (arXiv 2604.07808), and that
    some draws explore that of AdaGradSelect (arXiv 2512.15764); the rule here is neither's to the letter. A layer's
    weight is its share of the sum of norms, mixed with a uniform share of `exploration`.

    Args:
        norms: of every layer's gradient when it was last active; None where it never was.
    """
    check_gamma(gamma, len(norms))
    times = _waiting_times(seed, period, _shares(norms, exploration))
    order = sorted(range(len(norms)), key=lambda index: (norms[index] is not None, times[index]))
    return tuple(sorted(order[:gamma]))


def inclusion_probabilities(weights: Sequence[float], gamma: float) -> list[float]:
    """p_l proportional to w_l, at most 1, with sum `gamma`: so many layers are active on average.

    Raises:
        ValueError: a weight that is not a positive, finite number.
    """
    check_weights(weights, len(weights))
    certain: set[int] = set()  # layers whose share would exceed 1
    while True:
        rest = sum(weight for index, weight in enumerate(weights) if index not in certain)
        scale = (gamma - len(certain)) / rest if rest else 0.0
        over = {index for index, weight in enumerate(weights) if index not in certain and weight * scale > 1}
        if not over:
            return [1.0 if index in certain else weight * scale for index, weight in enumerate(weights)]
        certain |= over


def paper_weights(lora_norms: Sequence[float], full_norms: Sequence[float]) -> list[float]:
    """p_l = w~_l / w_l of arXiv 2403.17919, section 3.2: mean norm of layer l under LoRA over that under full FT.

    Raises:
        ValueError: lists of different lengths; a norm that is not a positive, finite number.
    """
    if len(lora_norms) != len(full_norms):
        counts = f"{len(lora_norms)} under LoRA and {len(full_norms)} under full fine-tuning"
        raise ValueError(f"There are norms of {counts} layers; legal: as many of each.")
    check_weights(lora_norms, len(lora_norms))
    check_weights(full_norms, len(full_norms))
    return [lora / full for lora, full in zip(lora_norms, full_norms, strict=True)]


def uniforms(seed: int, period: int, count: int) -> list[float]:
    """`count` uniform numbers in [0, 1), each a hash of (seed, period, index): a counter-based generator.

    Such generators are Salmon et al.'s (2011, doi 10.1145/2063384.2063405); any good hash will do as their function.
    """
    return [_uniform(f"lisa:{seed}:{period}:{index}") for index in range(count)]


def check_gamma(gamma: int, layers: int) -> None:
    """Raise ValueError unless `gamma` is a whole number in 0..layers."""
    if isinstance(gamma, bool) or not isinstance(gamma, int) or not 0 <= gamma <= layers:
        legal = f"0..{layers}, as many as there are to draw from"
        raise ValueError(f"gamma, the number of layers drawn each period, is {gamma!r}; legal: {legal}.")


def check_sampler(sampler: str) -> None:
    """Raise ValueError unless `sampler` is the name of one."""
    if sampler not in SAMPLERS:
        raise ValueError(f"Unknown sampler {sampler!r}. Known: {', '.join(SAMPLERS)}.")


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raise ValueError unless there are `count` weights, all positive and finite."""
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} layers to draw from; legal: one each.")
    for index, weight in enumerate(weights):
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real) or not 0 < weight < math.inf:
            raise ValueError(f"The weight of layer {index} is {weight!r}; legal: a positive, finite number.")


def _shares(norms: Sequence[float | None], exploration: float) -> list[float]:
    """Weights by norm; 1 for a layer never seen, and for all where every gradient was zero."""
    seen = [norm for norm in norms if norm is not None]
    mean = sum(seen) / len(seen) if seen else 0.0
    by_gradient = [norm / mean if norm is not None and mean > 0 else 1.0 for norm in norms]
    return [(1 - exploration) * weight + exploration for weight in by_gradient]


def _waiting_times(seed: int, period: int, rates: Sequence[float]) -> list[float]:
    """One exponential variate a layer; ascending in its uniform number."""
    return [-math.log1p(-u) / rate for u, rate in zip(uniforms(seed, period, len(rates)), rates, strict=True)]


def _smallest(keys: Sequence[float], count: int) -> tuple[int, ...]:
    """Indices of the `count` smallest keys, ascending."""
    return tuple(sorted(sorted(range(len(keys)), key=keys.__getitem__)[:count]))


def _uniform(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # a float holds 53 bits
