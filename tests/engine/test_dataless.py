"""Tensors without data: shapes and storages as in earnest, answers where a program asks for data."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from workflow.engine.dataless import dataless

ENORMOUS = 2**40


def test_a_tensor_larger_than_any_memory_takes_none() -> None:
    with dataless():
        made = torch.zeros(ENORMOUS) + 1
    assert isinstance(made, FakeTensor)
    assert made.untyped_storage().nbytes() == 4 * ENORMOUS


def test_constants_of_modules_that_are_imported_within_have_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first_seen_within.py").write_text("import torch\nTABLE = torch.tensor([1.0, 2.0])\n")
    monkeypatch.syspath_prepend(tmp_path)
    with dataless():
        module = importlib.import_module("first_seen_within")
        assert isinstance(torch.zeros(1), FakeTensor)
    assert module.TABLE.tolist() == [1.0, 2.0]


def test_operators_and_backward_run() -> None:
    with dataless():
        layer = nn.Linear(ENORMOUS, 4, bias=False)
        layer(torch.zeros(2, ENORMOUS)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (4, ENORMOUS)


@pytest.mark.parametrize(
    ("tensor", "number"), [(torch.zeros(2), 1.0), (torch.zeros(2, dtype=torch.int64), 1), (torch.zeros(2) > 1, True)]
)
def test_a_number_read_from_a_tensor_is_one(tensor: torch.Tensor, number: object) -> None:
    with dataless():
        read = torch.empty((), dtype=tensor.dtype).item()
    assert read == number
    assert type(read) is type(number)


def test_tensors_of_one_shape_are_equal() -> None:
    with dataless():
        assert torch.equal(torch.zeros(3), torch.ones(3))
        assert torch.allclose(torch.zeros(3), torch.ones(3))
        assert not torch.equal(torch.zeros(3), torch.zeros(4))


def test_a_mask_selects_every_position() -> None:
    with dataless():
        hidden = torch.zeros(2, 5, 7, requires_grad=True)
        chosen = hidden[:, :-1][torch.zeros(2, 4) > 1]
        chosen.sum().backward()
    assert chosen.shape == (8, 7)
    assert hidden.grad is not None
    assert hidden.grad.shape == hidden.shape


def test_converting_a_module_keeps_shared_parameters_shared() -> None:
    with dataless():
        model = nn.ModuleDict({"embedding": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
        model["head"].weight = model["embedding"].weight
        model.requires_grad_(False)
        model.to(torch.bfloat16)
    assert model["head"].weight is model["embedding"].weight
    assert model["head"].weight.dtype == torch.bfloat16
    assert not model["head"].weight.requires_grad


def test_converting_a_module_to_what_it_is_keeps_its_parameters() -> None:
    with dataless():
        layer = nn.Linear(3, 3)
        weight = layer.weight
        layer.to(torch.float32)
    assert layer.weight is weight


def test_outside_nothing_is_left_of_it() -> None:
    with dataless():
        pass
    layer = nn.Linear(3, 3).to(torch.bfloat16)
    assert not isinstance(torch.zeros(3), FakeTensor)
    assert layer(torch.ones(1, 3, dtype=torch.bfloat16)).shape == (1, 3)
