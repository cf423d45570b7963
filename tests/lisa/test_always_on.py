"""What lies outside the decoder layers: always on, off, or drawn like a layer."""

from __future__ import annotations

import itertools

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from lisa import LISA
from lisa.layers import parts
from tests.lisa.loops import PERIOD, SAMPLERS, adamw, make, one_step, train
from tests.lisa.test_layers import FAMILIES, SIZES
from tests.models import LAYERS, changed, copies, loss_of, tiny_gpt2, tiny_llama

MATRICES = {"embeddings": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}


def outside(names: set[str]) -> set[str]:
    """Which of embeddings, norm and head are among the parameters `names`."""
    return {part for part, name in MATRICES.items() if name in names}


@pytest.mark.parametrize("choices", [*itertools.product(["on", "off"], repeat=3)], ids="-".join)
def test_exactly_what_is_on_trains(choices):
    model = tiny_llama()
    lisa = make(model, **dict(zip(MATRICES, choices, strict=True)))
    before = copies(model)
    train(model, lisa, 0, PERIOD)
    on = {part for part, choice in zip(MATRICES, choices, strict=True) if choice == "on"}
    assert outside(changed(model, before)) == on
    held = {name for name, p in model.named_parameters() if p in lisa.optimizer.state}
    assert outside(held) == on


def test_what_is_off_lets_go_of_gradient_and_state_of_an_earlier_training():
    model = tiny_llama()
    first = make(model)
    train(model, first, 0, 1)
    loss_of(model, 1).backward()
    embedding = model.get_input_embeddings().weight
    assert embedding.grad is not None and embedding in first.optimizer.state
    model.requires_grad_(True)
    LISA(model, first.optimizer, 2, PERIOD, 0, embeddings="off")
    assert embedding.grad is None and embedding not in first.optimizer.state


@pytest.mark.parametrize("gamma", [1, 3])
def test_what_is_drawn_is_one_more_unit_and_trains_only_then(gamma):
    model = tiny_llama()
    lisa = make(model, gamma=gamma, embeddings="drawn", head="drawn", norm="drawn")
    layers = tuple(f"layer {index}" for index in range(LAYERS))
    assert lisa.units == (*layers, "embeddings", "head", "norm")
    seen: set[str] = set()
    for period in range(50):
        before = copies(model)
        train(model, lisa, period * PERIOD, (period + 1) * PERIOD)
        active = {lisa.units[index] for index in lisa.active}
        assert len(active) == gamma
        assert outside(changed(model, before)) == active - set(layers)
        seen |= active
    assert seen == set(lisa.units)


def test_everything_drawn_at_once_is_full_finetuning():
    lisa_model, full_model = tiny_llama(), tiny_llama()
    lisa = make(lisa_model, gamma=LAYERS + 2, embeddings="drawn", head="drawn")
    full = make(full_model, gamma=LAYERS)
    assert train(lisa_model, lisa, 0, 12) == train(full_model, full, 0, 12)


@pytest.mark.parametrize("make_model", [lambda: tiny_llama(tied=True), tiny_gpt2], ids=["llama", "gpt2"])
def test_a_tied_matrix_is_one_unit_and_cannot_be_chosen_two_ways(make_model):
    lisa = make(make_model(), embeddings="drawn", head="drawn")
    assert lisa.units[LAYERS:] == ("embeddings",)
    for choices in ({"embeddings": "off"}, {"head": "drawn"}, {"embeddings": "drawn", "head": "off"}):
        with pytest.raises(ValueError, match="one matrix, but embeddings=.* and head="):
            make(make_model(), **choices)


def test_an_unknown_choice_is_an_error():
    with pytest.raises(ValueError, match="head is 'sometimes'; legal: on, off, drawn"):
        make(tiny_llama(), head="sometimes")


