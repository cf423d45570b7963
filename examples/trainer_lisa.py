"""LISA in transformers.Trainer: one callback.

    python examples/trainer_lisa.py

A tiny random Llama learns to count, in seconds on a CPU. `train(resume_from_checkpoint=...)` works as ever: what LISA
needs is in trainer_state.json.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run from a clone that is not installed
from lisa.trainer import LISACallback

STEPS, PERIOD_STEPS, GAMMA = 40, 8, 2
ROWS, TOKENS, VOCABULARY = 8, 32, 64


def main() -> None:
    torch.manual_seed(0)
    # model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B", dtype=torch.bfloat16)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 6}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            logging_steps=PERIOD_STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        lisa = LISACallback(gamma=GAMMA, period_steps=PERIOD_STEPS)  # draws with the Trainer's seed, unless given one
        trainer = Trainer(model, args, train_dataset=sequences(), callbacks=[lisa, Show(lisa)])
        trainer.remove_callback(PrinterCallback)  # prints every log whole
        before = mean_loss(trainer)
        trainer.train()
        after = mean_loss(trainer)
    print(f"loss {before:.4f} before training, {after:.4f} after it: {after / before:.3f} of it")


class Show(TrainerCallback):
    """Prints, where the Trainer logs, which layers train and what the optimizer holds."""

    def __init__(self, callback: LISACallback) -> None:
        self.callback = callback

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        lisa = self.callback.lisa
        if lisa is not None and "loss" in more["logs"]:
            drawn = ", ".join(lisa.units[index] for index in lisa.active)
            held = sum(tensor.nbytes for moments in lisa.optimizer.state.values() for tensor in moments.values())
            print(f"step {state.global_step:2}  {drawn}  optimizer state {held} bytes  loss {more['logs']['loss']:.4f}")


def sequences() -> list[dict[str, Tensor]]:
    """One of TOKENS tokens from every number of the vocabulary, counting up."""
    rows = [(first + torch.arange(TOKENS)) % VOCABULARY for first in range(VOCABULARY)]
    return [{"input_ids": row, "labels": row} for row in rows]


def mean_loss(trainer: Trainer) -> float:
    return trainer.evaluate(trainer.train_dataset)["eval_loss"]


if __name__ == "__main__":
    main()
