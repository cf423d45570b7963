"""AdaLomo: Adafactor's step on every parameter, inside backward (Lv et al. 2023, arXiv 2310.10195).

As LOMO, with a rate for each number: a second moment factored into a row and a column, and updates normalised by
parameter ("grouped") to the size of the weights, so that the learning rate is relative. The settings are those of the
authors' package; their scripts instruction-tune LLaMA-7B at 5e-4, the default, and train it further at 1e-3.

The package (lomo-optim 0.1.1) runs backward itself, counts steps for all parameters together and puts its state on CUDA
and into no state dict, so the step is `_lomo.py`, bit for bit the package's in fp32 and bf16
(tests/baselines/test_lomo.py). On purpose it differs in this: norms and biases have no weight decay, as for every
method here; the loss is not scaled by 2**10 (nothing here is fp16); tensors of three sides (experts) are factored over
their last two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn
from torch.optim import Optimizer

from baselines import contract
from baselines._lomo import AdaLomo


@dataclass(frozen=True)
class AdaLomoHyperparameters:
    epsilon: float = 1e-30  # added to the squared gradient
    smallest_scale: float = 1e-3  # the least root mean square that weights are taken to have
    clip_threshold: float = 1.0  # root mean square above which an update is scaled down to it
    decay_rate: float = -0.8  # of the second moment: beta2 = 1 - step ** decay_rate

    def __post_init__(self) -> None:
        for name in ("epsilon", "smallest_scale", "clip_threshold"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of AdaLomo is {getattr(self, name)}; legal: above 0.")
        if not self.decay_rate < 0:
            raise ValueError(f"decay_rate of AdaLomo is {self.decay_rate}; legal: below 0.")


class Method(contract.Method):
    Hyperparameters = AdaLomoHyperparameters
    summary = "every parameter, Adafactor's step inside backward"
    paper = "Lv et al. 2023, arXiv 2310.10195"
    learning_rates = (1e-4, 5e-4, 1e-3, 5e-3)
    default_learning_rate = 5e-4
    steps_in_backward = True
    optimizer_name = "AdaLomo"
    family = "in-backward"
    implementation = "ours, bit for bit the authors' lomo-optim 0.1.1"
    state_formula = "4 (m + n of every matrix, and 1 of every other number)"
    small_learning_rate = 3e-2
    hyperparameters: AdaLomoHyperparameters

    def prepare(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        groups = contract.parameter_groups(model.named_parameters(), self.adamw.weight_decay)
        return AdaLomo(groups, lr=lr, **asdict(self.hyperparameters))

    def state_bytes(self, model: nn.Module) -> int:
        def numbers(parameter: nn.Parameter) -> int:
            sides = parameter.shape[-2:]
            return sum(parameter.numel() // side for side in sides) if len(sides) == 2 else parameter.numel()

        return 4 * sum(numbers(p) for p in model.parameters() if p.requires_grad)
