"""OwLore draws by outliers: the shares against an obvious slow twin, the draws against the shares."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import baselines
from baselines._outliers import count_outliers
from lisa import decoder_layers
from tests.models import LAYERS, Run, batch, copies, start, tiny_gpt2, tiny_llama

FACTOR = 4.0  # even random weights have outliers
HIGH = 8.0  # only planted ones are
MAKERS = {"llama": tiny_llama, "gpt2": tiny_gpt2}


def whole_batch(tokens: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    tokens = batch(0) if tokens is None else tokens
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def plant(model: torch.nn.Module, layer: int = 2) -> torch.nn.Module:
    """Make some weights of a layer's first matrix (Llama: of the queries) far larger than its others."""
    with torch.no_grad():
        next(p for p in decoder_layers(model)[layer].parameters() if p.ndim == 2)[::8, ::8] *= 40
    return model


def slow_counts(model: torch.nn.Module, tokens: torch.Tensor, factor: float) -> list[tuple[int, int]]:
    """All inputs kept, all scores of a layer in one list."""
    counts = []
    for layer in decoder_layers(model):
        scores = []
        for module in layer.modules():
            if type(module).__name__ not in ("Linear", "Conv1D"):
                continue
            inputs = []
            hook = module.register_forward_hook(lambda _, given, __, inputs=inputs: inputs.append(given[0].detach()))
            model(input_ids=tokens)
            hook.remove()
            weight = module.weight if type(module).__name__ == "Linear" else module.weight.T  # (out, in)
            for j, column in enumerate(inputs[0].flatten(0, 1).T):  # (tokens,)
                scores += [abs(w) * column.square().sum().sqrt().item() for w in weight[:, j].tolist()]
        mean = sum(scores) / len(scores)
        counts.append((sum(score > factor * mean for score in scores), len(scores)))
    return counts


@pytest.mark.parametrize("kind", MAKERS)
def test_outliers_are_those_of_an_obvious_slow_count(kind):
    model = plant(MAKERS[kind](), 1).eval()
    counted = count_outliers(model, decoder_layers(model), [whole_batch()], FACTOR)
    assert counted == slow_counts(model, batch(0), FACTOR)
    assert sum(outliers for outliers, _ in counted) > 0


def test_padding_and_the_division_into_batches_have_no_say():
    model = plant(tiny_llama())
    layers, tokens = decoder_layers(model), batch(3)
    padded = {
        "input_ids": torch.cat([tokens, torch.full((4, 5), 9)], dim=1),
        "attention_mask": torch.cat([torch.ones_like(tokens), torch.zeros(4, 5, dtype=torch.long)], dim=1),
    }
    whole = count_outliers(model, layers, [whole_batch(tokens)], FACTOR)
    assert count_outliers(model, layers, [padded], FACTOR) == whole
    assert count_outliers(model, layers, [whole_batch(part) for part in tokens.chunk(2)], FACTOR) == whole


def test_counting_leaves_the_model_as_it_was():
    model = plant(tiny_llama()).train()
    before = copies(model)
    count_outliers(model, decoder_layers(model), [whole_batch()], FACTOR)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


def calibrated(model: torch.nn.Module, **overrides: object) -> Run:
    run = start("owlore", model, **{"outlier_factor": HIGH, **overrides})
    run.method.calibrate(run.model, [whole_batch()])
    return run


def drawn(run: Run, periods: int) -> list[tuple[int, ...]]:
    made = []
    for period in range(periods):
        run.method.before_step(period * run.method.hyperparameters.period_steps)
        made.append(run.method.lisa.active)
    return made


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_layer_with_planted_outliers_is_drawn_most(layer):
    run = calibrated(plant(tiny_llama(), layer))
    often = Counter(index for active in drawn(run, 100) for index in active)
    assert often[layer] > 90
    assert all(often[other] > 0 for other in range(LAYERS)), "but every layer has its turn"
    assert often[layer] > 1.5 * max(often[other] for other in range(LAYERS) if other != layer)


@pytest.mark.parametrize("factor", [FACTOR, HIGH])
def test_layers_are_drawn_as_often_as_their_shares_say(factor):
    run = calibrated(plant(tiny_llama()), gamma=1, outlier_factor=factor)
    shares = run.method.outlier_shares
    often = Counter(active[0] for active in drawn(run, 1000))
    for layer in range(LAYERS):
        assert often[layer] / 1000 == pytest.approx(shares[layer] / sum(shares), abs=0.05)


def test_shares_are_counted_with_one_outlier_more_in_every_layer():
    run = calibrated(plant(tiny_llama()))
    counts = count_outliers(run.model, decoder_layers(run.model), [whole_batch()], HIGH)
    assert run.method.outlier_shares == [(outliers + 1) / weights for outliers, weights in counts]


def test_without_any_outlier_layers_are_drawn_uniformly():
    run = start("owlore", outlier_factor=1e6, seed=3)
    run.method.calibrate(run.model, [whole_batch()])
    uniform = start("lisa_galore", seed=3)
    assert drawn(run, 50) == drawn(uniform, 50)


def test_a_run_that_never_saw_data_is_an_error():
    with pytest.raises(RuntimeError, match=r"no outliers to draw layers by at step 0; call calibrate\(\)"):
        start("owlore").method.before_step(0)


def test_a_resumed_run_draws_by_the_shares_of_the_model_it_began_with():
    run = calibrated(plant(tiny_llama()))
    checkpoint = run.train(0, 4).saved()
    resumed = start("owlore", outlier_factor=HIGH).load(checkpoint)
    assert resumed.method.outlier_shares == run.method.outlier_shares
    assert drawn(resumed, 20)[2:] == drawn(run, 20)[2:]


@pytest.mark.parametrize("override", [{"gamma": -1}, {"rank": 0}, {"outlier_factor": 0.0}])
def test_an_illegal_value_is_an_error_with_what_is_legal(override):
    (key, value) = next(iter(override.items()))
    with pytest.raises(ValueError, match=f"{key}.* {value!r}.*; legal: "):
        baselines.hyperparameters("owlore", override)
