"""Norms of parts: of all numbers once, of adapters and merged weights apart, and what the paper's figure 2 shows."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from tests.engine.test_training import STEPS, losses, make_loop
from tests.models import LAYERS, start, tiny_gpt2, tiny_llama
from workflow.engine.weight_norms import PIECE, norm, part_norms

BLOCK = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL = [*BLOCK, "embed_tokens", "lm_head"]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def norms(model: nn.Module, kind: str) -> dict[str, float]:
    return {part: value for part, its_kind, value in part_norms(model) if its_kind == kind}


def of(model: nn.Module, *words: str) -> float:
    """The norm of the parameters whose name has all the words."""
    flat = [p.detach().double().flatten() for name, p in model.named_parameters() if all(w in name for w in words)]
    return torch.linalg.vector_norm(torch.cat(flat)).item()


# --- parts


def test_every_part_has_the_norm_of_its_parameters():
    model = tiny_llama()
    names = {"embeddings": "embed_tokens", "norm": "model.norm.", "head": "lm_head"}
    names |= {f"layer {index}": f"layers.{index}." for index in range(LAYERS)}
    assert norms(model, "weights") == pytest.approx({part: of(model, name) for part, name in names.items()}, rel=1e-12)


def tied_llama() -> nn.Module:
    return tiny_llama(tied=True)


@pytest.mark.parametrize("make", [tiny_llama, tied_llama, tiny_gpt2])
def test_every_number_of_the_model_counts_once(make):
    model = make()
    assert math.hypot(*norms(model, "weights").values()) == pytest.approx(of(model), rel=1e-12)


@pytest.mark.parametrize("make", [tied_llama, tiny_gpt2])
def test_one_matrix_for_embedding_and_head_is_one_part(make):
    parts = list(norms(make(), "weights"))
    assert parts[0] == "embeddings and head"
    assert parts[-1] == "norm"


def test_a_norm_is_summed_in_double_precision_over_pieces():
    """In single precision it would be right to seven digits, and on the CPU to fewer for a large matrix."""
    ones = torch.ones(1).expand(PIECE + 7)
    assert norm([ones, ones[:2]]) == pytest.approx(math.sqrt(PIECE + 9), rel=1e-14)
    assert norm([torch.full((3,), 256.0, dtype=torch.bfloat16)]) == pytest.approx(256 * math.sqrt(3), rel=1e-14)


# --- LoRA


def test_before_training_the_merged_weights_are_the_models_own():
    plain = norms(tiny_llama(), "weights")
    assert norms(start("lora", target_modules=ALL).model, "merged") == plain


@pytest.mark.parametrize(
    ("make", "targets"),
    [(tiny_llama, ALL), (tiny_gpt2, "all-linear"), (lambda: tiny_llama().to(torch.bfloat16), ALL)],
)
def test_merged_norms_are_those_of_the_exported_model(make, targets, tmp_path: Path):
    run = start("lora", make(), lr=1e-2, target_modules=targets).train(0, 8)
    before = norms(run.model, "merged")
    run.method.export(run.model, tmp_path)
    assert before == norms(AutoModelForCausalLM.from_pretrained(tmp_path), "weights")
    assert before != norms(make(), "weights")


def test_adapter_norms_are_those_of_a_and_b_in_the_part():
    model = start("lora", lr=1e-2, target_modules=ALL).train(0, 8).model
    found = norms(model, "adapter")
    assert found.pop("embeddings") == pytest.approx(of(model, "embed_tokens.lora_"), rel=1e-12)
    assert found.pop("head") == pytest.approx(of(model, "lm_head.lora_"), rel=1e-12)
    assert found == pytest.approx({f"layer {n}": of(model, f"layers.{n}.", ".lora_") for n in range(LAYERS)}, rel=1e-12)


def test_a_part_without_adapter_has_no_adapter_norm():
    model = start("lora").model
    assert list(norms(model, "adapter")) == [f"layer {index}" for index in range(LAYERS)]
    assert {"embeddings", "norm", "head"} < set(norms(model, "merged"))


def test_a_tied_matrix_under_lora_counts_once_and_its_adapters_both():
    run = start("lora", tied_llama(), target_modules=ALL)
    assert norms(run.model, "merged") == norms(tied_llama(), "weights")
    both = math.hypot(of(run.model, "embed_tokens.lora_"), of(run.model, "lm_head.lora_"))
    assert norms(run.model, "adapter")["embeddings and head"] == pytest.approx(both, rel=1e-12)


def test_norms_leave_the_model_as_it_was():
    run, twin = (start("lora", lr=1e-2, target_modules=ALL) for _ in range(2))
    for step in range(6):
        part_norms(run.model)
        run.train(step, step + 1)
    assert run.losses == twin.train(0, 6).losses


class Inputs(nn.Module):
    """Modules with the input sizes of LLaMA-2-7B; what LoRA starts with does not depend on the other size."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(8, 4096)
        self.lm_head = nn.Linear(4096, 8, bias=False)
        for name in BLOCK:
            setattr(self, name, nn.Linear(11008 if name == "down_proj" else 4096, 8, bias=False))


