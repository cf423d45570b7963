"""Layers compiled one by one: two graphs, none at a redraw, and the same training as without."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.fsdp import fully_shard

from lisa import LISA, decoder_layers
from lisa.compile import compile_layers
from tests.models import loss_of, tiny_gpt2, tiny_llama

PERIOD, PERIODS = 2, 9
MODELS = {"llama": tiny_llama, "tied": lambda: tiny_llama(tied=True), "gpt2": tiny_gpt2}


@pytest.fixture(autouse=True)
def forget_graphs():
    """Graphs are kept for the whole process: a test must not find those of the one before it."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def with_checkpointing(model: nn.Module) -> nn.Module:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def shard(model: nn.Module, **_: object) -> None:
    """FSDP2, as one would: each layer, then what is around them."""
    for layer in decoder_layers(model):
        fully_shard(layer)
    fully_shard(model)


def counting(backend: str = "aot_eager") -> CompileCounterWithBackend:
    """A backend of torch.compile whose `frame_count` is the number of graphs it was given."""
    return CompileCounterWithBackend(backend)


def train(model: nn.Module, graphs: CompileCounterWithBackend | None = None) -> tuple[list[float], list[int]]:
    """Losses of all steps, and the number of graphs after each period."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    lisa = LISA(model, optimizer, gamma=2, period_steps=PERIOD, seed=0)
    losses, counts, drawn = [], [], set()
    for step in range(PERIODS * PERIOD):
        lisa.before_step(step)
        drawn.add(lisa.active)
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % PERIOD == PERIOD - 1 and graphs is not None:
            counts.append(graphs.frame_count)
    assert len(drawn) > 3, "the seed should draw different sets"
    return losses, counts


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
def test_two_graphs_are_made_in_the_first_period_and_none_at_a_redraw(make_model, checkpointing):
    model = with_checkpointing(make_model()) if checkpointing else make_model()
    graphs = counting()
    _, counts = train(compile_layers(model, backend=graphs), graphs)
    assert counts == [2] * PERIODS


@pytest.mark.parametrize("order", [(compile_layers, shard), (shard, compile_layers)], ids=["before", "after"])
def test_sharded_layers_need_no_further_graphs(order):
    graphs, model = counting(), tiny_llama()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for change in order:
            change(model, backend=graphs)
        losses, counts = train(model, graphs)
    finally:
        dist.destroy_process_group()
    assert counts == [2] * PERIODS
    assert losses == pytest.approx(train(tiny_llama())[0], rel=1e-6)


def test_a_compiled_model_is_compiled_again_at_redraws():  # what `compile_layers` is for: the count above can tell
    graphs = counting()
    model = tiny_llama()
    model.config.use_cache = False
    model.compile(backend=graphs)
    _, counts = train(model, graphs)
    assert counts[-1] > counts[0]


def test_with_the_cache_every_layer_needs_graphs_of_its_own():  # why `use_cache` is turned off
    graphs = counting()
    model = compile_layers(tiny_llama(), backend=graphs)
    assert model.config.use_cache is False
    model.config.use_cache = True
    _, counts = train(model, graphs)
    assert counts[-1] > 2


def test_frozen_embeddings_cost_two_graphs_more_and_redraws_still_none():
    graphs = counting()
    model = compile_layers(tiny_llama(), backend=graphs)
    model.get_input_embeddings().requires_grad_(False)
    _, counts = train(model, graphs)
    assert counts[-1] == counts[PERIODS // 2] <= 4


def test_evaluation_and_another_length_cost_two_graphs_each_once():
    graphs = counting()
    model = compile_layers(tiny_llama(), backend=graphs)
    for layer in decoder_layers(model)[1:3]:
        layer.requires_grad_(False)
    counts = []
    for length in (12, 11, 10, 9):
        tokens = torch.arange(length).repeat(2, 1)
        model.train()
        model(input_ids=tokens, labels=tokens).loss.backward()
        counts.append(graphs.frame_count)
    assert counts == [2, 4, 4, 4]
    with torch.no_grad():
        model.eval()(input_ids=tokens)
        model(input_ids=tokens[:, :5])
    assert graphs.frame_count == 6


def test_losses_are_those_of_the_uncompiled_model():
    """With the real compiler: kernels are fused, so that the last bits differ."""
    eager, _ = train(tiny_llama())
    graphs = counting("inductor")
    compiled, counts = train(compile_layers(tiny_llama(), backend=graphs), graphs)
    assert counts == [2] * PERIODS
    assert compiled == pytest.approx(eager, rel=2e-6)
    assert eager[-1] < eager[0] - 0.5, "the model should learn"


def test_names_in_the_state_dict_stay():
    model = tiny_llama()
    names, modules = list(model.state_dict()), decoder_layers(model)
    assert compile_layers(model) is model
    assert list(model.state_dict()) == names
    assert decoder_layers(model) == modules


def test_layers_that_cannot_be_found_are_named_by_the_caller():
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([nn.Linear(2, 2)]))
    with pytest.raises(ValueError, match="Pass layers="):
        compile_layers(model)
    assert compile_layers(model, "1", backend="eager") is model
    assert [layer[0]._compiled_call_impl is not None for layer in model] == [False, True]
