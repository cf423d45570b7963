"""Will it fit? A simulated peak against a card's memory, and the largest batch and sequence that still fit.

    room = Room("24GiB", 24 * 2**30, card=None, records=())
    answer = fit(Question(read_config("llama-2-7b"), "lisa", {"gamma": 2}, Conditions(), room))
    answer.fits, answer.spare_bytes, answer.largest_batch, answer.largest_sequence

*Predicted* is the peak of all tensors (`simulator.py`); *needed* is that and a margin for what no simulation sees
(`margin.py`); it fits if the card has what is needed. The largest batch and sequence are found by simulating them:
straight lines through what each phase needs say where to look next, and the search ends when n fits and the next does
not. `fit_all` answers several questions, a process each.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from workflow.engine.errors import InputError
from workflow.engine.margin import Margin, margin

if TYPE_CHECKING:  # a mistake in a question is found without loading torch
    from transformers import PretrainedConfig

    from workflow.engine.cards import Card
    from workflow.engine.simulator import Simulation
    from workflow.engine.training_step import Conditions

SEQUENCE_UNIT_TOKENS = 64  # lengths searched are multiples of it, or of all positions of a model with fewer
BATCH_LIMIT = 4096  # sequences; the search looks no further
SEQUENCE_LIMIT_TOKENS = 2**20  # likewise, for a model without a limit of its own
LEAP = 16  # nothing is simulated at more than so many times what is known to fit

Report = Callable[[str], None]


@dataclass(frozen=True)
class Room:
    """The memory there is."""

    name: str  # as the user gave it
    memory_bytes: int
    card: Card | None  # None where only a size was given
    records: Sequence[Mapping[str, Any]] = ()  # measured runs, from which the margin is calibrated

    def margin(self, predicted_bytes: int) -> Margin:
        """What comes on top of a predicted peak."""
        return margin(self.card, predicted_bytes, self.records)

    def needed(self, predicted_bytes: int) -> int:
        """A predicted peak with its margin."""
        return predicted_bytes + self.margin(predicted_bytes).bytes


@dataclass(frozen=True)
class Question:
    """What to fit where; `search` also asks for the largest batch and sequence."""

    config: PretrainedConfig
    method: str
    hyperparameters: Mapping[str, Any]
    conditions: Conditions
    room: Room
    search: bool = True


@dataclass(frozen=True)
class Answer:
    """Simulated at the question's conditions, or the reason why that cannot be done."""

    question: Question
    simulation: Simulation | None = None
    reason: str | None = None
    largest_batch: int | None = None  # at the question's sequence length; 0: not even 1 fits; None: not searched
    largest_sequence: int | None = None  # at the question's batch size
    with_checkpointing: Simulation | None = None  # if the question does not fit, and did not ask for it already
    simulations: int = 0
    elapsed_s: float = 0.0

    @cached_property
    def margin(self) -> Margin:
        """What no simulation sees."""
        return self.question.room.margin(self._found().peak_bytes)

    @property
    def needed_bytes(self) -> int:
        """Predicted peak and margin."""
        return self._found().peak_bytes + self.margin.bytes

    @property
    def spare_bytes(self) -> int:
        """What the card has left; negative if it is short."""
        return self.question.room.memory_bytes - self.needed_bytes

    @property
    def fits(self) -> bool:
        """Whether the card has what is needed."""
        return self.spare_bytes >= 0

    @property
    def weights_fit(self) -> bool:
        """Whether the model can be loaded; if not, no batch, no length and no checkpointing changes that."""
        room = self.question.room
        return room.needed(self._found().phases["load"]) <= room.memory_bytes

    @property
    def checkpointing_fits(self) -> bool | None:
        """Whether gradient checkpointing would make it fit; None if that was not simulated."""
        if self.with_checkpointing is None:
            return None
        room = self.question.room
        return room.needed(self.with_checkpointing.peak_bytes) <= room.memory_bytes

    def as_json(self) -> dict[str, Any]:
        """Every key always stands; null where nothing was simulated, searched or asked."""
        question, simulation = self.question, self.simulation
        found = simulation is not None
        return {
            "method": question.method,
            "hyperparameters": dict(question.hyperparameters),
            "conditions": asdict(question.conditions),
            "status": "ok" if found else "not simulated",
            "reason": self.reason,
            "predicted_peak_bytes": simulation.peak_bytes if found else None,
            "peak_phase": simulation.phase if found else None,
            "peak_operator": simulation.operator if found else None,
            "phases": dict(simulation.phases) if found else None,
            "components": dict(simulation.components) if found else None,
            "margin_bytes": self.margin.bytes if found else None,
            "margin_calibrated": self.margin.calibrated if found else None,
            "margin_text": self.margin.text if found else None,
            "needed_bytes": self.needed_bytes if found else None,
            "fits": self.fits if found else None,
            "spare_bytes": self.spare_bytes if found else None,
            "largest_batch": self.largest_batch,
            "largest_batch_limit": BATCH_LIMIT,
            "largest_sequence": self.largest_sequence,
            "largest_sequence_limit": sequence_limit(question),
            "checkpointing_peak_bytes": self.with_checkpointing.peak_bytes if self.with_checkpointing else None,
            "checkpointing_fits": self.checkpointing_fits,
            "parameters": simulation.parameters if found else None,
            "trainable_parameters": simulation.trainable_parameters if found else None,
            "simulations": self.simulations,
            "elapsed_s": round(self.elapsed_s, 1),
        }

    def _found(self) -> Simulation:
        if self.simulation is None:
            raise ValueError(f"Method {self.question.method} was not simulated: {self.reason}")
        return self.simulation


