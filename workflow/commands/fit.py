"""Does this fine-tuning fit this GPU, and what is the largest batch and sequence that do?

Simulated on this machine without a GPU: the real model, method and optimizer run two steps on tensors without data.

  lisa-bench fit llama-2-7b --method lisa --gpu 24GiB
  lisa-bench fit meta-llama/Llama-2-7b-hf --method lora --gpu "RTX 4090" --set rank=256 --batch 4 --checkpointing
  lisa-bench fit checkpoints/mine --method all --gpu A100-80GB --sequence 2048
  lisa-bench fit llama-2-70b --method lisa --gpu 80GiB --json | jq .fits

GB is 1e9 bytes, GiB 2^30. It fits if the card holds the predicted peak and a margin for what a simulation cannot see:
CUDA's context, workspaces of kernels, fragmentation. Lengths are searched in steps of 64 tokens. Exit code 0: answered,
whether it fits or not; 2: bad input.

--json prints one object: model, gpu, gpu_memory_bytes, method, hyperparameters, conditions, status ("ok" or "not
simulated", with reason), predicted_peak_bytes with peak_phase and peak_operator, phases and components (bytes by name),
margin_bytes, margin_calibrated, margin_text, needed_bytes, fits, spare_bytes (negative: short), largest_batch and
largest_sequence (0: none fits; null: not searched) up to largest_batch_limit and largest_sequence_limit,
checkpointing_peak_bytes and checkpointing_fits (null: it fits without, has it already, or cannot), parameters,
trainable_parameters (sampled: of those that train while drawn, at a time), simulations, elapsed_s.
With several methods: model, gpu, gpu_memory_bytes and `methods`, a list of the rest by predicted peak.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import baselines
from workflow.engine.errors import InputError
from workflow.form import hint, typed

if TYPE_CHECKING:  # help and mistakes answer without loading torch
    from workflow.engine.fit import Question, Room
    from workflow.engine.training_step import Conditions

KINDS = {  # the default first
    "--precision": ("bf16", "fp32", "bf16-mixed"),
    "--attention": ("sdpa", "eager", "flash_attention_2"),
    "--adamw": ("fused", "foreach", "for-loop"),
}
SUMMARY = "does a method fit a GPU, by how much, and what is the largest batch and sequence?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lisa-bench fit`."""
    parser.add_argument("model", metavar="MODEL", help="a bundled shape (llama-2-7b), a hub id, or a folder")
    parser.add_argument("--method", required=True, help=f"{', '.join(baselines.names())}; several with commas; or all")
    parser.add_argument("--gpu", required=True, help='a card ("RTX 4090", A100-80GB) or its memory (24GiB, 24GB)')
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a hyper-parameter, repeatable")
    parser.add_argument("--no-search", action="store_true", help="skip the largest batch and sequence")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    add = parser.add_argument_group("conditions of training").add_argument
    add("--batch", type=_whole, default=1, metavar="N", help="sequences of a forward pass (1)")
    add("--sequence", type=_whole, default=1024, metavar="TOKENS", help="tokens of each (1024)")
    add("--accumulation", type=_whole, default=1, metavar="N", help="forward passes of an optimizer step (1)")
    for option, kinds in KINDS.items():
        add(option, choices=kinds, default=kinds[0], metavar="KIND", help="%(choices)s (%(default)s)")
    add("--checkpointing", action="store_true", help="gradient checkpointing")
    add("--max-grad-norm", type=_norm, metavar="NORM", help="or none (1.0; none with a step in backward)")
    add("--loss-chunk", type=_whole, metavar="TOKENS", help="tokens whose logits exist at a time (all)")
    add("--step-in-backward", action="store_true", help="update each parameter as soon as its gradient is there")


def run(arguments: argparse.Namespace) -> None:
    """Answer on stdout."""
    from workflow.commands import fit_text
    from workflow.engine.fit import fit, fit_all, prepare_process

    prepare_process()
    room = _room(arguments.gpu)
    settings = dict(_setting(text) for text in arguments.set)
    names = _method_names(arguments.method)
    questions = _questions(arguments, room, names, settings)
    with fit_text.Progress() as report:
        answers = [fit(questions[0], report)] if len(names) == 1 else fit_all(questions, report)
    head = {"schema_version": "1.0.0", "model": arguments.model}
    head |= {"gpu": arguments.gpu, "gpu_memory_bytes": room.memory_bytes}
    if arguments.json:
        rows = [answer.as_json() for answer in answers]
        print(json.dumps(head | (rows[0] if len(names) == 1 else {"methods": rows}), indent=2))
    elif len(names) == 1:
        print(fit_text.answer_text(arguments.model, answers[0]))
    else:
        print(fit_text.ranking_text(arguments.model, answers))


