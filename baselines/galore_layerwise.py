"""Layer-wise GaLore: each parameter steps inside backward, as soon as its gradient is there, and the gradient is freed.

The authors' per-layer updates (Zhao et al. 2024, arXiv 2403.03507), which they take from LOMO (Lv et al. 2023, arXiv
2306.09782). Their script has one optimizer a parameter; here one optimizer, `galore.py`'s, steps one parameter at a
time, to the same weights bit for bit. Hyper-parameters and learning rates are `galore.py`'s. On purpose it differs in
this: the moments are not in 8 bits, since every method here but those named for it keeps AdamW's precision, and the
gap between two decompositions is not doubled as in their script, since our hook runs once a step.
"""

from __future__ import annotations

from baselines import galore


class Method(galore.Method):
    summary = "GaLore, each parameter stepped inside backward"
    steps_in_backward = True