def test_a_set_that_may_be_empty_is_refused():
    """The independent sampler may draw nothing: a backward without any trainable parameter fails."""
    off = {"embeddings": "off", "head": "off", "norm": "off"}
    with pytest.raises(ValueError, match="may draw no layer, and nothing trains always"):
        make(tiny_llama(), sampler="independent", **off)
    model = tiny_llama()
    lisa = make(model, sampler="independent", **{**off, "norm": "on"})
    train(model, lisa, 0, 12 * PERIOD)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gamma_0_trains_what_trains_always_and_nothing_else(sampler):
    model = tiny_llama()
    lisa, before = make(model, gamma=0, sampler=sampler, **SAMPLERS[sampler]), copies(model)
    losses = train(model, lisa, 0, 12 * PERIOD)
    assert changed(model, before) == set(MATRICES.values())
    assert {name for name, p in model.named_parameters() if p in lisa.optimizer.state} == set(MATRICES.values())
    assert sum(losses[-PERIOD:]) < 0.8 * sum(losses[:PERIOD])


@pytest.mark.parametrize("embeddings", ["off", "drawn"])
def test_gamma_0_with_nothing_that_trains_always_is_refused(embeddings):
    with pytest.raises(ValueError, match="gamma=0 draws no layer, and nothing trains always"):
        make(tiny_llama(), gamma=0, embeddings=embeddings, head="off", norm="off")


def test_gamma_counts_what_is_drawn_too():
    make(tiny_llama(), gamma=LAYERS + 1, head="drawn")
    with pytest.raises(ValueError, match=rf"legal: 0\.\.{LAYERS + 1}"):
        make(tiny_llama(), gamma=LAYERS + 2, head="drawn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "gaussian"}, "Unknown sampler 'gaussian'. Known: uniform, independent, weighted, adaptive"),
        ({"sampler": "weighted"}, "needs weights: one positive number for each unit"),
        ({"sampler": "weighted", "weights": [1.0, 2.0]}, "2 weights for 4 layers"),
        ({"sampler": "uniform", "weights": [1.0] * 4}, "takes no weights; legal with: independent, weighted"),
        ({"sampler": "weighted", "weights": [1.0, 1.0, 0.0, 1.0]}, "weight of layer 2 is 0.0"),
    ],
)
def test_illegal_samplers_and_weights_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_llama(), **arguments)


# --- the parts of a model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_parameter_is_in_exactly_one_part_in_every_family(family, tied):
    sizes = {**SIZES, **FAMILIES[family], "tie_word_embeddings": tied}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    found = parts(model)
    everything = [*found.embeddings, *found.norm, *found.head, *(p for layer in found.layers for p in layer)]
    assert sorted(map(id, everything)) == sorted(map(id, model.parameters()))
    input_matrix, output_matrix = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert found.tied is (input_matrix is output_matrix)
    assert any(p is input_matrix for p in found.embeddings)
    assert any(p is output_matrix for p in (found.embeddings if found.tied else found.head))
    assert all(p.ndim == 1 or "proj" in name for name, p in named(model, found.norm))


def named(model, parameters):
    ids = {id(p) for p in parameters}
    return [(name, p) for name, p in model.named_parameters() if id(p) in ids]


def test_learned_positions_are_embeddings():
    model = tiny_gpt2()
    assert {name for name, _ in named(model, parts(model).embeddings)} == {
        "transformer.wte.weight",
        "transformer.wpe.weight",
    }


def test_adapters_of_embedding_and_head_belong_to_them():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["embed_tokens", "lm_head", "q_proj"]))
    found = parts(model)
    adapters = {part: [name for name, p in named(model, getattr(found, part)) if p.requires_grad] for part in MATRICES}
    assert {part: len(names) for part, names in adapters.items()} == {"embeddings": 2, "norm": 0, "head": 2}
    assert all("embed_tokens" in name for name in adapters["embeddings"])
    lisa = LISA(model, adamw(model), 2, PERIOD, 0, head="off")
    before = copies(model)
    for step in range(PERIOD):
        one_step(model, lisa, step)
    moved = changed(model, before)
    assert any("embed_tokens.lora" in name for name in moved) and not any("lm_head" in name for name in moved)
