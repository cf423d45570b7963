"""LISA in a training loop: every bug of the public implementations, and the limits in which LISA is something known.

The numbers of the bugs: 1 optimizer built after freezing, 2 state that grows, 3 gradients left standing, 4 draws from
the global generator, 5 ranks that draw differently (in test_sampling), 6 rebuilt optimizer, 7 tied embeddings.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from lisa import LISA, decoder_layers, draw_uniform
from tests.lisa.loops import PERIOD, adamw, make, moments_bytes, one_step
from tests.models import LAYERS, changed, copies, loss_of, state_bytes, tiny_gpt2, tiny_llama


def layer_of(name: str) -> int | None:
    """Index of the decoder layer that holds the parameter `name`."""
    parts = name.split(".")
    return next((int(part) for part in parts if part.isdigit()), None)


# --- bugs of public implementations ---------------------------------------------------------------------------------


def test_every_layer_trains_once_it_is_drawn():  # bug 1
    model = tiny_llama()
    lisa, before, drawn = make(model), copies(model), set()
    for step in range(8 * PERIOD):
        one_step(model, lisa, step)
        drawn |= set(lisa.active)
    assert drawn == set(range(LAYERS))
    assert changed(model, before) == set(before)


def test_an_optimizer_built_after_freezing_is_refused():  # bug 1
    model = tiny_llama()
    decoder_layers(model)[1].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with pytest.raises(ValueError, match=r"No parameter of layer 1 requires a gradient"):
        LISA(model, optimizer, 2, PERIOD, 0)
    model.requires_grad_(True)
    with pytest.raises(ValueError, match=r"does not hold all parameters of layer 1"):
        LISA(model, optimizer, 2, PERIOD, 0)


@pytest.mark.parametrize("flags", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_state_holds_active_layers_only(flags):  # bug 2
    model = tiny_llama()
    lisa = make(model, adamw_flags=flags)
    for step in range(20 * PERIOD):
        one_step(model, lisa, step)
        assert state_bytes(lisa.optimizer) == moments_bytes(model, set(lisa.active))


def test_a_toggle_without_dropping_grows():  # what bug 2 looks like: the formula above can tell
    model = tiny_llama()
    lisa = make(model)
    for step in range(8 * PERIOD):
        kept = dict(lisa.optimizer.state)
        lisa.before_step(step)
        lisa.optimizer.state.update(kept)
        loss_of(model, step).backward()
        lisa.optimizer.step()
        lisa.optimizer.zero_grad()
    assert state_bytes(lisa.optimizer) == moments_bytes(model, set(range(LAYERS)))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_frozen_layers_receive_no_update(set_to_none):  # bug 3: not from momentum, not from weight decay
    model = tiny_llama()
    lisa = make(model)
    for step in range(8 * PERIOD):
        if step % PERIOD == 0:
            before = copies(model)
        one_step(model, lisa, step, set_to_none)
        expected = {name for name in before if layer_of(name) is None or layer_of(name) in lisa.active}
        assert changed(model, before) == expected


def test_global_generators_do_not_reach_the_draws():  # bug 4
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        lisa = make(tiny_llama())
        drawn.append([])
        for step in range(0, 9 * PERIOD, PERIOD):
            lisa.before_step(step)
            drawn[-1].append(lisa.active)
            torch.rand(seed)
    assert drawn[0] == drawn[1] == [draw_uniform(0, period, LAYERS, 2) for period in range(9)]


def test_the_learning_rate_goes_on_unbroken():  # bug 6
    model = tiny_llama()
    lisa = make(model)
    optimizer = lisa.optimizer
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    for step in range(4 * PERIOD):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-3 * 0.9**step)
        one_step(model, lisa, step)
        schedule.step()
    assert lisa.optimizer is optimizer is schedule.optimizer


@pytest.mark.parametrize("make_model", [lambda: tiny_llama(tied=True), tiny_gpt2], ids=["llama", "gpt2"])
def test_tied_embeddings_stay_on(make_model):  # bug 7
    model = make_model()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embedding is head
    lisa = make(model)
    for step in range(4 * PERIOD):
        before = embedding.detach().clone()
        one_step(model, lisa, step)
        assert embedding.requires_grad and not torch.equal(embedding, before)
    assert lisa.optimizer.state[embedding]["step"].item() == 4 * PERIOD


# --- limits and semantics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{"fused": True}, {"foreach": False}], ids=str)
def test_gamma_equal_to_all_layers_is_full_finetuning(flags):
    lisa_model, full_model = tiny_llama(), tiny_llama()
    lisa, full = make(lisa_model, gamma=LAYERS, adamw_flags=flags), adamw(full_model, **flags)
    for step in range(30):
        one_step(lisa_model, lisa, step)
        loss_of(full_model, step).backward()
        full.step()
        full.zero_grad()
    assert changed(lisa_model, copies(full_model)) == set()
    pairs = zip(lisa.optimizer.state.values(), full.state.values(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in b)


def test_a_period_counts_optimizer_steps():
    lisa = make(tiny_llama())
    for step in range(5 * PERIOD):
        lisa.before_step(step)
        assert lisa.active == draw_uniform(0, step // PERIOD, LAYERS, 2)


def test_layers_drawn_twice_in_a_row_keep_their_moments_and_others_start_afresh():
    model = tiny_llama()
    lisa = make(model)
    weights = [layer.mlp.up_proj.weight for layer in decoder_layers(model)]
    in_a_row = [0] * LAYERS
    for step in range(12 * PERIOD):
        one_step(model, lisa, step)
        in_a_row = [count + 1 if index in lisa.active else 0 for index, count in enumerate(in_a_row)]
        held = {index: lisa.optimizer.state[weights[index]]["step"].item() for index in lisa.active}
        assert held == {index: in_a_row[index] for index in lisa.active}
    assert max(in_a_row) > PERIOD, "the seed should draw some layer twice in a row"


def test_only_what_required_a_gradient_is_switched():
    """Adapters on frozen weights: the weights below them stay frozen when their layer is drawn."""
    model = tiny_llama()
    for layer in decoder_layers(model):
        layer.mlp.requires_grad_(False)
    lisa = make(model)
    lisa.before_step(0)
    assert not any(p.requires_grad for layer in decoder_layers(model) for p in layer.mlp.parameters())
    assert all(p.requires_grad for index in lisa.active for p in decoder_layers(model)[index].self_attn.parameters())


@pytest.mark.parametrize("other", [{"gamma": 3}, {"seed": 1}, {"sampler": "adaptive"}, {"state": "keep"}], ids=str)
def test_a_checkpoint_of_other_draws_is_refused(other):
    settings = {"gamma": 2, "period_steps": PERIOD, "seed": 0}
    first, second = tiny_llama(), tiny_llama()
    saved = LISA(first, adamw(first), **settings).state_dict()
    lisa = LISA(second, adamw(second), **{**settings, **other})
    (name, value), *_ = other.items()
    with pytest.raises(ValueError, match=rf"{name} .* \(here {value!r}\)"):
        lisa.load_state_dict(saved)


@pytest.mark.parametrize(("gamma", "legal"), [(-1, "a whole number, at least 0"), (LAYERS + 1, rf"0\.\.{LAYERS}")])
def test_gamma_out_of_range_is_an_error(gamma, legal):
    with pytest.raises(ValueError, match=rf"is {gamma}; legal: {legal}"):
        make(tiny_llama(), gamma=gamma)


@pytest.mark.parametrize("seed", [None, "0", 1.0, True])
def test_an_illegal_seed_is_an_error(seed):
    model = tiny_llama()
    with pytest.raises(ValueError, match="seed is .*; legal: a whole number"):
        LISA(model, adamw(model), 2, PERIOD, seed)


@pytest.mark.parametrize("step", [3.0, -1, None])
def test_an_illegal_step_is_an_error(step):
    """As a float, period 1.0 would hash to other layers than period 1."""
    with pytest.raises(ValueError, match="step is .*; legal: a whole number, at least 0"):
        make(tiny_llama()).before_step(step)


@pytest.mark.parametrize("missing", ["embed_tokens", "lm_head", "norm"])
def test_an_optimizer_without_what_trains_always_is_refused(missing):
    model = tiny_llama()
    held = [p for name, p in model.named_parameters() if missing not in name or "layers" in name]
    with pytest.raises(ValueError, match="does not hold all parameters of (embeddings|head|norm)"):
        LISA(model, torch.optim.AdamW(held), 2, PERIOD, 0)


def test_parameters_replaced_after_lisa_was_built_are_an_error():
    """As fully_shard and accelerate's FSDP2 replace them: LISA would switch those that nobody uses any more."""
    model = tiny_llama()
    lisa = make(model)
    lisa.before_step(0)
    weight = decoder_layers(model)[0].mlp.up_proj
    weight.weight = nn.Parameter(weight.weight.detach().clone())
    with pytest.raises(ValueError, match="other parameters than when LISA was built.*Build LISA last"):
        lisa.before_step(PERIOD)


