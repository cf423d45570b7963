from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.eval.benchmark_data import write_checkpoint
from tests.models import start, tiny_llama
from workflow.engine.errors import InputError
from workflow.engine.models import count_parameters, load_model, load_tokenizer, sha256_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), context_tokens=64)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("bf16-mixed", "float32")])
def test_weights_have_the_precision_of_the_recipe(checkpoint: Path, precision: str, dtype: str) -> None:
    model = load_model(checkpoint, precision=precision, attention="sdpa", device=CPU, training=True)
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_asked_for_is_used(checkpoint: Path, attention: str) -> None:
    model = load_model(checkpoint, precision="fp32", attention=attention, device=CPU, training=True)
    assert model.config._attn_implementation == attention


def test_the_cache_is_off_for_training_and_on_for_generation(checkpoint: Path) -> None:
    for training in (True, False):
        model = load_model(checkpoint, precision="fp32", attention="sdpa", device=CPU, training=training)
        assert model.config.use_cache is not training


def test_shared_parameters_count_once() -> None:
    tied, untied = count_parameters(tiny_llama(tied=True)), count_parameters(tiny_llama(tied=False))
    assert untied - tied == tiny_llama().get_input_embeddings().weight.numel()


def test_a_tokenizer_without_padding_pads_with_the_end_of_sequence(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token_id == loaded.eos_token_id is not None


def test_a_tokenizer_without_an_end_of_sequence_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path}: the tokenizer has no end-of-sequence token"):
        load_tokenizer(tmp_path)


def test_a_folders_checksum_moves_with_names_and_contents_and_not_with_its_manifest_or_card(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    first = sha256_folder(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "README.md").write_text("what it scored")
    assert sha256_folder(tmp_path) == first
    (tmp_path / "b").write_text("3")
    assert (changed := sha256_folder(tmp_path)) != first
    (tmp_path / "b").rename(tmp_path / "c")
    assert sha256_folder(tmp_path) not in (first, changed)


@pytest.mark.parametrize("method", ["series_adapter", "parallel_adapter", "prefix_tuning"])
def test_a_tokenizer_beside_a_modelling_file_loads_without_a_question_or_a_warning(
    method: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run, asked = start(method), []
    run.method.export(run.model, tmp_path)
    load_tokenizer(checkpoint).save_pretrained(tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    capfd.readouterr()
    assert load_tokenizer(tmp_path)("a question").input_ids == load_tokenizer(checkpoint)("a question").input_ids
    shown = "".join(capfd.readouterr()) + caplog.text
    assert not asked and "custom code" not in shown and "You are using a model of type" not in shown
