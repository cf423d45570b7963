"""Low-rank projection of gradients, as the GaLore and APOLLO methods share it: which matrices, in which groups, what
state.

The authors' packages (galore-torch 1.0, apollo-torch 1.0.3) keep each projector as an object in `optimizer.state`,
which cannot be loaded with `weights_only`; galore-torch's holds, in fp32, a view of the whole SVD factor alive. And
where LISA drops the state of a layer, the projector must be as ours again when the layer is drawn. `own_projectors`
sees to all three.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from baselines import contract
from lisa import decoder_layers

PROJECTIONS = ("std", "reverse_std", "right", "left", "full")


def check_low_rank(method: str, rank: int, update_proj_gap: int, scale: float) -> None:
    """Raise ValueError unless the first two are at least 1, and the scale above 0."""
    for name, value in {"rank": rank, "update_proj_gap": update_proj_gap}.items():
        if value < 1:
            raise ValueError(f"{name} of {method} is {value}; legal: at least 1.")
    if not scale > 0:
        raise ValueError(f"scale of {method} is {scale}; legal: above 0.")


def low_rank_groups(
    model: nn.Module, layers: str | None, weight_decay: float, **projection: Any
) -> list[dict[str, Any]]:
    """Parameter groups: the matrices of the decoder layers with the settings `projection`, and everything else plain.

    Args:
        layers: as `path` of `lisa.decoder_layers`.
    """
    matrices = _matrices(model, layers)
    plain = [(name, p) for name, p in model.named_parameters() if id(p) not in matrices]
    projected = [p for p in model.parameters() if id(p) in matrices]
    own = {"params": projected, "weight_decay": weight_decay, **projection}
    return [*contract.parameter_groups(plain, weight_decay), own]


def low_rank_state_bytes(model: nn.Module, layers: str | None, numbers: Callable[[int, int], int]) -> int:
    """State of all that requires a gradient: `numbers(rows, columns)` for a projected matrix, two moments elsewhere."""
    matrices = _matrices(model, layers)
    trained = [p for p in model.parameters() if p.requires_grad]
    return sum(p.element_size() * (numbers(*p.shape) if id(p) in matrices else 2 * p.numel()) for p in trained)


def galore_adamw(model: nn.Module, lr: float, hyperparameters: Any, settings: contract.AdamWSettings) -> Optimizer:
    """The package's GaLoreAdamW with our projectors; `hyperparameters` are `GaLoreHyperparameters`."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # galore_torch imports it, and it warns on CPUs
    from galore_torch import GaLoreAdamW

    names = ("rank", "update_proj_gap", "scale", "proj_type")
    projection = {name: getattr(hyperparameters, name) for name in names}
    groups = low_rank_groups(model, hyperparameters.layers, settings.weight_decay, **projection)
    betas = (settings.beta1, settings.beta2)
    optimizer = GaLoreAdamW(groups, lr=lr, betas=betas, eps=settings.epsilon, no_deprecation_warning=True)
    return own_projectors(optimizer, lambda group, _: _galore_projector()(**{name: group[name] for name in names}))


def galore_state_bytes(model: nn.Module, hyperparameters: Any) -> int:
    """Two moments of every projected gradient and its projector; two moments of all else that requires a gradient."""

    def numbers(rows: int, columns: int) -> int:
        rank: int = min(hyperparameters.rank, rows, columns)
        kind: str = hyperparameters.proj_type
        if kind == "full":
            return rank * (2 * rank + rows + columns)
        right = {"right": True, "left": False, "std": rows >= columns, "reverse_std": rows < columns}[kind]
        kept, projected = (rows, columns) if right else (columns, rows)
        return rank * (2 * kept + projected)

    return low_rank_state_bytes(model, hyperparameters.layers, numbers)


def own_projectors(optimizer: Optimizer, make: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Optimizer:
    """Let `optimizer` step with projectors that `make(group, state)` makes, and save tensors in their place.

    Where the state of a parameter holds none yet, it gets a new one; where it holds the tensors of a checkpoint, one
    that goes on with them.
    """

    def install(optimizer: Optimizer, *_: Any) -> None:
        for group in (group for group in optimizer.param_groups if "rank" in group):
            for state in (optimizer.state[p] for p in group["params"] if p.grad is not None):
                basis = state.get("projector")
                if basis is None or isinstance(basis, Tensor | list):
                    state["projector"] = make(group, state)
                    state["projector"].ortho_matrix = basis

    optimizer.register_step_pre_hook(install)
    optimizer.register_state_dict_post_hook(_as_tensors)
    return optimizer


def _as_tensors(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with each projector's tensors in the place of the object, and the seed of its next ones."""
    state = {}
    for key, values in state_dict["state"].items():
        state[key] = {name: getattr(value, "ortho_matrix", value) for name, value in values.items()}
        if hasattr(values.get("projector"), "seed"):
            state[key]["seed"] = values["projector"].seed
    return {**state_dict, "state": state}


def _matrices(model: nn.Module, layers: str | None) -> set[int]:
    """Ids of the matrices of all decoder layers."""
    return {id(p) for layer in decoder_layers(model, layers) for p in layer.parameters() if p.ndim == 2}


@functools.cache
def _galore_projector() -> Any:
    """galore-torch's projector, with `rank` vectors of its own; made on first use, as the import takes seconds."""
    from galore_torch.galore_projector import GaLoreProjector

    class Projector(GaLoreProjector):
        def get_orthogonal_matrix(self, weights: Tensor, rank: int, type: str) -> Any:
            basis = super().get_orthogonal_matrix(weights, rank, type)
            return [_copy(part) for part in basis] if isinstance(basis, list) else _copy(basis)

    return Projector


def _copy(basis: Tensor) -> Tensor:
    """`rank` vectors in memory of their own, so that the full factor they are a view of is freed."""
    return basis.contiguous().clone()
