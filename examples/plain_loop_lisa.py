"""LISA in a training loop of your own: two lines more than full fine-tuning.

    python examples/plain_loop_lisa.py

A tiny random Llama learns to count, in seconds on a CPU. Every PERIOD_STEPS steps LISA draws GAMMA of its 6 layers;
these train, together with embeddings, final norm and head, and only these hold optimizer state.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run from a clone that is not installed
from lisa import LISA

STEPS, PERIOD_STEPS, GAMMA = 40, 8, 2
ROWS, TOKENS, VOCABULARY = 8, 32, 64


def main() -> None:
    torch.manual_seed(0)
    # model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B", dtype=torch.bfloat16)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 6}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)  # over everything: LISA does the freezing
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    lisa = LISA(model, optimizer, gamma=GAMMA, period_steps=PERIOD_STEPS, seed=0)

    losses = []
    for step in range(STEPS):
        lisa.before_step(step)  # before the first forward of the step, also when gradients are accumulated
        tokens = batch(step)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % PERIOD_STEPS == 0:
            drawn = ", ".join(lisa.units[index] for index in lisa.active)
            print(f"step {step + 1:2}  {drawn}  optimizer state {state_bytes(optimizer)} bytes  loss {losses[-1]:.4f}")
    print(f"loss {losses[0]:.4f} at the first step, {losses[-1]:.4f} at the last: {losses[-1] / losses[0]:.3f} of it")


def batch(step: int) -> Tensor:
    """(ROWS, TOKENS): sequences that count up, each from anywhere."""
    first = torch.randint(VOCABULARY, (ROWS, 1), generator=torch.Generator().manual_seed(step))
    return (first + torch.arange(TOKENS)) % VOCABULARY


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Moments and step counts; what is frozen holds none."""
    return sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())


if __name__ == "__main__":
    main()
