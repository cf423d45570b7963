"""APOLLO-Mini: APOLLO with rank 1 and one factor for a whole matrix (Zhu et al. 2024, arXiv 2412.05270).

The optimizer state of a matrix is 3 vectors: about the memory of SGD. Rank 1 and scale 128 are the defaults of the
authors' package (apollo-torch, CC BY-NC 4.0); the rest is `apollo.py`'s. An author's fine-tuning scripts for Llama 3.2
1B (Kyriection/DoRA) run 1e-4, and sweep 1e-4 to 5e-4 with scale 128.
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines import apollo


@dataclass(frozen=True)
class APOLLOMiniHyperparameters(apollo.APOLLOHyperparameters):
    rank: int = 1
    scale: float = 128.0


class Method(apollo.Method):
    Hyperparameters = APOLLOMiniHyperparameters
    summary = "every parameter, one factor a matrix from a random rank-1 Adam"
    state_formula = "s (sum of 2n + m, and 2R)"
    declared = {"full limit": "a matrix's gradient is scaled as a whole at any rank, never by element"}
    small = {"update_proj_gap": 3}
    scale_type = "tensor"
