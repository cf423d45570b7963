"""LISA in transformers.Trainer: what the plain loop does, bit for bit, through checkpoints, accumulation and twice."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import ParallelMode

from lisa import LISA, decoder_layers, draw_uniform
from lisa.trainer import LISACallback
from tests.lisa.loops import PERIOD, SAMPLERS, moments_bytes
from tests.models import LAYERS, VOCABULARY, batch, changed, copies, state_bytes, tiny_llama

STEPS, ROWS = 9, 4  # ROWS: sequences in a batch


class Watch(TrainerCallback):
    """Calls `look` before the first forward of every optimizer step, after the callbacks before it."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.look(state.global_step)


def rows(batches: int) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": row, "labels": row} for step in range(batches) for row in batch(step)]


def arguments(folder: Path, **others: Any) -> TrainingArguments:
    fixed = {"per_device_train_batch_size": ROWS, "max_steps": STEPS, "learning_rate": 3e-3, "weight_decay": 0.1}
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "use_cpu": True}
    order = {"train_sampling_strategy": "sequential"}
    return TrainingArguments(output_dir=str(folder), **{**fixed, **quiet, **order, **others})


def trainer_of(model: nn.Module, folder: Path, *callbacks: TrainerCallback, optimizers: Any = None, **others: Any):
    args, data = arguments(folder, **others), rows(12)
    optimizers = optimizers or (None, None)
    return Trainer(model, args, train_dataset=data, callbacks=list(callbacks), optimizers=optimizers)


def callback(**settings: Any) -> LISACallback:
    return LISACallback(**{"gamma": 2, "period_steps": PERIOD, **settings})


