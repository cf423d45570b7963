"""The training loop on a tiny Llama and a learnable task, for the tests of the loop and of its settings."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

import baselines
from baselines.contract import AdamWSettings
from tests.models import suited
from workflow.engine.data import Example
from workflow.engine.memory import MemoryMeter
from workflow.engine.speed import StepClock
from workflow.engine.tracking import Tracking
from workflow.engine.training import Loop, LoopResult, LoopSettings

STEPS = 20
BATCH = 2


def tiny_llama(method: str = "full") -> nn.Module:
    """Or a Qwen2 of this size for a method that refuses a Llama."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(suited(method, config))


def examples(count: int, seed: int = 0) -> list[Example]:
    """Sequences of unequal length in which every token is the one before plus one, the first third masked."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        length, start = draw.randrange(6, 20), draw.randrange(1, 40)
        ids = [start + place for place in range(length)]
        made.append(Example(ids, [-100] * (length // 3) + ids[length // 3 :]))
    return made


def settings(**changes: object) -> LoopSettings:
    values = {
        "steps": STEPS,
        "batch_size": BATCH,
        "accumulation_steps": 1,
        "schedule": "cosine",
        "warmup_steps": 3,
        "max_grad_norm": 1.0,
        "precision": "fp32",
        "evaluate_every_steps": None,
        "checkpoint_every_steps": None,
        "untimed_steps": 2,
        "metered_steps": 2,
    }
    return LoopSettings(**(values | changes))  # type: ignore[arg-type]


def make_loop(
    folder: Path,
    method: str = "full",
    seed: int = 0,
    items: list[Example] | None = None,
    model: nn.Module | None = None,
    hyperparameters: dict[str, Any] | None = None,
    adamw: str = "fused",
    tracking: Tracking | None = None,
    **changes: object,
) -> Loop:
    """A run of `method` in `folder`, which is made; `hyperparameters` and `changes` of settings over the small ones."""
    folder.mkdir(exist_ok=True)
    AcceleratorState._reset_state(reset_partial_state=True)  # precision is a setting of the process in accelerate
    torch.manual_seed(seed)
    if baselines.method_class(method).steps_in_backward:
        changes = {"max_grad_norm": None, **changes}
    shared = AdamWSettings(weight_decay=0.01, implementation=adamw)
    return Loop(
        tiny_llama(method) if model is None else model,
        baselines.build(method, {**baselines.method_class(method).small, **(hyperparameters or {})}, shared, seed),
        settings(**changes),
        train=items or examples(160),
        validation=examples(6, seed=1),
        learning_rate=5e-3,
        seed=seed,
        pad_token_id=0,
        folder=folder,
        meter=MemoryMeter("cpu"),
        clock=StepClock(2),
        tracking=tracking,
    )


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def assert_same_weights(first: LoopResult, second: LoopResult) -> None:
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def kill_at_step(loop: Loop, last: int) -> None:
    """Run `loop` until it dies before step `last`."""
    step_of = loop._step

    def die(step: int, *arguments: object, **keywords: object) -> dict[str, object]:
        if step == last:
            raise KeyboardInterrupt
        return step_of(step, *arguments, **keywords)  # type: ignore[arg-type]

    loop._step = die  # type: ignore[method-assign,assignment]
    with contextlib.suppress(KeyboardInterrupt):
        loop.run()
    assert loop.progress.step == last
