"""OwLore: LISA that draws layers by their share of outliers, with GaLore in the drawn layers (Li et al. 2024, arXiv
2405.18380; its third version says OWS).

The probability of a layer is proportional to its share of outlier weights (`_outliers.py`), and gamma layers are drawn
without replacement, as in the authors' code; embeddings, norm and head train always. The defaults are their script's
(pixeli99/OwLore, run_owlore_low_rank.sh and finetuner.py): gamma 5, a draw every 50 steps, rank 256, a projector for
100 steps, scale 1, rate 3e-4; the factor is in the name of their file of shares, "ratio_13". The other rates are the
LISA paper's. galore-torch does the step. On purpose it differs in this: the shares are those of the model at hand on
the batches of its first step, where theirs are LLaMA-2-7B's from a file; one more outlier is counted in every layer, so
that a layer without any can still be drawn, and a model without any draws uniformly; a frozen layer loses its optimizer
state, which their callback keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from baselines import lisa_galore
from baselines._outliers import count_outliers
from lisa import decoder_layers


@dataclass(frozen=True)
class OwLoreHyperparameters(lisa_galore.LISAGaLoreHyperparameters):
    gamma: int = 5  # decoder layers active at a time
    period_steps: int = 50  # optimizer steps between two draws
    rank: int = 256
    update_proj_gap: int = 100
    scale: float = 1.0
    outlier_factor: float = 13.0  # a weight is an outlier if its score exceeds the layer's mean so many times

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outlier_factor <= 0:
            raise ValueError(f"outlier_factor of OwLore is {self.outlier_factor}; legal: above 0.")


class Method(lisa_galore.Method):
    Hyperparameters = OwLoreHyperparameters
    summary = "layers drawn by their share of outliers, Adam on low-rank projected gradients"
    paper = "Li et al. 2024, arXiv 2405.18380"
    learning_rates = (5e-6, 1e-5, 5e-5, 3e-4, 6e-4)
    default_learning_rate = 3e-4
    hyperparameters: OwLoreHyperparameters

    def draws(self, model: nn.Module) -> dict[str, Any]:
        self.outlier_shares: list[float] | None = None  # of each layer, once known
        return {"sampler": "weighted", "weights": [1.0] * len(decoder_layers(model, self.hyperparameters.layers))}

    def calibrate(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> None:
        hp = self.hyperparameters
        counts = count_outliers(model, decoder_layers(model, hp.layers), batches, hp.outlier_factor)
        self._draw_by([(outliers + 1) / weights for outliers, weights in counts])

    def before_step(self, step: int) -> None:
        if self.outlier_shares is None:
            needs = "call calibrate() before step 0, or load_state_dict() of a run that began"
            raise RuntimeError(f"OwLore has no outliers to draw layers by at step {step}; {needs}.")
        super().before_step(step)

    def state_dict(self) -> dict[str, Any]:
        return {"outlier_shares": self.outlier_shares, "lisa": super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["outlier_shares"] is not None:
            self._draw_by(state["outlier_shares"])
        super().load_state_dict(state["lisa"])

    def _draw_by(self, shares: list[float]) -> None:
        self.outlier_shares = self.lisa.weights = shares