def plain_loop(model: nn.Module, accumulation: int) -> LISA:
    """What the Trainer does, written out: linear schedule, clipping, the mean over the window's learned tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    lisa = LISA(model, optimizer, gamma=2, period_steps=PERIOD, seed=5)
    model.train()
    for step in range(STEPS):
        lisa.before_step(step)
        window = [batch(step * accumulation + index) for index in range(accumulation)]
        learned = torch.tensor(sum(tokens[:, 1:].numel() for tokens in window))
        for tokens in window:
            model(input_ids=tokens, labels=tokens, num_items_in_batch=learned).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return lisa


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_trainer_trains_as_the_plain_loop_does(accumulation, tmp_path):
    in_trainer, in_loop, lisa = tiny_llama(), tiny_llama(), callback(seed=5)
    settings = {"weight_decay": 0.0, "gradient_accumulation_steps": accumulation, "lr_scheduler_type": "linear"}
    args = arguments(tmp_path, **settings)
    Trainer(in_trainer, args, train_dataset=rows(STEPS * accumulation), callbacks=[lisa]).train()
    expected = plain_loop(in_loop, accumulation)
    assert lisa.lisa.active == expected.active
    assert changed(in_trainer, copies(in_loop)) == set()


def layer_of(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def test_what_is_drawn_trains_and_holds_state_and_nothing_else_does(tmp_path):
    model, lisa, seen = tiny_llama(), callback(seed=0), []

    def look(step: int) -> None:
        if seen:
            before, active = seen[-1]
            trained = {name for name in before if layer_of(name) is None or layer_of(name) in active}
            assert changed(model, before) == trained
        active = draw_uniform(0, step // PERIOD, LAYERS, 2)
        seen.append((copies(model), active))
        assert lisa.lisa.active == active
        if step % PERIOD:
            assert state_bytes(lisa.lisa.optimizer) == moments_bytes(model, set(active))

    trainer_of(model, tmp_path, lisa, Watch(look)).train()
    assert len(seen) == STEPS


def test_a_period_counts_optimizer_steps_across_epochs(tmp_path):
    """5 batches an epoch, 2 a step: the last step of an epoch takes one batch."""
    drawn = {}
    lisa = callback(seed=0)
    watch = Watch(lambda step: drawn.update({step: lisa.lisa.active}))
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=3, gradient_accumulation_steps=2)
    Trainer(tiny_llama(), args, train_dataset=rows(5), callbacks=[lisa, watch]).train()
    assert drawn == {step: draw_uniform(0, step // PERIOD, LAYERS, 2) for step in range(9)}


def test_the_learning_rate_goes_on_unbroken(tmp_path):
    logs = []
    for callbacks in ([], [callback(state="reset")]):
        trainer = trainer_of(tiny_llama(), tmp_path, *callbacks, lr_scheduler_type="cosine", warmup_steps=2)
        trainer.train()
        logs.append([row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row])
    assert len(logs[0]) == STEPS and logs[0] == logs[1]


def test_gradient_checkpointing_changes_nothing(tmp_path):
    models = [tiny_llama(), tiny_llama()]
    for model, checkpointing in zip(models, (False, True), strict=True):
        trainer_of(model, tmp_path, callback(), gradient_checkpointing=checkpointing).train()
    assert changed(models[0], copies(models[1])) == set()


# --- checkpoints ----------------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, tensors inside containers too."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("state", ["drop", "reset", "keep", "offload"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_run_is_the_uninterrupted_one(sampler, state, tmp_path):
    whole, settings = tiny_llama(), {"sampler": sampler, "state": state, **SAMPLERS[sampler]}
    saving = {"save_strategy": "steps", "save_steps": 2, "train_sampling_strategy": "random"}
    first = trainer_of(whole, tmp_path, callback(**settings), **saving)
    first.train()
    for stop in (4, 6):  # in the middle of a period, and at its border
        resumed = tiny_llama(seed=1)
        again = trainer_of(resumed, tmp_path, callback(**settings), **saving)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
        assert changed(resumed, copies(whole)) == set()
        assert same(again.optimizer.state_dict(), first.optimizer.state_dict())
        assert again.state.log_history[:STEPS] == first.state.log_history[:STEPS]


def saved_run(folder: Path, *callbacks: TrainerCallback) -> str:
    trainer_of(tiny_llama(), folder, *callbacks, save_strategy="steps", save_steps=4, max_steps=4).train()
    return str(folder / "checkpoint-4")


def test_a_checkpoint_of_other_draws_is_refused(tmp_path):
    checkpoint = saved_run(tmp_path, callback(gamma=3))
    with pytest.raises(ValueError, match=r"draws other layers: it has gamma 3 \(here 2\)"):
        trainer_of(tiny_llama(), tmp_path, callback()).train(resume_from_checkpoint=checkpoint)


def test_a_checkpoint_without_lisa_is_refused(tmp_path):
    checkpoint = saved_run(tmp_path)
    with pytest.raises(ValueError, match="checkpoint of step 4 was written without a LISACallback"):
        trainer_of(tiny_llama(), tmp_path, callback()).train(resume_from_checkpoint=checkpoint)


def test_the_trainer_may_restore_its_callbacks_itself(tmp_path):
    """Then it builds a new callback of the settings in the checkpoint."""
    checkpoint, models = saved_run(tmp_path, callback(sampler="adaptive")), [tiny_llama(), tiny_llama()]
    for model, restore in zip(models, (False, True), strict=True):
        flags = {"restore_callback_states_from_checkpoint": restore}
        trainer_of(model, tmp_path, callback(sampler="adaptive"), **flags).train(resume_from_checkpoint=checkpoint)
    assert changed(models[0], copies(models[1])) == set()


# --- one Trainer, used in other ways --------------------------------------------------------------------------------


def test_after_training_everything_requires_a_gradient_as_before(tmp_path):
    model = tiny_llama()
    model.lm_head.requires_grad_(False)
    for layer in decoder_layers(model):
        layer.mlp.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    trainer_of(model, tmp_path, callback(embeddings="off")).train()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_training_twice_begins_anew(sampler, tmp_path):
    model, lisa, seen = tiny_llama(), callback(sampler=sampler, **SAMPLERS[sampler]), []
    trainer = trainer_of(
        model, tmp_path, lisa, Watch(lambda step: seen.append((lisa.lisa.active, lisa.lisa.state_dict())))
    )
    trainer.train()
    before = copies(model)
    trainer.train()
    assert seen[0] == seen[STEPS], "no gradient of the first run may reach the second"
    trained = set().union(*(active for active, _ in seen[STEPS:]))
    assert changed(model, before) == {n for n in before if layer_of(n) is None or layer_of(n) in trained}


def test_training_again_after_an_interruption(tmp_path):
    def interrupt(step: int) -> None:
        if step == 4 and not interrupted:
            interrupted.append(step)
            raise KeyboardInterrupt

    model, lisa, interrupted = tiny_llama(), callback(), []
    trainer = trainer_of(model, tmp_path, lisa, Watch(interrupt))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    assert all(p.requires_grad for p in model.parameters())


def test_an_optimizer_of_the_users_own_is_followed(tmp_path):
    models = [tiny_llama(), tiny_llama()]
    own = torch.optim.AdamW(models[0].parameters(), lr=3e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(own, lambda step: 1 - step / STEPS)
    lisa = callback()
    trainer_of(models[0], tmp_path, lisa, optimizers=(own, schedule)).train()
    trainer_of(models[1], tmp_path, callback(), weight_decay=0.0).train()
    assert lisa.lisa.optimizer is own
    assert changed(models[0], copies(models[1])) == set()


def test_layers_frozen_before_the_optimizer_is_built_are_an_error(tmp_path):
    model = tiny_llama()
    decoder_layers(model)[1].requires_grad_(False)
    trainer = trainer_of(model, tmp_path, callback())
    trainer.create_optimizer()
    with pytest.raises(ValueError, match="No parameter of layer 1 requires a gradient"):
        trainer.train()
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="does not hold all parameters of layer 1"):
        trainer.train()


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_callback_is_an_error(resume, tmp_path):
    checkpoint = saved_run(tmp_path, callback()) if resume else None
    with pytest.raises(ValueError, match="more than one LISACallback"):
        trainer_of(tiny_llama(), tmp_path, callback(), callback()).train(resume_from_checkpoint=checkpoint)


def wider_llama(seed: int = 0) -> nn.Module:
    """Its matrices have more than the 4,096 entries below which bitsandbytes keeps fp32 moments."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, bos_token_id=0, eos_token_id=1))


