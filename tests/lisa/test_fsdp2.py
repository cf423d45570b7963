"""LISA on many devices: two processes that shard, or replicate, a model with FSDP2 train as one process does.

What the processes run stands in fsdp2_worker.py. They stay up for all tests of this file.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from lisa import LISA
from lisa.checkpoint import load, save
from tests.lisa import fsdp2_worker as worker
from tests.lisa.fsdp2_worker import MAX_GRAD_NORM, PERIOD, Mesh, Step
from tests.models import LAYERS, loss_of, tiny_llama

SHARDED, REPLICATED = (2,), (2, 1)
TOLERANCE = 1e-5  # of fp32 losses: sums over two ranks are rounded elsewhere
LIMIT_S = 120.0

CHOICES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "independent": {"sampler": "independent"},
    "weighted": {"sampler": "weighted", "weights": [1.0, 2.0, 3.0, 4.0]},
    "adaptive": {"sampler": "adaptive"},
    "reset": {"state": "reset"},
    "keep": {"state": "keep"},
    "offload": {"state": "offload"},
    "all drawn": {"embeddings": "drawn", "head": "drawn", "norm": "drawn"},
    "embeddings off": {"embeddings": "off"},
}

RUNS = [pytest.param(choice, SHARDED, id=f"{choice}, sharded") for choice in CHOICES]
RUNS += [pytest.param(choice, REPLICATED, id=f"{choice}, replicated") for choice in ("defaults", "adaptive", "keep")]
RESUMED = ["defaults", "adaptive", "reset", "keep", "offload", "all drawn"]  # each with another state to bring back

OnAll = Callable[..., list[Any]]
Runs = Callable[[str, Mesh], list[list[Step]]]


@pytest.fixture(scope="module")
def on_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnAll]:
    """Calls a function in two processes of one gloo group at a time; returns what rank 0 and rank 1 return."""
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    spawn = multiprocessing.get_context("spawn")
    ranks = [ProcessPoolExecutor(1, spawn, worker.join, (rank, 2, str(rendezvous))) for rank in range(2)]

    def call(function: Callable[..., Any], *args: Any, **settings: Any) -> list[Any]:
        futures = [rank.submit(function, *args, **settings) for rank in ranks]
        done, _ = wait(futures, timeout=LIMIT_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()  # raises what went wrong there
        return [future.result(timeout=0) for future in futures]

    yield call
    for rank in ranks:
        rank.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def runs(on_all: OnAll) -> Runs:
    """The steps of a run of one of CHOICES, on each rank of the mesh or in this process alone; each is run once."""

    @functools.cache
    def run(choice: str, mesh: Mesh) -> list[list[Step]]:
        if mesh is None:
            return [worker.trained(None, CHOICES[choice])]
        return on_all(worker.trained, mesh, CHOICES[choice])

    return run


def sizes() -> dict[str, int]:
    return {name: p.numel() for name, p in tiny_llama().named_parameters()}


def unit_of(name: str) -> str:
    """The unit that the parameter `name` would be drawn with."""
    parts = name.split(".")
    layer = next((f"layer {part}" for part in parts if part.isdigit()), None)
    return layer or ("embeddings" if "embed" in name else "head" if "head" in name else "norm")


def training(step: Step, settings: dict[str, Any]) -> set[str]:
    """Names of the parameters that train in this step, by the choices made and the units drawn."""
    always = {part for part in ("embeddings", "head", "norm") if settings.get(part, "on") == "on"}
    return {name for name in sizes() if unit_of(name) in {*always, *step.active}}


# --- one run on two ranks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("choice", "mesh"), RUNS)
def test_two_ranks_train_as_one_process_does(runs: Runs, choice: str, mesh: Mesh):
    alone, *ranks = runs(choice, None), *runs(choice, mesh)
    for one, *two in zip(*alone, *ranks, strict=True):
        assert [step.active for step in two] == [one.active] * 2
        assert [step.loss for step in two] == pytest.approx([one.loss] * 2, rel=0, abs=TOLERANCE)
    assert len({step.active for step in alone[0]}) > 1, "the seed should draw more than one set"


@pytest.mark.parametrize(("choice", "mesh"), RUNS)
def test_exactly_what_was_drawn_moves_on_every_rank(runs: Runs, choice: str, mesh: Mesh):
    for steps in runs(choice, mesh):
        for step in steps:
            assert step.moved == training(step, CHOICES[choice])


@pytest.mark.parametrize(("choice", "mesh"), RUNS)
def test_a_rank_holds_its_share_of_the_state(runs: Runs, choice: str, mesh: Mesh):
    """Two fp32 moments a weight, shared by the shards, and one fp32 step count a parameter."""
    grows = CHOICES[choice].get("state") in ("keep", "offload")  # on a CPU, offload has nowhere else to put it
    shards = mesh[-1]
    for steps in runs(choice, mesh):
        held: set[str] = set()
        for step in steps:
            held = training(step, CHOICES[choice]) | (held if grows else set())
            assert step.holding == held
            assert step.state_bytes == sum(2 * 4 * sizes()[name] // shards + 4 for name in held)


@pytest.mark.parametrize("mesh", [SHARDED, REPLICATED], ids=["sharded", "replicated"])
def test_clipping_goes_by_the_norm_of_the_whole_gradient(runs: Runs, mesh: Mesh):
    (alone,) = runs("defaults", None)
    assert max(step.grad_norm for step in alone) > MAX_GRAD_NORM
    for steps in runs("defaults", mesh):
        assert [step.grad_norm for step in steps] == pytest.approx([step.grad_norm for step in alone], rel=TOLERANCE)


def test_gradients_accumulated_without_an_exchange_are_those_of_the_whole_batch(on_all: OnAll, runs: Runs):
    (alone,) = runs("defaults", None)
    for steps in on_all(worker.trained, SHARDED, {}, parts=2):
        assert [step.loss for step in steps] == pytest.approx([step.loss for step in alone], rel=0, abs=TOLERANCE)
        assert [step.grad_norm for step in steps] == pytest.approx([step.grad_norm for step in alone], rel=TOLERANCE)
        assert all(step.moved == training(step, {}) for step in steps)


def test_tied_embeddings_stay_on(on_all: OnAll):
    alone = worker.trained(None, {}, tied=True)
    for steps in on_all(worker.trained, SHARDED, {}, tied=True):
        assert all("model.embed_tokens.weight" in step.moved for step in steps)
        assert [step.loss for step in steps] == pytest.approx([step.loss for step in alone], rel=0, abs=TOLERANCE)


def test_layers_may_be_compiled_first(on_all: OnAll, runs: Runs):
    (alone,) = runs("defaults", None)
    for steps in on_all(worker.trained, SHARDED, {}, compiled=True):
        assert [step.loss for step in steps] == pytest.approx([step.loss for step in alone], rel=0, abs=TOLERANCE)
        assert all(step.moved == training(step, {}) for step in steps)


def test_sharding_adds_no_graphs_to_compiled_layers(on_all: OnAll):
    assert on_all(worker.graphs_after_each_period, SHARDED) == [[2, 2, 2, 2]] * 2  # active and frozen


# --- checkpoints ----------------------------------------------------------------------------------------------------

STOPS = [0, PERIOD - 1, 2 * PERIOD, 3 * PERIOD - 1]  # before anything, in the middle of a period, where one ends

alone_on_purpose = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.mark.parametrize("choice", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(on_all: OnAll, choice: str, tmp_path: Path):
    whole = on_all(worker.saved_at, SHARDED, CHOICES[choice], tmp_path, STOPS)
    for stop in STOPS:
        again = on_all(worker.resumed_at, SHARDED, CHOICES[choice], tmp_path, stop)
        for (steps, saved, end), (steps_again, loaded, end_again) in zip(whole, again, strict=True):
            assert loaded == saved[stop]
            assert end_again == end
            assert steps_again == steps[stop:]


@alone_on_purpose
@pytest.mark.parametrize("choice", ["defaults", "adaptive", "keep"])
def test_a_checkpoint_of_two_ranks_loads_in_one_process(on_all: OnAll, choice: str, tmp_path: Path):
    steps, saved, _ = on_all(worker.saved_at, SHARDED, CHOICES[choice], tmp_path, STOPS)[0]
    for stop in STOPS:
        alone, loaded, _ = worker.resumed_at(None, CHOICES[choice], tmp_path, stop)
        assert loaded == saved[stop]
        assert [s.active for s in alone] == [s.active for s in steps[stop:]]
        assert [s.loss for s in alone] == pytest.approx([s.loss for s in steps[stop:]], rel=0, abs=TOLERANCE)


@alone_on_purpose
def test_a_checkpoint_of_one_process_loads_on_two_ranks(on_all: OnAll, tmp_path: Path):
    steps, saved, _ = worker.saved_at(None, {}, tmp_path, STOPS)
    for mesh in (SHARDED, REPLICATED):
        for stop in STOPS:
            for two, loaded, _ in on_all(worker.resumed_at, mesh, {}, tmp_path, stop):
                assert loaded == saved[stop]
                assert [s.loss for s in two] == pytest.approx([s.loss for s in steps[stop:]], rel=0, abs=TOLERANCE)


@alone_on_purpose
def test_a_checkpoint_loads_in_a_compiled_model(tmp_path: Path):
    """torch.compile puts a module around the model, which changes the names of all parameters."""
    run = worker.start(None, {})
    worker.train(run, 0, PERIOD + 1)
    save(tmp_path, run.model, run.optimizer, run.lisa)
    model = torch.compile(tiny_llama(seed=1), backend="eager")
    optimizer = torch.optim.AdamW(model.parameters())
    load(tmp_path, model, optimizer, LISA(model, optimizer, 2, PERIOD, 0))
    for (name, parameter), (compiled_name, other) in zip(
        run.model.named_parameters(), model.named_parameters(), strict=True
    ):
        assert compiled_name == f"_orig_mod.{name}"
        assert torch.equal(parameter, other)
        state, other_state = run.optimizer.state.get(parameter, {}), optimizer.state.get(other, {})
        assert state.keys() == other_state.keys()
        assert all(torch.equal(state[key], other_state[key]) for key in state)


@alone_on_purpose
def test_a_checkpoint_of_wrapped_layers_loads_in_the_same_model(tmp_path: Path):
    """torch's activation checkpointing puts a module around each layer, whose name DCP leaves out."""

    def wrapped() -> tuple[nn.Module, torch.optim.Optimizer, LISA]:
        model = tiny_llama()
        for index, layer in enumerate(model.model.layers):
            model.model.layers[index] = checkpoint_wrapper(layer)
        optimizer = torch.optim.AdamW(model.parameters())
        return model, optimizer, LISA(model, optimizer, 2, PERIOD, 0)

    model, optimizer, lisa = wrapped()
    lisa.before_step(0)
    loss_of(model, 0).backward()
    optimizer.step()
    save(tmp_path, model, optimizer, lisa)
    again, other, other_lisa = wrapped()
    load(tmp_path, again, other, other_lisa)
    held = [{n for n, p in m.named_parameters() if p in o.state} for m, o in ((model, optimizer), (again, other))]
    assert held[0] == held[1] != set()