def test_a_model_compiled_as_a_whole_is_warned_of():
    model = torch.compile(tiny_llama())
    with pytest.warns(UserWarning, match="again for every new set of active layers.*compile_layers"):
        make(model)


def test_a_state_that_is_none_of_lisas_is_refused():
    with pytest.raises(ValueError, match="draws other layers"):
        make(tiny_llama()).load_state_dict({})


@pytest.mark.parametrize("period", [0, -3, 2.5, True])
def test_an_illegal_period_is_an_error(period):
    model = tiny_llama()
    with pytest.raises(ValueError, match=f"is {period}; legal: a whole number, at least 1"):
        LISA(model, adamw(model), gamma=2, period_steps=period, seed=0)


@pytest.mark.parametrize("arguments", [{"sampler": "adaptive"}, {"state": "offload"}], ids=str)
def test_closed_it_leaves_no_hook_on_the_optimizer(arguments):
    model = tiny_llama()
    optimizer = adamw(model)
    kinds = ("step_pre", "state_dict_pre", "load_state_dict_pre", "load_state_dict_post")
    before = [len(getattr(optimizer, f"_optimizer_{kind}_hooks")) for kind in kinds]
    lisa = LISA(model, optimizer, 2, PERIOD, 0, **arguments)
    assert [len(getattr(optimizer, f"_optimizer_{kind}_hooks")) for kind in kinds] != before
    lisa.close()
    assert [len(getattr(optimizer, f"_optimizer_{kind}_hooks")) for kind in kinds] == before


@pytest.mark.parametrize("arguments", [{}, {"sampler": "adaptive"}, {"state": "offload"}], ids=str)
def test_an_optimizer_prepared_by_accelerate_is_looked_into(arguments):
    from accelerate import Accelerator

    plain, prepared = tiny_llama(), tiny_llama()
    wrapped = Accelerator(cpu=True).prepare(adamw(prepared))
    lisas = [
        LISA(model, optimizer, 2, PERIOD, 0, **arguments)
        for model, optimizer in ((plain, adamw(plain)), (prepared, wrapped))
    ]
    for step in range(4 * PERIOD):
        one_step(plain, lisas[0], step)
        lisas[1].before_step(step)
        loss_of(prepared, step).backward()
        wrapped.step()
        wrapped.zero_grad()
    assert changed(plain, copies(prepared)) == set()
