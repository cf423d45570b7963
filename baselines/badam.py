"""BAdam: Adam on one block of layers at a time, block after block (Luo et al. 2024, arXiv 2404.02827).

A block is a decoder layer. For `switch_every` steps (K in the paper) it alone trains, from fresh moments and, unless
the weights are fp32, on an fp32 copy of its weights: 18 bytes for each of its parameters at the peak of a step on a
bf16 model, where all others take 2. Embeddings, final norm and head are in no block and never train, as is the authors'
default; as blocks of their own they can. K = 100 and the order "random", anew for every cycle, are theirs too; they
fine-tuned LLaMA-2-7B at 1e-5 and Llama-3-8B at 1e-6.

The authors' package (badam 1.4 on PyPI) does not serve a benchmark as it is: a run cannot resume (its state dict has
neither fp32 copies nor learning rate nor place in the cycle), its order comes from the global generator, it switches
inside `step()`, knows blocks by Llama's names and drops the weight decay that its user set per group. So the step is
`_master_adamw.py`, bit for bit the package's in fp32 and bf16 (tests/baselines/test_badam.py). On purpose it differs
in this: norms and biases have no weight decay, as for every method here; the first block trains K steps, not K - 1;
fp32 weights are not copied; `torch.cuda.empty_cache()` is not called after every step, nor `gc.collect()` at a switch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from baselines._master_adamw import MasterAdamW, master_state_bytes
from lisa import activate
from lisa.layers import parts
from lisa.sampling import uniforms

MODES = ("random", "ascending", "descending")


@dataclass(frozen=True)
class BAdamHyperparameters:
    switch_every: int = 100  # optimizer steps between two switches; the authors advise 50 to 100
    switch_mode: str = "random"  # order of the blocks: random | ascending | descending
    include_embedding: bool = False  # as the first block
    include_lm_head: bool = False  # as the last block, with the final norm; a matrix tied to the embedding is not in it
    layers: str | None = None  # dotted name of the list of decoder layers, where it cannot be found

    def __post_init__(self) -> None:
        if self.switch_every < 1:
            raise ValueError(f"switch_every of BAdam is {self.switch_every}; legal: at least 1.")
        if self.switch_mode not in MODES:
            raise ValueError(f"switch_mode of BAdam is {self.switch_mode!r}; legal: {', '.join(MODES)}.")


class Method(contract.Method):
    Hyperparameters = BAdamHyperparameters
    summary = "one decoder layer at a time, block after block, AdamW in fp32"
    paper = "Luo et al. 2024, arXiv 2404.02827"
    learning_rates = (1e-6, 5e-6, 1e-5, 5e-5)
    default_learning_rate = 1e-5
    family = "block-wise"
    implementation = "ours, bit for bit the authors' badam 1.4"
    state_formula = "8T in fp32, 12T with the fp32 copy of other weights"
    declared = {"full limit": "one block trains at a time, whatever the settings"}
    small = {"switch_every": 3}
    period_hyperparameter = "switch_every"
    hyperparameters: BAdamHyperparameters

    def prepare(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(False)
        self.blocks = self._divided(model)
        for parameter in (p for block in self.blocks for p in block):
            parameter.requires_grad_(True)
        self._period: int | None = None  # whose block trains
        return model

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Over all blocks, before any of them is frozen."""
        groups = contract.parameter_groups(model.named_parameters(), self.adamw.weight_decay)
        self._optimizer = MasterAdamW(groups, lr=lr, together=True, **self.adamw.arguments())
        return self._optimizer

    def before_step(self, step: int) -> None:
        period = step // self.hyperparameters.switch_every
        if period != self._period:
            self._train_only(period, state="reset")

    def drawn_parameters(self) -> list[list[nn.Parameter]]:
        return self.blocks

    def trainable_parameters(self, model: nn.Module) -> dict[str, int]:
        """`sampled` is the mean block: where embeddings or head are blocks, the blocks differ in size."""
        mean = sum(p.numel() for block in self.blocks for p in block) // len(self.blocks)
        return {"always": 0, "sampled": mean, "total": mean}

    def state_bytes(self, model: nn.Module) -> int:
        return master_state_bytes(model)

    def state_dict(self) -> dict[str, Any]:
        return {"period": self._period, "block": None if self._period is None else self._block_of(self._period)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the cycle up where it stood.

        Raises:
            ValueError: the checkpoint's block is not the one that these settings and this seed train there.
        """
        if state["period"] is None:
            return
        block = self._block_of(state["period"])
        if block != state["block"]:
            told = f"block {state['block']} trains in period {state['period']} (here {block})"
            raise ValueError(f"The checkpoint's BAdam has another order of blocks, or seed: {told}.")
        self._train_only(state["period"], state="keep")

    def _divided(self, model: nn.Module) -> list[list[nn.Parameter]]:
        """The blocks, in the model's order."""
        found = parts(model, self.hyperparameters.layers)
        first = [found.embeddings] if self.hyperparameters.include_embedding else []
        last = [[*found.head, *found.norm]] if self.hyperparameters.include_lm_head else []
        return [*first, *found.layers, *last]

    def _train_only(self, period: int, state: str) -> None:
        """Freeze all but the block of `period`; `state`: what becomes of optimizer state, as `lisa.switch` names it."""
        activate(self.blocks, [self._block_of(period)], self._optimizer, state)
        self._period = period

    def _block_of(self, period: int) -> int:
        """Index of the block that trains in `period`: a function of nothing but the settings and the seed."""
        return block_at(period, len(self.blocks), self.hyperparameters.switch_mode, self.draw_seed)


def block_at(period: int, blocks: int, mode: str, seed: int) -> int:
    """Index of the block that trains in `period`, where every cycle of `blocks` periods visits each once."""
    cycle, place = divmod(period, blocks)
    if mode == "random":
        keys = uniforms(seed, cycle, blocks)
        return sorted(range(blocks), key=keys.__getitem__)[place]
    return place if mode == "ascending" else blocks - 1 - place