@alone_on_purpose
def test_a_run_that_has_begun_takes_no_checkpoint(tmp_path: Path):
    run = worker.start(None, {})
    worker.train(run, 0, 1)
    save(tmp_path, run.model, run.optimizer, run.lisa)
    with pytest.raises(ValueError, match="The optimizer holds state already"):
        load(tmp_path, run.model, run.optimizer, run.lisa)


@alone_on_purpose
def test_a_checkpoint_of_other_draws_is_refused(tmp_path: Path):
    run, other = worker.start(None, {}), worker.start(None, {"gamma": 3})
    save(tmp_path, run.model, run.optimizer, run.lisa)
    with pytest.raises(ValueError, match=r"draws other layers: it has gamma 2 \(here 3\)"):
        load(tmp_path, other.model, other.optimizer, other.lisa)


@alone_on_purpose
def test_a_checkpoint_of_a_larger_model_is_refused(tmp_path: Path):
    run = worker.start(None, {"gamma": LAYERS})
    worker.train(run, 0, 1)
    save(tmp_path, run.model, run.optimizer, run.lisa)
    smaller = tiny_llama(layers=2)
    optimizer = torch.optim.AdamW(smaller.parameters())
    with pytest.raises(ValueError, match=r"not in the model: \['model\.layers\.2\."):
        load(tmp_path, smaller, optimizer, LISA(smaller, optimizer, 2, PERIOD, 0))


