"""LISA, layerwise importance sampled AdamW (Pan et al. 2024, arXiv 2403.17919), for any PyTorch training loop.

Every `period_steps` optimizer steps: keep embeddings, final norm and LM head trainable, draw `gamma` decoder layers,
freeze the others and drop their optimizer state. Other readings of the paper, and leaner sets, are settings.

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)  # over all parameters, before anything is frozen
    lisa = LISA(model, optimizer, gamma=2, period_steps=10, seed=0)
    for step in range(steps):
        lisa.before_step(step)  # before the first forward of the step
        ...  # forward, backward, optimizer.step(), optimizer.zero_grad()

Four things are separate: which layers exist (`layers.py`), which are drawn (`sampling.py`, `adaptive.py`), freezing and
what becomes of optimizer state (`switch.py`, `offload.py`), and when (`hook.py`). Beside them, imported by name only:
`lisa.trainer` (transformers, TRL), `lisa.checkpoint` (FSDP2), `lisa.compile`, `lisa.adamw` (8-bit moments).
docs/lisa.md has it all on one page.
"""

from lisa.hook import LISA
from lisa.layers import decoder_layers
from lisa.sampling import (
    draw_adaptive,
    draw_independent,
    draw_uniform,
    draw_weighted,
    inclusion_probabilities,
    paper_weights,
)
from lisa.switch import activate

__all__ = [
    "LISA",
    "activate",
    "decoder_layers",
    "draw_adaptive",
    "draw_independent",
    "draw_uniform",
    "draw_weighted",
    "inclusion_probabilities",
    "paper_weights",
]
