"""LISA in TRL's SFTTrainer: the callback of transformers.Trainer.

    pip install trl
    python examples/trl_lisa.py

A tiny random Llama learns to go on counting, in seconds on a CPU, from a tokenizer and a dataset made here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded here; a real model needs this line gone

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run from a clone that is not installed
from lisa.trainer import LISACallback

STEPS, PERIOD_STEPS, GAMMA = 40, 8, 2
NUMBERS = 64


def main() -> None:
    torch.manual_seed(0)
    disable_progress_bars()
    tokenizer = tokenizer_of_numbers()
    # model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B", dtype=torch.bfloat16)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 6}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes))
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            bf16=False,
            logging_steps=PERIOD_STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        lisa = LISACallback(gamma=GAMMA, period_steps=PERIOD_STEPS)  # draws with the Trainer's seed, unless given one
        callbacks = [lisa, Show(lisa)]
        trainer = SFTTrainer(model, args, train_dataset=counting(), processing_class=tokenizer, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)  # prints every log whole
        before = mean_loss(trainer)
        trainer.train()
        after = mean_loss(trainer)
    print(f"loss {before:.4f} before training, {after:.4f} after it: {after / before:.3f} of it")


def tokenizer_of_numbers() -> PreTrainedTokenizerFast:
    """Every number is a word."""
    words = ["<pad>", "</s>", *(str(number) for number in range(NUMBERS))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def counting() -> Dataset:
    """From every number on: 4 numbers to go on from, then the 28 that follow, which are learned."""
    rows = [[str((first + index) % NUMBERS) for index in range(32)] for first in range(NUMBERS)]
    return Dataset.from_list([{"prompt": " ".join(row[:4]), "completion": " " + " ".join(row[4:])} for row in rows])


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


def mean_loss(trainer: SFTTrainer) -> float:
    return trainer.evaluate(trainer.train_dataset)["eval_loss"]


if __name__ == "__main__":
    main()