# --- one question


def fit(question: Question, report: Report = lambda line: None) -> Answer:
    """Simulate what is asked, then search; `report` hears of every simulation.

    Raises:
        InputError: the method or the conditions do not suit the model.
    """
    started = time.perf_counter()
    check(question)
    trials = Trials(question, report)
    answer = Answer(question, trials(question.conditions))
    if question.search and answer.weights_fit:
        batch = largest_batch(trials)
        answer = replace(answer, largest_batch=batch, largest_sequence=largest_sequence(trials, batch))
    elif question.search:
        answer = replace(answer, largest_batch=0, largest_sequence=0)
    if answer.weights_fit and not answer.fits:
        answer = replace(answer, with_checkpointing=with_checkpointing(trials))
    return replace(answer, simulations=len(trials.known), elapsed_s=time.perf_counter() - started)


def check(question: Question) -> None:
    """Raise InputError unless the method and the conditions go together, and with the model."""
    import baselines
    from workflow.engine.abilities import check_abilities
    from workflow.engine.shapes import check_room
    from workflow.engine.step_in_backward import check_step_in_backward
    from workflow.engine.training_step import build_method

    conditions, method = question.conditions, question.method
    check_abilities(method, baselines.method_class(method), asdict(conditions))
    if conditions.step_in_backward:
        check_step_in_backward(conditions.accumulation_steps, conditions.max_grad_norm, method)
    try:
        built = build_method(method, question.hyperparameters, conditions, seed=0)
        built.check(question.config.to_dict())
        check_room(built, question.config.to_dict(), conditions.sequence_length)
    except ValueError as error:
        raise InputError(f"{method} on this model: {error}") from error


class Trials:
    """Simulations of one question under varied conditions, each made once."""

    def __init__(self, question: Question, report: Report) -> None:
        self.question, self.report = question, report
        self.room_bytes = question.room.memory_bytes
        self.known: dict[Conditions, Simulation] = {}

    def __call__(self, conditions: Conditions) -> Simulation:
        """What is simulated under these conditions."""
        if conditions not in self.known:
            self.known[conditions] = self._simulate(conditions)
        return self.known[conditions]

    def needed(self, **changed: int) -> dict[str, int]:
        """Bytes that each phase needs, margin included, with these conditions in place of the question's."""
        simulation = self(replace(self.question.conditions, **changed))
        peaks = {**simulation.phases, "peak": simulation.peak_bytes}  # which may lie before a step, in a redraw
        return {name: self.question.room.needed(peak) for name, peak in peaks.items()}

    def _simulate(self, conditions: Conditions) -> Simulation:
        from workflow.engine.simulator import simulate

        question = self.question
        try:
            simulation = simulate(question.config, question.method, dict(question.hyperparameters), conditions)
        except ValueError as error:  # of what only a look at the model finds
            raise InputError(f"{question.method} on this model: {' '.join(str(error).split())}") from error
        checkpointed = ", checkpointing" if conditions.gradient_checkpointing else ""
        self.report(
            f"{question.method}: batch {conditions.batch_size} x {conditions.sequence_length} tokens{checkpointed}:"
            f" {simulation.peak_bytes / 1e9:.2f} GB, simulated in {simulation.simulated_s:.1f} s"
        )
        return simulation


def largest_batch(trials: Trials) -> int:
    """Most sequences of the question's length that fit; 0 if not one does."""
    begin = [trials.question.conditions.batch_size]
    return largest_that_fits(lambda n: trials.needed(batch_size=n), trials.room_bytes, BATCH_LIMIT, begin)


