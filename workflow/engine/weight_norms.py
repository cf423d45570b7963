"""Norms of a model's parts while it trains: `weight_norms.csv`, from which figure 2 of the LISA paper is drawn.

Pan et al. 2024 (arXiv 2403.17919, section 3.1) take the mean over training steps of ||theta_t||_2 for the embeddings,
every decoder layer and the head, once under LoRA and once under full fine-tuning; their ratio is the importance of a
layer. ||theta_t||_2 is the 2-norm of all numbers of a part together. Three kinds of it are written:

weights   the weights: methods without adapters.
adapter   LoRA's A and B of the part, all numbers together. This is what the paper draws, though it does not say so.
merged    the weights with the adapters added: what the model under LoRA computes with.

That the paper draws adapters follows from their start in peft, which nothing in a model moves: an adapted linear layer
with n inputs has A uniform within 1/sqrt(n), so of norm sqrt(rank / 3), and B zero; an adapted embedding of width d has
B standard normal, so of norm sqrt(d * rank), and A zero. At LLaMA-2-7B's shape and rank 128 this is 724 for the
embedding, sqrt(7 * 128 / 3) = 17.3 for each block of seven linear layers and 6.5 for the head; the paper's figure shows
about 700, 17 for every block, and 6 to 7 (tests/engine/test_weight_norms.py makes these numbers with peft). Hence
`step` starts at 0, before training: what is there already is initialisation. See docs/weight_norms.md.

Rows: step (optimizer steps done), part (`embeddings`, `layer 0` ..., `norm`, `head`), kind, norm. One matrix that is
embedding and head is one part, `embeddings and head`, and counts once. Parts that LoRA leaves alone have no adapter.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines._peft import adapted_modules, merged_parameters
from lisa.layers import parts

FILE = "weight_norms.csv"  # in a run's folder
COLUMNS = ("step", "part", "kind", "norm")
PIECE = 1 << 22  # numbers whose squares are summed at once: 32 MB in double precision


def append_norms(model: nn.Module, step: int, file: Path) -> None:
    """Append the norms of every part of `model` after `step` optimizer steps."""
    begun = file.is_file() and file.stat().st_size > 0
    with file.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([] if begun else [COLUMNS])
        writer.writerows((step, part, kind, value) for part, kind, value in part_norms(model))


@torch.no_grad()
def part_norms(model: nn.Module) -> list[tuple[str, str, float]]:
    """(part, kind, norm) for every part of `model`, first to last.

    Raises:
        ValueError: the decoder layers cannot be found.
    """
    modules = list(adapted_modules(model).values())
    adapters = {id(p) for module in modules for p in module.parameters()}
    adapters -= {id(p) for module in modules for p in module.get_base_layer().parameters()}
    around = dict[int, tuple[Any, str]]()  # of a tied weight, the first module
    for module in reversed(modules):
        around |= {id(p): (module, name) for name, p in module.get_base_layer().named_parameters()}
    rows = []
    for part, parameters in named_parts(model):
        plain = [p for p in parameters if id(p) not in adapters]
        if not modules:
            rows.append((part, "weights", norm(plain)))
            continue
        if len(plain) < len(parameters):
            rows.append((part, "adapter", norm(p for p in parameters if id(p) in adapters)))
        rows.append((part, "merged", norm(_merged(p, around) for p in plain)))
    return rows


def _merged(parameter: Tensor, around: dict[int, tuple[Any, str]]) -> Tensor:
    module, name = around.get(id(parameter), (None, ""))
    return parameter if module is None else merged_parameters(module)[name]


def named_parts(model: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The parts of `model` that have parameters, with their names, first to last."""
    found = parts(model)
    first, last = ("embeddings and head", []) if found.tied else ("embeddings", found.head)
    yield first, [*found.embeddings, *(found.head if found.tied else [])]
    for index, layer in enumerate(found.layers):
        yield f"layer {index}", layer
    for part, parameters in (("norm", found.norm), ("head", last)):
        if parameters:
            yield part, parameters


def norm(matrices: Iterable[Tensor]) -> float:
    """2-norm of all numbers of all matrices together, summed in double precision."""
    return math.sqrt(sum(_squares(matrix) for matrix in matrices))


def _squares(matrix: Tensor) -> float:
    pieces = matrix.reshape(-1).split(PIECE)
    return sum(torch.linalg.vector_norm(piece, dtype=torch.float64).item() ** 2 for piece in pieces)
