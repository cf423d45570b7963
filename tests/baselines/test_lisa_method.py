"""LISA under the contract: what `lisa/` cannot know, the checks on a configuration and the counts in the record."""

from __future__ import annotations

import pytest

import baselines
from baselines.contract import AdamWSettings
from lisa import decoder_layers, draw_uniform
from tests.models import LAYERS, changed, copies, held_bytes, start, tiny_gpt2, tiny_llama

ADAMW = AdamWSettings()


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer"])
def test_gamma_larger_than_the_model_is_an_error_before_anything_is_loaded(key):
    method = baselines.build("lisa", {"gamma": 5}, ADAMW, 0)
    method.check({key: 5})
    with pytest.raises(ValueError, match=r"gamma.* is 5; legal: 0\.\.4"):
        method.check({key: 4})


def test_the_drawn_layers_of_the_period_and_everything_outside_the_layers_train():
    run = start("lisa", seed=11, gamma=1, period_steps=2)
    for period in range(5):
        before = copies(run.model)
        run.train(2 * period, 2 * period + 2)
        (drawn,) = draw_uniform(11, period, LAYERS, 1)
        expected = {name for name in before if ".layers." not in name or f".layers.{drawn}." in name}
        assert changed(run.model, before) == expected


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_counts_tell_what_is_always_on_from_what_is_drawn(make):
    run = start("lisa", make())
    layer = sum(p.numel() for p in decoder_layers(run.model)[0].parameters())
    everything = sum(p.numel() for p in run.model.parameters())
    always, sampled = everything - LAYERS * layer, 2 * layer
    assert run.method.trainable_parameters(run.model) == {
        "always": always,
        "sampled": sampled,
        "total": always + sampled,
    }


def test_the_list_of_layers_can_be_named():
    assert start("lisa", layers="model.layers").train(0, 4).losses == start("lisa").train(0, 4).losses
    with pytest.raises(ValueError, match="No list of layers at 'model.blocks'"):
        start("lisa", layers="model.blocks")


def test_a_checkpoint_of_another_gamma_is_refused():
    checkpoint = start("lisa").train(0, 2).saved()
    with pytest.raises(ValueError, match="draws other layers"):
        start("lisa", gamma=3).load(checkpoint)


def test_gamma_0_has_nothing_that_is_drawn():
    run = start("lisa", gamma=0)
    outside = sum(p.numel() for name, p in run.model.named_parameters() if ".layers." not in name)
    assert run.method.trainable_parameters(run.model) == {"always": outside, "sampled": 0, "total": outside}
    assert list(run.method.drawn_parameters()) == []
    run.method.check({"num_hidden_layers": LAYERS})


VARIANTS = {
    "independent": {"sampler": "independent"},
    "weighted": {"sampler": "weighted", "weights": [1.0, 2.0, 3.0, 4.0]},
    "adaptive": {"sampler": "adaptive"},
    "reset": {"state": "reset"},
    "keep": {"state": "keep"},
    "offload": {"state": "offload"},
    "head-only": {"embeddings": "off", "norm": "off"},
    "embeddings and head": {"gamma": 0},
    "all-drawn": {"embeddings": "drawn", "head": "drawn", "norm": "drawn"},
    "8-bit": {"always_on_moment_bits": 8},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_and_resumes_to_the_bit(variant):
    settings = VARIANTS[variant]
    whole, half = start("lisa", **settings).train(0, 60), start("lisa", **settings).train(0, 31)
    assert sum(whole.losses[-5:]) < 0.8 * sum(whole.losses[:5])
    resumed = start("lisa", tiny_llama(seed=1), **settings).load(half.saved()).train(31, 60)
    assert resumed.losses == whole.losses[31:]


def test_fewer_bits_are_for_embeddings_and_head_only():
    run = start("lisa", always_on_moment_bits=8).train(0, 2)
    quantised = {name for name, p in run.model.named_parameters() if "exp_avg_codes" in run.optimizer.state.get(p, {})}
    assert quantised == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("settings", "always", "drawn"),
    [
        ({"embeddings": "off"}, {"norm", "head"}, set()),
        ({"embeddings": "drawn", "head": "drawn"}, {"norm"}, {"embeddings", "head"}),
    ],
)
def test_counts_follow_what_is_off_or_drawn(settings, always, drawn):
    run = start("lisa", **settings)
    sizes = {"embeddings": run.model.model.embed_tokens.weight.numel(), "norm": run.model.model.norm.weight.numel()}
    sizes["head"] = run.model.lm_head.weight.numel()
    layers = sum(p.numel() for layer in decoder_layers(run.model) for p in layer.parameters())
    units = LAYERS + len(drawn)
    counts = run.method.trainable_parameters(run.model)
    assert counts["always"] == sum(sizes[part] for part in always)
    assert counts["sampled"] == 2 * (layers + sum(sizes[part] for part in drawn)) // units


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"always_on_moment_bits": 4}, r"always_on_moment_bits is 4; legal: \(8, 32\)"),
        ({"sampler": "greedy"}, "Unknown sampler 'greedy'"),
        ({"state": "forget"}, "Unknown treatment of optimizer state 'forget'"),
        ({"head": True}, "'head'.*is True.*legal: str"),
        ({"norm": "maybe"}, "norm is 'maybe'; legal: on, off, drawn"),
        ({"sampler": "weighted"}, "needs weights"),
        ({"weights": [1.0, 2.0]}, "takes no weights"),
        ({"sampler": "weighted", "weights": [1.0, -2.0]}, "weight of layer 1 is -2.0"),
    ],
)
def test_illegal_hyperparameters_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        baselines.build("lisa", settings, ADAMW, 0)


def test_weights_are_counted_before_anything_is_loaded():
    method = baselines.build("lisa", {"sampler": "weighted", "weights": [1.0] * 5, "head": "drawn"}, ADAMW, 0)
    method.check({"num_hidden_layers": 4})
    with pytest.raises(ValueError, match="5 weights for 9 layers to draw from"):
        method.check({"num_hidden_layers": 8})


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        ({"embeddings": "off"}, {"num_hidden_layers": 4, "tie_word_embeddings": True}, "one matrix"),
        (
            {"gamma": 6, "head": "drawn", "embeddings": "drawn"},
            {"num_hidden_layers": 4, "tie_word_embeddings": True},
            "0..5",
        ),
    ],
)
def test_choices_that_a_tied_model_cannot_follow_are_an_error_before_it_is_loaded(settings, config, message):
    with pytest.raises(ValueError, match=message):
        baselines.build("lisa", settings, ADAMW, 0).check(config)


def test_a_draw_that_may_be_empty_is_an_error_before_anything_is_loaded():
    off = {"embeddings": "off", "head": "off", "norm": "off"}
    with pytest.raises(ValueError, match="may draw no layer, and nothing trains always"):
        baselines.build("lisa", {"sampler": "independent", **off}, ADAMW, 0)
    with pytest.raises(ValueError, match="gamma=0 draws no layer, and nothing trains always"):
        baselines.build("lisa", {"gamma": 0, **off}, ADAMW, 0)


@pytest.mark.parametrize("options", [{"state": "keep"}, {"state": "reset"}, {"always_on_moment_bits": 8}], ids=str)
def test_the_bytes_of_state_are_known_for_every_treatment(options):
    run = start("lisa", **options).train(0, 40)  # every layer was drawn
    assert held_bytes(run.optimizer) == run.method.state_bytes(run.model)