def largest_sequence(trials: Trials, batch: int) -> int:
    """The longest sequence, in whole units or as asked, that fits at the question's batch size; 0 if not one unit does.

    Args:
        batch: the largest that fits, which says about where to look: memory goes by tokens, but for eager attention.
    """
    asked, limit = trials.question.conditions, sequence_limit(trials.question)
    unit = min(SEQUENCE_UNIT_TOKENS, limit)
    steps = -(-limit // unit)  # the last one ends at the limit

    def tokens_of(units: int) -> int:
        return min(units * unit, limit)

    begin = [max(1, asked.sequence_length // unit)]
    if 0 < batch < BATCH_LIMIT:
        here, there = trials.needed(batch_size=batch), trials.needed(batch_size=batch + 1)
        tokens = asked.sequence_length * (batch + (trials.room_bytes - here["peak"]) / (there["peak"] - here["peak"]))
        begin.append(int(tokens / asked.batch_size / unit))
    units = largest_that_fits(lambda n: trials.needed(sequence_length=tokens_of(n)), trials.room_bytes, steps, begin)
    asked_fits = trials.needed(sequence_length=asked.sequence_length)["peak"] <= trials.room_bytes
    return max(tokens_of(units), asked.sequence_length if asked_fits else 0)


def sequence_limit(question: Question) -> int:
    """Most tokens of a sequence that are tried."""
    from workflow.engine.shapes import positions
    from workflow.engine.training_step import build_method

    most = positions(question.config.to_dict())
    method = build_method(question.method, question.hyperparameters, question.conditions, seed=0)
    return SEQUENCE_LIMIT_TOKENS if most is None else most - method.extra_positions()


def with_checkpointing(trials: Trials) -> Simulation | None:
    """The same with gradient checkpointing; None if that was asked for already, or if method or model have none."""
    import baselines

    question, conditions = trials.question, trials.question.conditions
    able = "checkpointing" not in baselines.method_class(question.method).limits()
    if conditions.gradient_checkpointing or not able or not _can_checkpoint(question.config):
        return None
    return trials(replace(conditions, gradient_checkpointing=True))


def _can_checkpoint(config: PretrainedConfig) -> bool:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return bool(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].supports_gradient_checkpointing)


# --- the search


def largest_that_fits(
    needed: Callable[[int], Mapping[str, int]], room: int, limit: int, begin: Sequence[int] = (1,)
) -> int:
    """The largest n of 1..limit that fits, confirmed: n + 1 does not, or n is the limit. 0 if 1 does not fit.

    Args:
        needed: bytes by phase at n; no phase needs fewer as n grows. Every call costs a simulation.
        room: bytes there are for the neediest phase.
        begin: the n to begin with.
    """
    known: dict[int, Mapping[str, int]] = {}
    fits, fails = 0, limit + 1
    while fails - fits > 1:
        guess = begin[len(known)] if len(known) < len(begin) else _guess(known, fits, fails, room)
        n = min(max(guess, fits + 1), fails - 1)
        known[n] = needed(n)
        if max(known[n].values()) <= room:
            fits = n
        else:
            fails = n
    return fits


def _guess(known: Mapping[int, Mapping[str, int]], fits: int, fails: int, room: int) -> int:
    """Where to look next: on straight lines at first; in halves if they do not lead there."""
    if not fits:
        return 1  # often nothing fits: see at once
    if fails in known:
        halving = len(known) > 5 and len(known) % 2 == 0
        return (fits + fails) // 2 if halving else _crossing(known, fits, fails, room)
    if len(known) == 1:
        return 2 * fits
    first, second = sorted(known)[-2:]
    return min(_crossing(known, first, second, room), LEAP * fits)


def _crossing(known: Mapping[int, Mapping[str, int]], first: int, second: int, room: int) -> int:
    """The last n before a phase outgrows the room, each on the straight line through two known points."""
    crossings = [sys.maxsize]
    for name, there in known[second].items():
        here = known[first][name]
        if there > here:
            crossings.append(first + (room - here) * (second - first) // (there - here))
    return min(crossings)


# --- several questions


def fit_all(questions: Sequence[Question], report: Report = lambda line: None) -> list[Answer]:
    """Answer each in a process of its own, as many at a time as there are cores; by predicted peak, smallest first.

    A question that cannot be answered has its reason, and stands last.
    """
    answers = []
    workers = min(len(questions), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=prepare_process) as pool:
        futures = {pool.submit(fit, question): question for question in questions}
        for future in as_completed(futures):
            answers.append(_outcome(futures[future], future))
            report(f"{answers[-1].question.method}: {len(answers)} of {len(questions)} methods done")
    return sorted(answers, key=_rank)


def _outcome(question: Question, future: Future[Answer]) -> Answer:
    error = future.exception()
    if error is None:
        return future.result()
    words = " ".join(str(error).split())
    return Answer(question, reason=words if isinstance(error, InputError) else f"{type(error).__name__}: {words}")


def _rank(answer: Answer) -> tuple[bool, int, str]:
    simulation = answer.simulation
    return simulation is None, simulation.peak_bytes if simulation else 0, answer.question.method


def prepare_process() -> None:
    """What a process that simulates needs to be told before it loads torch: one thread, and no chatter."""
    os.environ["OMP_NUM_THREADS"] = "1"  # nothing is computed
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import that it has no kernels for this CPU
    warnings.simplefilter("ignore")