# --- what cannot work ------------------------------------------------------------------------------------------------


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    worker.join(0, 1, str(tmp_path / "rendezvous"))
    yield
    dist.destroy_process_group()


def refused(model: nn.Module) -> LISA:
    return LISA(model, torch.optim.AdamW(model.parameters()), 2, PERIOD, 0)


def test_ddp_is_refused_itself_and_inside_a_wrapper(group_of_one: None):
    model = nn.parallel.DistributedDataParallel(tiny_llama())
    for wrapped in (model, nn.Sequential(model)):
        with pytest.raises(ValueError, match=r"under DistributedDataParallel: .* Use FSDP2"):
            refused(wrapped)


def test_ddp_wrapped_around_the_model_afterwards_is_refused_at_its_first_forward(group_of_one: None):
    model = tiny_llama()
    lisa = refused(model)
    loss_of(model, 0)
    parallel = nn.parallel.DistributedDataParallel(model)
    lisa.before_step(0)
    with pytest.raises(ValueError, match=r"under DistributedDataParallel: .* Use FSDP2"):
        loss_of(parallel, 0)
    lisa.close()
    model.requires_grad_(True)
    loss_of(parallel, 0).backward()


def test_sharding_after_lisa_was_built_is_an_error(group_of_one: None):
    """The parameters that LISA knows are in no module then: everything would train."""
    model = tiny_llama()
    lisa = refused(model)
    fully_shard(model)
    with pytest.raises(ValueError, match="Build LISA last, after fully_shard"):
        lisa.before_step(0)


def test_evaluating_before_a_redraw_is_none(group_of_one: None):
    """A forward without a backward leaves the gathered parameters in the modules."""
    model = tiny_llama()
    for layer in model.model.layers:
        fully_shard(layer, reshard_after_forward=False)
    fully_shard(model, reshard_after_forward=False)
    lisa = refused(model)
    lisa.before_step(0)
    with torch.no_grad():
        loss_of(model, 0)
    lisa.before_step(PERIOD)
    loss_of(model, 0).backward()
    lisa.optimizer.step()


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")
def test_fsdp1_is_refused(group_of_one: None):
    model = FullyShardedDataParallel(tiny_llama(), device_id=torch.device("cpu"), use_orig_params=True)
    with pytest.raises(ValueError, match=r"FSDP1\): .* Use FSDP2"):
        refused(model)


def test_zero3_is_refused():
    model = tiny_llama()
    model.lm_head.weight.ds_id = 0  # as DeepSpeed marks what it has partitioned
    with pytest.raises(ValueError, match=r"under DeepSpeed ZeRO-3: .* Use FSDP2"):
        refused(model)