def test_the_papers_figure_2_shows_how_peft_initialises_adapters():
    """Published for LLaMA-2-7B under LoRA of rank 128: embedding about 700, every block about 17, head 6 to 7."""
    torch.manual_seed(0)
    model = get_peft_model(Inputs(), LoraConfig(r=128, target_modules=ALL))
    block = math.hypot(*(of(model, f"{name}.lora_") for name in BLOCK))
    assert of(model, "embed_tokens.lora_") == pytest.approx(math.sqrt(4096 * 128), rel=0.01)  # 724
    assert block == pytest.approx(math.sqrt(7 * 128 / 3), rel=0.01)  # 17.3
    assert of(model, "lm_head.lora_") == pytest.approx(math.sqrt(128 / 3), rel=0.01)  # 6.5


# --- in the loop


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "weight_norms.csv").read_text().splitlines()))


def test_norms_are_recorded_before_the_first_step_every_so_many_and_after_the_last(tmp_path: Path):
    make_loop(tmp_path, weight_norms_every_steps=7).run()
    assert [int(row["step"]) for row in rows(tmp_path) if row["part"] == "head"] == [0, 7, 14, STEPS]


def test_the_first_norms_are_of_the_given_model_and_the_last_of_the_trained_one(tmp_path: Path):
    loop = make_loop(tmp_path, weight_norms_every_steps=10)
    given = norms(loop.model, "weights")
    trained = norms(loop.run().model, "weights")
    for step, expected in ((0, given), (STEPS, trained)):
        assert {row["part"]: float(row["norm"]) for row in rows(tmp_path) if int(row["step"]) == step} == expected


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path):
    (tmp_path / "weight_norms.csv").write_text("of an earlier training")
    make_loop(tmp_path).run()
    assert not (tmp_path / "weight_norms.csv").exists()


@pytest.mark.parametrize("method", ["full", "lora", "lisa"])
def test_recording_changes_no_loss(method: str, tmp_path: Path):
    found = []
    for every in (None, 1):
        folder = tmp_path / str(every)
        folder.mkdir()
        make_loop(folder, method, weight_norms_every_steps=every).run()
        found.append(losses(folder))
    assert found[0] == found[1]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_and_resumed_run_leaves_the_rows_of_an_uninterrupted_one(method: str, tmp_path: Path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    make_loop(tmp_path / "whole", method, weight_norms_every_steps=3).run()
    killed = make_loop(tmp_path / "killed", method, weight_norms_every_steps=3, checkpoint_every_steps=7)
    step_of = killed._step

    def die_at_step_17(step: int, *arguments: object, **keywords: object) -> dict[str, object]:
        if step == 17:
            raise KeyboardInterrupt
        return step_of(step, *arguments, **keywords)

    killed._step = die_at_step_17
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert int(rows(tmp_path / "killed")[-1]["step"]) == 15  # after the last checkpoint
    (tmp_path / "killed" / "weight_norms.csv").unlink()  # as Snakemake does before it starts the run again
    resumed = make_loop(tmp_path / "killed", method, weight_norms_every_steps=3, checkpoint_every_steps=7).run()
    assert resumed.resumed_at_step == 14
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
