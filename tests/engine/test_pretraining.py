from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.workflow.experiments import ARCHITECTURE, PHASE
from workflow.engine.models import load_model, load_tokenizer, sha256_folder
from workflow.engine.plain_text import pack
from workflow.engine.pretraining import SPECIAL, build_model, pretrain, train_tokenizer

TEXT = "The baker of Elm lives in the town of Oakham. " * 60


def test_the_tokenizer_takes_any_text_there_and_back() -> None:
    tokenizer = train_tokenizer([TEXT], 300)
    for text in ("Oakham", "  two spaces\n\n\ttab ", "Grüße, 日本 🙂", "\x00\x7f", ""):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert not {*ids} & {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}


def test_the_tokenizer_has_the_size_asked_for_and_three_special_tokens() -> None:
    tokenizer = train_tokenizer([f"{i} towns, {i * i} people." for i in range(200)], 300)
    assert len(tokenizer) == 300
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == len(SPECIAL) == 3


def test_the_tokenizer_is_the_same_twice() -> None:
    assert train_tokenizer([TEXT], 300).get_vocab() == train_tokenizer([TEXT], 300).get_vocab()


def small_base(folder: Path, seed: int = 0) -> tuple[Any, float | None]:
    """Two steps of the smallest model; its checkpoint stands in `folder`."""
    folder.mkdir()
    tokenizer = train_tokenizer([TEXT], 300)
    sequences = pack(tokenizer(TEXT, add_special_tokens=False)["input_ids"], PHASE["sequence_length"], "length")
    model = build_model(ARCHITECTURE, tokenizer, seed)
    loss = pretrain(model, sequences[1:], sequences[:1], {**PHASE, "seed": seed}, folder)
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    return model, loss


def test_a_pretrained_model_is_a_checkpoint_that_loads_and_differs_from_its_beginning(tmp_path: Path) -> None:
    model, loss = small_base(tmp_path / "a")
    tokenizer = load_tokenizer(tmp_path / "a/checkpoint")
    loaded = load_model(
        tmp_path / "a/checkpoint", precision="fp32", attention="sdpa", device=torch.device("cpu"), training=False
    )
    trained, found = model.state_dict(), loaded.state_dict()
    assert trained.keys() == found.keys()
    assert all(torch.equal(trained[name], found[name]) for name in trained)
    untrained = build_model(ARCHITECTURE, tokenizer, 0).state_dict()
    assert not torch.equal(untrained["lm_head.weight"], found["lm_head.weight"])
    ids = [loaded.config.bos_token_id, loaded.config.eos_token_id, loaded.config.pad_token_id]
    assert ids == [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert loss is not None
    lines = [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()]
    assert sum("loss" in line for line in lines) == PHASE["steps"]


def test_pretraining_twice_is_the_same_bit_for_bit_and_another_seed_is_not(tmp_path: Path) -> None:
    first, second, other = (small_base(tmp_path / name, seed)[1] for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == second != other
    sums = [sha256_folder(tmp_path / name / "checkpoint") for name in "abc"]
    assert sums[0] == sums[1] != sums[2]
