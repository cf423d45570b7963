"""Fit: the search against functions whose answer is known, its arithmetic on played simulations, and real ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from workflow.engine import fit as module
from workflow.engine.errors import InputError
from workflow.engine.fit import Question, Room, fit, fit_all, largest_that_fits
from workflow.engine.margin import ASSUMED_CONTEXT_BYTES, ASSUMED_SHARE
from workflow.engine.training_step import Conditions

GB = 10**9
COMPONENTS = ("weights", "gradients", "optimizer_state", "activations", "temporaries", "other")


# --- the search

Needed = Callable[[int], Mapping[str, int]]


def searched(needed: Needed, room: int, limit: int, begin: list[int]) -> tuple[int, list[int]]:
    """The answer, and where the search looked."""
    looked: list[int] = []

    def watched(n: int) -> Mapping[str, int]:
        looked.append(n)
        return needed(n)

    return largest_that_fits(watched, room, limit, begin), looked


def polynomials(draw: random.Random, degree: int) -> Needed:
    """Four phases, each a polynomial without negative coefficients, so that their maximum is convex."""
    phases = [[draw.uniform(0, 50), draw.uniform(0, 5), draw.choice([0, draw.uniform(0, 0.5)])] for _ in range(4)]
    return lambda n: {
        str(index): int(sum(factor * n**power for power, factor in enumerate(phase[: degree + 1])) * GB)
        for index, phase in enumerate(phases)
    }


@pytest.mark.parametrize(("degree", "most"), [(1, 6), (2, 14)])
def test_largest_is_confirmed_on_both_sides_and_found_in_few_steps(degree: int, most: int):
    draw = random.Random(0)
    for _ in range(2000):
        needed, limit, room = polynomials(draw, degree), draw.choice([16, 64, 4096]), draw.randint(0, 200 * GB)
        found, looked = searched(needed, room, limit, [draw.randint(1, 20)])
        assert all(max(needed(n).values()) <= room for n in looked if n <= found)
        assert all(max(needed(n).values()) > room for n in looked if n > found)
        assert (found in looked or found == 0) and (found + 1 in looked or found == limit)
        assert len(looked) == len(set(looked)) <= most


def test_search_survives_steps_and_kinks_that_no_line_follows():
    for edge in range(0, 65):
        found, looked = searched(lambda n, edge=edge: {"step": 1 if n <= edge else 10**15}, 10, 64, [1])
        assert found == edge and len(looked) <= 14


def test_nothing_that_fits_is_seen_at_once():
    assert searched(lambda n: {"load": 100, "backward": 100 + n}, 50, 4096, [8]) == (0, [8, 1])
    assert searched(lambda n: {"load": 100}, 50, 4096, [1]) == (0, [1])


def test_limit_is_the_largest_where_all_fits():
    found, looked = searched(lambda n: {"backward": n}, 10**9, 4096, [1])
    assert found == 4096 and max(looked) == 4096


# --- the arithmetic, with played simulations: peak = weights + tokens, or the square root of tokens checkpointed


@pytest.fixture
def config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Conditions]:
    """Puts a formula in the simulator's place; the conditions it was asked for."""
    asked: list[Conditions] = []

    def simulate(config: Any, method: str, hyperparameters: Any, conditions: Conditions) -> SimpleNamespace:
        asked.append(conditions)
        tokens = conditions.batch_size * conditions.sequence_length * 10**6
        peak = 10 * GB + (tokens // 10 if conditions.gradient_checkpointing else tokens)
        phases = {"load": 10 * GB, "forward": peak - GB, "backward": peak, "step": 10 * GB}
        return SimpleNamespace(
            peak_bytes=peak,
            phase="backward",
            operator="aten.mm.default",
            phases=phases,
            components={name: peak if name == "weights" else 0 for name in COMPONENTS},
            parameters=5 * GB,
            trainable_parameters={"always": 1, "sampled": 2, "total": 3},
            simulated_s=0.0,
        )

    monkeypatch.setattr("workflow.engine.simulator.simulate", simulate)
    return asked


def room_for(peak_bytes: int) -> Room:
    """Exactly enough for this predicted peak."""
    return Room("test", Room("", 0, None).needed(peak_bytes), None)


def question(config: Any, room: Room, search: bool = True, **conditions: Any) -> Question:
    asked = replace(Conditions(batch_size=2, sequence_length=128), **conditions)
    return Question(config, "full", {}, asked, room, search)


def test_needed_is_the_peak_and_the_margin_and_fits_to_the_byte(config, played):
    peak = 10 * GB + 2 * 128 * 10**6
    answer = fit(question(config, room_for(peak), search=False))
    assert answer.needed_bytes == peak + ASSUMED_CONTEXT_BYTES + round(ASSUMED_SHARE * peak)
    assert answer.fits and answer.spare_bytes == 0
    short = fit(question(config, replace(room_for(peak), memory_bytes=answer.needed_bytes - 1), search=False))
    assert not short.fits and short.spare_bytes == -1


def test_largest_batch_and_sequence_are_those_of_the_formula(config, played):
    answer = fit(question(config, room_for(10 * GB + 420 * 10**6)))
    assert answer.largest_batch == 3  # of 128 tokens
    assert answer.largest_sequence == 192  # two of them
    assert answer.simulations == len(played) == len(set(played))


def test_sequence_stops_at_the_models_positions(config, played):
    assert fit(question(config, room_for(100 * GB), batch_size=1)).largest_sequence == 256
    config.max_position_embeddings = 40
    assert fit(question(config, room_for(100 * GB), sequence_length=20)).largest_sequence == 40


def test_a_length_between_units_that_fits_is_not_lost(config, played):
    answer = fit(question(config, room_for(10 * GB + 2 * 150 * 10**6), sequence_length=150))
    assert answer.fits and answer.largest_sequence == 150


def test_checkpointing_is_tried_where_it_can_help(config, played):
    tight = room_for(10 * GB + 100 * 10**6)
    answer = fit(question(config, tight))
    assert not answer.fits and answer.checkpointing_fits
    assert answer.with_checkpointing.peak_bytes == 10 * GB + 2 * 128 * 10**5
    assert fit(question(config, tight, batch_size=16)).checkpointing_fits is False
    assert fit(question(config, tight, gradient_checkpointing=True)).checkpointing_fits is None
    assert fit(question(config, room_for(100 * GB))).checkpointing_fits is None


def test_weights_that_do_not_fit_end_the_search_at_once(config, played):
    answer = fit(question(config, room_for(10 * GB - 1)))
    assert (answer.largest_batch, answer.largest_sequence, answer.with_checkpointing) == (0, 0, None)
    assert not answer.weights_fit and len(played) == 1


def test_without_search_one_simulation_and_no_claim(config, played):
    answer = fit(question(config, room_for(100 * GB), search=False))
    assert (answer.largest_batch, answer.largest_sequence, len(played)) == (None, None, 1)


# --- real simulations


def test_what_is_found_is_what_the_simulator_says(config):
    from workflow.engine.simulator import simulate

    asked = Conditions(sequence_length=64, precision="fp32")
    room = room_for(8 * 10**6)
    answer = fit(Question(config, "lisa", {"gamma": 1}, asked, room))

    def peak(**changed: int) -> int:
        return simulate(config, "lisa", {"gamma": 1}, replace(asked, **changed)).peak_bytes

    batch, sequence = answer.largest_batch, answer.largest_sequence
    assert batch > 1 and 64 < sequence
    assert peak(batch_size=batch) <= 8 * 10**6 < peak(batch_size=batch + 1)
    assert peak(sequence_length=sequence) <= 8 * 10**6
    assert sequence == 256 or peak(sequence_length=sequence + 64) > 8 * 10**6
    found = answer.as_json()
    assert sum(found["components"].values()) == found["predicted_peak_bytes"] == max(found["phases"].values())
    assert found["needed_bytes"] + found["spare_bytes"] == room.memory_bytes


def test_memory_does_not_fall_as_batch_and_sequence_grow(config):
    from workflow.engine.simulator import simulate

    peaks = {
        (batch, tokens): simulate(config, "lora", {"rank": 4}, Conditions(batch, tokens)).peak_bytes
        for batch, tokens in product((1, 2, 3), (64, 128, 192))
    }
    assert all(peaks[b, t] <= min(peaks[b + 1, t], peaks[b, t + 64]) for b in (1, 2) for t in (64, 128))


def test_several_methods_are_ranked_and_none_is_dropped(config):
    def asking(method: str, **hyperparameters: Any) -> Question:
        room, asked = room_for(GB), Conditions(sequence_length=64)
        return Question(config, method, hyperparameters, asked, room, search=False)

    lines: list[str] = []
    answers = fit_all([asking("lisa", gamma=9), asking("full"), asking("lisa", gamma=1)], lines.append)
    assert [answer.question.method for answer in answers] == ["lisa", "full", "lisa"]
    assert answers[0].simulation.peak_bytes < answers[1].simulation.peak_bytes
    last = answers[2].as_json()
    assert last["status"] == "not simulated" and "is 9; legal: 0..3" in last["reason"]
    assert last["predicted_peak_bytes"] is last["fits"] is None
    assert set(last) == set(answers[0].as_json())
    assert len(lines) == 3


def test_what_does_not_go_together_is_named(config):
    asked = Conditions(sequence_length=64, accumulation_steps=4, max_grad_norm=None, step_in_backward=True)
    with pytest.raises(InputError, match="full: a step in backward.*accumulation_steps is 4"):
        fit(Question(config, "full", {}, asked, room_for(GB)))
    with pytest.raises(InputError, match="lisa on this model: gamma.* is 4; legal: 0..3"):
        fit(Question(config, "lisa", {"gamma": 4}, Conditions(sequence_length=64), room_for(GB)))


def test_a_model_that_is_refused_while_simulating_is_one_line_too(config, monkeypatch):
    def simulate(*_: Any) -> None:
        raise ValueError("The layers\nhave no pockets.")

    monkeypatch.setattr("workflow.engine.simulator.simulate", simulate)
    with pytest.raises(InputError, match=r"^full on this model: The layers have no pockets\.$"):
        fit(question(config, room_for(GB)))


def test_importing_fit_loads_no_torch():
    import subprocess
    import sys

    code = f"import sys, {module.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
