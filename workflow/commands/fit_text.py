"""What `lisa-bench fit` shows people: an answer, a ranking, and its progress."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import baselines
from workflow.engine.fit import BATCH_LIMIT, Answer, Question, sequence_limit

if TYPE_CHECKING:
    from workflow.engine.training_step import Conditions

LOSS = "log_softmax"  # in the name of the operators of the loss over the vocabulary
WIDTH = 100


class Progress:
    """Lines on stderr: on a terminal each in place of the one before, gone at the end."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __call__(self, line: str) -> None:
        print(f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


# --- one method


def answer_text(model: str, answer: Answer) -> str:
    """The answer for one method."""
    question, simulation = answer.question, answer.simulation
    room = question.room
    operator = (simulation.operator or "no operator").removesuffix(".default")
    optimizer = baselines.method_class(question.method).optimizer_name
    lines = [
        f"{model}, {method_name(question)}, {conditions_name(question.conditions, optimizer)}",
        "",
        _amount("predicted peak", simulation.peak_bytes, f"in {simulation.phase}, at {operator}"),
        _amount("margin", answer.margin.bytes, answer.margin.text),
        _amount("needed", answer.needed_bytes),
        _amount("card", room.memory_bytes, room.name),
        textwrap.fill(verdict(answer), WIDTH, initial_indent="  ", subsequent_indent="  "),
        "",
        *_columns(
            _shares("by component, at the peak", simulation.components), _shares("highest by phase", simulation.phases)
        ),
        "",
        f"  {_trainable(answer)}",
        *_largest(answer),
    ]
    return "\n".join(lines)


def method_name(question: Question) -> str:
    """The method with its first hyper-parameter, where that is a size, and those that are not the default."""
    defaults = vars(baselines.hyperparameters(question.method, {}))
    shown = [
        f"{key} {value}"
        for index, (key, value) in enumerate(question.hyperparameters.items())
        if (index == 0 and isinstance(value, int)) or value != defaults[key]
    ]
    return f"{question.method} ({', '.join(shown)})" if shown else question.method


def conditions_name(asked: Conditions, optimizer: str = "AdamW") -> str:
    """The conditions that every user chooses, and the others where they are not the default."""
    parts = [f"batch {asked.batch_size:,} x {asked.sequence_length:,} tokens", asked.precision, asked.attention]
    parts.append(f"{asked.adamw_implementation} AdamW" if optimizer == "AdamW" else optimizer)
    if asked.gradient_checkpointing:
        parts.append("gradient checkpointing")
    if asked.accumulation_steps > 1:
        parts.append(f"{asked.accumulation_steps} accumulated")
    if asked.loss_chunk_tokens is not None:
        parts.append(f"loss in chunks of {asked.loss_chunk_tokens:,}")
    if asked.step_in_backward:
        parts.append("step in backward")
    if asked.max_grad_norm is None:
        parts.append("no clipping")
    return ", ".join(parts)


def verdict(answer: Answer) -> str:
    """Fits or not, by how much, and what to try."""
    spare = f"{abs(answer.spare_bytes) / 1e9:.2f} GB ({abs(answer.spare_bytes) / 2**30:.2f} GiB)"
    if answer.fits:
        return f"FITS, with {spare} to spare"
    words = f"DOES NOT FIT, short by {spare}"
    if not answer.weights_fit:
        return f"{words}: the weights alone are too large, whatever the method"
    last = answer.with_checkpointing or answer.simulation
    more = "`--method all` ranks the methods"
    if LOSS in (last.operator or "") and answer.question.conditions.loss_chunk_tokens is None:
        more = f"the peak is in the loss over the vocabulary, which --loss-chunk 256 takes in pieces; {more}"
    if answer.with_checkpointing is None:
        return f"{words}; {more}"
    peak = f"{answer.with_checkpointing.peak_bytes / 1e9:.2f} GB predicted"
    if answer.checkpointing_fits:
        return f"{words}; it fits with --checkpointing: {peak}"
    return f"{words}; nor does it with --checkpointing: {peak}; {more}"


def _amount(name: str, size: int, remark: str = "") -> str:
    figures = f"  {name:<16}{size / 1e9:>9.2f} GB {f'({size / 2**30:.2f} GiB)':>14}   "
    return (
        textwrap.fill(remark, WIDTH, initial_indent=figures, subsequent_indent=" " * len(figures)) or figures.rstrip()
    )


def _shares(title: str, sizes: Mapping[str, int]) -> list[str]:
    return [title, *(f"  {name.replace('_', ' '):<16}{size / 1e9:>8.2f} GB" for name, size in sizes.items())]


def _columns(left: list[str], right: list[str]) -> list[str]:
    height = max(len(left), len(right))
    left, right = (side + [""] * (height - len(side)) for side in (left, right))
    return [f"  {a:<34}{b}".rstrip() for a, b in zip(left, right, strict=True)]


def _trainable(answer: Answer) -> str:
    trains, parameters = answer.simulation.trainable_parameters["total"], answer.simulation.parameters
    return f"trains at a time: {trains:,} parameters; the model has {parameters:,}"


def _largest(answer: Answer) -> list[str]:
    asked = answer.question.conditions
    if answer.largest_batch is None or answer.largest_sequence is None:
        return []
    tokens, batch = f"{asked.sequence_length:,} tokens", f"batch {asked.batch_size:,}"
    return [
        f"  largest batch at {tokens}: {_batch(answer)}",
        f"  largest sequence at {batch}: {_sequence(answer)}",
    ]


def _batch(answer: Answer) -> str:
    largest = answer.largest_batch
    if not largest:
        return "none fits" if largest == 0 else "-"
    return f"{largest:,} or more" if largest == BATCH_LIMIT else f"{largest:,}"


def _sequence(answer: Answer) -> str:
    largest = answer.largest_sequence
    if not largest:
        return "none fits" if largest == 0 else "-"
    return f"{largest:,} (the model's limit)" if largest == sequence_limit(answer.question) else f"{largest:,}"


# --- several methods


def ranking_text(model: str, answers: list[Answer]) -> str:
    """A row for each method, best first; those that could not be simulated with the reason."""
    room = answers[0].question.room
    shared = min((answer.question.conditions for answer in answers), key=lambda asked: asked.step_in_backward)
    found = [answer for answer in answers if answer.simulation]
    heads = ["", "method", "predicted GB", "needed GB", "fits", "spare GB", "max batch", "max sequence", "trainable"]
    lines = [
        f"{model}, {conditions_name(shared)}",
        f"on {room.name}: {room.memory_bytes / 1e9:.2f} GB ({room.memory_bytes / 2**30:.2f} GiB)",
        "",
        *_table([heads, *(_row(rank, answer) for rank, answer in enumerate(found, 1))]),
        *(f"  -  {missing.question.method}: not simulated: {missing.reason}" for missing in answers[len(found) :]),
        "",
    ]
    if found:
        lines.append(f"  margin: {found[0].margin.text}")
    lines.append("  max batch, max sequence: with the other one as given; trainable: parameters at a time")
    return "\n".join(lines)


def _row(rank: int, answer: Answer) -> list[str]:
    return [
        f"{rank}",
        method_name(answer.question),
        f"{answer.simulation.peak_bytes / 1e9:.2f}",
        f"{answer.needed_bytes / 1e9:.2f}",
        "yes" if answer.fits else "no",
        f"{answer.spare_bytes / 1e9:+.2f}",
        _batch(answer),
        _sequence(answer),
        f"{answer.simulation.trainable_parameters['total']:,}",
    ]


def _table(rows: list[list[str]]) -> list[str]:
    """Aligned columns: the second one's words to the left, all else to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = [
        [cell.ljust(width) if index == 1 else cell.rjust(width) for cell in column]
        for index, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return [f"  {'  '.join(row)}".rstrip() for row in zip(*aligned, strict=True)]