def test_8_bit_moments_are_dropped_and_resumed(tmp_path):
    whole, lisa = wider_llama(), callback()
    settings = {"optim": "adamw_bnb_8bit", "save_strategy": "steps", "save_steps": 2}
    trainer_of(whole, tmp_path, lisa, **settings).train()
    moments = [lisa.lisa.optimizer.state[p] for layer in decoder_layers(whole) for p in layer.parameters()]
    assert {state["state1"].dtype for state in moments if state} == {torch.uint8, torch.float32}
    assert [index for index in range(LAYERS) if moments[9 * index]] == list(lisa.lisa.active)
    for stop in (4, 6):
        resumed = wider_llama(seed=1)
        checkpoint = str(tmp_path / f"checkpoint-{stop}")
        trainer_of(resumed, tmp_path, callback(), **settings).train(resume_from_checkpoint=checkpoint)
        assert changed(resumed, copies(whole)) == set()


def test_several_processes_without_fsdp2_are_an_error():
    args, model = SimpleNamespace(torch_compile=False, parallel_mode=ParallelMode.DISTRIBUTED, seed=0), tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match="Expected to have finished reduction.*Use FSDP2.*'version': 2"):
        callback().on_train_begin(args, None, None, model=model, optimizer=optimizer)


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_fsdp2_is_let_through_with_a_warning_where_the_trainer_saves(one_rank):
    """accelerate shards on GPUs only, so here the model is sharded by hand."""
    model = tiny_llama()
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    lisa, args = (
        callback(),
        SimpleNamespace(torch_compile=False, parallel_mode=ParallelMode.DISTRIBUTED, seed=0, save_only_model=False),
    )
    for save_strategy, expected in (("no", []), ("steps", [True])):
        args.save_strategy = SaveStrategy(save_strategy)
        state = TrainerState(stateful_callbacks=[lisa])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lisa.on_train_begin(args, state, None, model=model, optimizer=optimizer)
        assert ["may not resume LISA under FSDP2" in str(warning.message) for warning in caught] == expected
        lisa.on_step_begin(args, state, None)
        assert lisa.lisa.active == draw_uniform(0, 0, LAYERS, 2)


def test_the_seed_is_the_trainers_unless_given(tmp_path):
    for given, expected in ((None, 7), (3, 3)):
        lisa = callback(seed=given)
        trainer_of(tiny_llama(), tmp_path, lisa, seed=7, max_steps=1).train()
        assert lisa.lisa.seed == expected


def test_a_keyword_that_lisa_does_not_know_is_an_error_at_once():
    with pytest.raises(TypeError, match="samplr"):
        LISACallback(samplr="uniform")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": -1}, "gamma.* is -1; legal"),
        ({"period_steps": 0}, "period_steps.* is 0; legal"),
        ({"sampler": "greedy"}, "Unknown sampler 'greedy'"),
        ({"state": "forget"}, "'forget'"),
        ({"head": "maybe"}, "head is 'maybe'"),
    ],
)
def test_what_no_model_could_satisfy_is_an_error_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        LISACallback(**arguments)


def test_lisa_does_not_import_transformers():
    script = "import lisa, sys; sys.exit('transformers' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, timeout=120).returncode == 0
