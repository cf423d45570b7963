"""Methods that train some of the model's own parameters with AdamW and freeze the rest: a method says which.

class Method(Selective):
    def chosen(self, model): return [p for name, p in model.named_parameters() if name.endswith("bias")]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from baselines import contract
from baselines._blank_model import blank_model


class Selective(contract.Method):
    """A method of which `chosen` is all there is."""

    family: ClassVar[str] = "selective"
    implementation: ClassVar[str] = "ours, with torch's AdamW"

    def chosen(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters that train.

        Raises:
            ValueError: the model has none, or not as many as it should.
        """
        raise NotImplementedError

    def check(self, config: Mapping[str, Any]) -> None:
        self.chosen(blank_model(config))

    def prepare(self, model: nn.Module) -> nn.Module:
        chosen = self.chosen(model)
        model.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        return model