def _room(gpu: str) -> Room:
    from workflow.engine.cards import card_memory_bytes, named_card
    from workflow.engine.fit import Room
    from workflow.engine.margin import load_records

    return Room(gpu, card_memory_bytes(gpu), named_card(gpu), load_records())


def _method_names(given: str) -> list[str]:
    """The methods that are meant, each once."""
    names = baselines.names() if given == "all" else list(dict.fromkeys(word.strip() for word in given.split(",")))
    classes = {}
    for name in names:
        try:
            classes[name] = baselines.method_class(name)
        except ValueError as error:
            raise InputError(f"--method: {error}") from error
    training = [name for name in names if classes[name].trains]
    idle = [name for name in names if name not in training]
    if idle and given != "all":
        raise InputError(f"--method: {idle[0]!r} does not train. Legal: all, or methods that do, such as full.")
    return training


def _questions(arguments: argparse.Namespace, room: Room, names: list[str], settings: dict[str, Any]) -> list[Question]:
    from workflow.engine.fit import Question
    from workflow.engine.shapes import check_length, read_config

    chosen = _hyperparameters(names, settings)
    config = read_config(arguments.model)
    check_length(config, arguments.sequence, "--sequence")
    search = not arguments.no_search
    return [Question(config, name, chosen[name], _conditions(arguments, name), room, search) for name in names]


def _hyperparameters(names: list[str], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All hyper-parameters of each method; a setting is for every method that has it."""
    keys = {name: {field.name for field in fields(baselines.method_class(name).Hyperparameters)} for name in names}
    for key in settings:
        if not any(key in known for known in keys.values()):
            known = "; ".join(f"{name}: {', '.join(sorted(keys[name])) or 'none'}" for name in names)
            close = hint(key, sorted(set().union(*keys.values())))
            raise InputError(f"--set: unknown hyper-parameter {key!r}.{close} Known: {known}.")
    chosen = {}
    for name in names:
        own = {key: value for key, value in settings.items() if key in keys[name]}
        try:
            chosen[name] = asdict(baselines.hyperparameters(name, own))
        except ValueError as error:
            raise InputError(f"--set: {error}") from error
    return chosen


def _conditions(arguments: argparse.Namespace, method: str) -> Conditions:
    from workflow.engine.training_step import Conditions

    stepping = arguments.step_in_backward or baselines.method_class(method).steps_in_backward
    norm = arguments.max_grad_norm or ("none" if stepping else 1.0)
    return Conditions(
        batch_size=arguments.batch,
        sequence_length=arguments.sequence,
        accumulation_steps=arguments.accumulation,
        precision=arguments.precision,
        attention=arguments.attention,
        gradient_checkpointing=arguments.checkpointing,
        adamw_implementation=arguments.adamw,
        max_grad_norm=None if norm == "none" else norm,
        loss_chunk_tokens=arguments.loss_chunk,
        step_in_backward=stepping,
    )


# --- words of the command line


def _whole(word: str) -> int:
    if not re.fullmatch(r"\d+", word) or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1 on")
    return int(word)


def _norm(word: str) -> float | str:
    if word == "none":
        return word
    value = typed(word, {"type": "number"})
    if not isinstance(value, float) or value <= 0:
        raise argparse.ArgumentTypeError(f"{word!r} is neither a number above 0 nor none")
    return value


def _setting(text: str) -> tuple[str, Any]:
    """`key=value` with the value as number, boolean, null, [list] or word, by what it looks like."""
    key, separator, word = text.partition("=")
    if not key or not separator:
        raise InputError(f"--set: {text!r} is not KEY=VALUE.")
    if word.startswith("[") and word.endswith("]"):
        return key, [typed(item.strip(), {}) for item in word[1:-1].split(",") if item.strip()]
    return key, typed(word, {})
