"""The command `lisa-bench`: its subcommands, `fit` from words to answer, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from workflow import cli
from workflow.commands import fit_text
from workflow.engine.cards import card_memory_bytes

TINY = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FIT = ["fit", "llama-2-7b", "--method", "lisa", "--gpu", "24GiB"]


@pytest.fixture(autouse=True)
def this_process_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `prepare_process` changes in its own process is changed back."""
    for name in ("OMP_NUM_THREADS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    with warnings.catch_warnings():
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A model folder with nothing but its configuration."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return str(tmp_path)


def answered(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stdout after a command that ended well."""
    assert cli.main(words) == 0
    return capsys.readouterr().out


def with_option(*words: str) -> list[str]:
    """A legal `fit` with these words behind it; the last of two equal options counts."""
    return [*FIT, *words]


# --- the command


def test_alone_it_lists_the_commands(capsys):
    for words in ([], ["--help"]):
        assert all(f"  {name} " in answered(words, capsys) for name in cli.COMMANDS)


def test_help_loads_nothing_that_takes_seconds():
    code = "import sys; from workflow import cli; cli.main(['fit', '--help'])"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "lisa-bench fit llama-2-7b" in done.stdout
    heavy = (
        " torch",
        " transformers",
        " numpy",
        " scipy",
        " pandas",
        " datasets",
        " lm_eval",
        " matplotlib",
        " plotly",
    )
    assert not [line for line in done.stderr.splitlines() if line.endswith(heavy)]


def test_installed_command_is_this_folders():
    command = Path(sys.executable).parent / "lisa-bench"
    code = "import workflow; print(workflow.__file__)"
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True).stdout
    assert Path(here.strip()) == Path(cli.__file__).parent / "__init__.py", "run `make install`"
    assert "fit" in subprocess.run([command], capture_output=True, text=True, cwd="/", check=True).stdout


# --- mistakes


def t5(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 64}))
    return str(folder)


MISTAKES = {
    "command": (["fti"], f"Unknown command 'fti'. Did you mean 'fit'. Known: {', '.join(cli.COMMANDS)}."),
    "no card": (["fit", "llama-2-7b", "--method", "lisa"], "required: --gpu"),
    "card": (with_option("--gpu", "RTX 4091"), "Unknown card 'RTX 4091'. Did you mean 'RTX 4090'. Known: RTX 3060"),
    "two cards": (with_option("--gpu", "A100"), "A100 40GB, A100 80GB"),
    "unit": (with_option("--gpu", "24"), "needs a unit: 24GiB or 24GB"),
    "model": (["fit", "lama-2-7b", *FIT[2:]], "Unknown model 'lama-2-7b'. Did you mean 'llama-2-7b'. Known: gpt2"),
    "no folder": (["fit", "./nowhere", *FIT[2:]], "Unknown model './nowhere'"),
    "method": (with_option("--method", "lsia"), "Unknown method 'lsia'. Known: .*full, .*lisa, "),
    "one of two methods": (with_option("--method", "lisa,lsia"), "Unknown method 'lsia'"),
    "no training": (with_option("--method", "vanilla"), "'vanilla' does not train"),
    "batch": (with_option("--batch", "0"), "--batch: '0' is not a whole number from 1 on"),
    "half a batch": (with_option("--batch", "1.5"), "--batch: '1.5' is not a whole number from 1 on"),
    "positions": (with_option("--sequence", "4097"), "4097 on a model with 4096 positions; legal: up to 4096"),
    "precision": (with_option("--precision", "fp8"), "--precision: invalid choice: 'fp8' .*fp32.*bf16"),
    "norm": (with_option("--max-grad-norm", "-1"), "'-1' is neither a number above 0 nor none"),
    "unknown key": (with_option("--set", "gama=4"), r"'gama'. Did you mean 'gamma'\? Known: lisa: "),
    "key of no method": (
        with_option("--method", "lisa,full", "--set", "rank=4"),
        "'rank'.* Known: lisa:.*; full: none",
    ),
    "type": (with_option("--set", "gamma=two"), "'gamma' of method lisa is 'two', of type str; legal: int"),
    "no value": (with_option("--set", "gamma"), "'gamma' is not KEY=VALUE"),
    "layers": (with_option("--set", "gamma=33"), "gamma.* is 33; legal: 0..32"),
    "stepping": (with_option("--step-in-backward", "--accumulation", "2"), "accumulation_steps is 2"),
    "clipping": (with_option("--step-in-backward", "--max-grad-norm", "1"), "max_grad_norm 1.0"),
    "abbreviation": (with_option("--seq", "64"), "unrecognized arguments: --seq 64"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(name, capsys):
    words, expected = MISTAKES[name]
    try:
        code = cli.main(words)
    except SystemExit as stop:  # argparse ends the process
        code = stop.code
    shown = capsys.readouterr()
    assert code == 2 and shown.out == ""
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert re.search(expected, shown.err)


def test_a_model_that_is_no_decoder_is_named(tmp_path, capsys):
    assert cli.main(["fit", t5(tmp_path), *FIT[2:]]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "model_type 't5' is an encoder-decoder" in shown


# --- answers


def test_json_is_one_object_that_explains_itself(tiny, capsys):
    words = ["fit", tiny, "--method", "lisa", "--gpu", "1GiB", "--sequence", "64", "--set", "gamma=1", "--json"]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["model"] == tiny and found["method"] == "lisa" and found["hyperparameters"]["gamma"] == 1
    assert found["conditions"]["sequence_length"] == 64
    assert found["gpu_memory_bytes"] == 2**30
    assert found["needed_bytes"] == found["predicted_peak_bytes"] + found["margin_bytes"]
    assert found["spare_bytes"] == 2**30 - found["needed_bytes"] and found["fits"] is True
    assert found["margin_calibrated"] is False
    assert sum(found["components"].values()) == found["predicted_peak_bytes"]
    assert list(found["phases"]) == ["load", "forward", "backward", "step"]
    assert found["largest_batch"] > 1 and found["largest_sequence"] == found["largest_sequence_limit"] == 256
    from workflow.commands import fit

    assert [key for key in found if key not in fit.__doc__ + "schema_version"] == []


def test_text_says_the_same_as_json(tiny, capsys):
    words = ["fit", tiny, "--method", "lora", "--gpu", "RTX 4090", "--sequence", "64", "--no-search"]
    found, text = json.loads(answered([*words, "--json"], capsys)), answered(words, capsys)
    assert f"{found['spare_bytes'] / 1e9:.2f} GB ({found['spare_bytes'] / 2**30:.2f} GiB) to spare" in text
    assert found["gpu_memory_bytes"] == card_memory_bytes("RTX 4090")
    assert f"in {found['peak_phase']}, at {found['peak_operator'].removesuffix('.default')}" in text
    assert "uncalibrated" in text and "largest" not in text and found["largest_batch"] is None
    assert max(map(len, text.splitlines()[1:])) <= fit_text.WIDTH


def test_settings_and_conditions_reach_the_simulation(tiny, capsys):
    words = ["fit", tiny, "--gpu", "8GiB", "--no-search", "--json", "--sequence", "64"]
    options = ["--batch", "3", "--accumulation", "2", "--precision", "fp32", "--attention", "eager", "--checkpointing"]
    options += ["--adamw", "foreach", "--max-grad-norm", "none", "--loss-chunk", "32"]
    targets = ["--method", "lora", "--set", "rank=4", "--set", "target_modules=[q_proj, v_proj]", "--set", "alpha=8"]
    found = json.loads(answered([*words, *options, *targets], capsys))
    expected = {"batch_size": 3, "accumulation_steps": 2, "precision": "fp32", "attention": "eager"}
    expected |= {"gradient_checkpointing": True, "adamw_implementation": "foreach", "max_grad_norm": None}
    expected |= {"loss_chunk_tokens": 32, "sequence_length": 64, "step_in_backward": False}
    assert expected.items() <= found["conditions"].items()
    assert found["hyperparameters"]["target_modules"] == ["q_proj", "v_proj"]
    assert found["trainable_parameters"]["total"] == 3 * 2 * (64 * 4 + 4 * 64)  # layers, targets, A and B of rank 4


def test_a_step_in_backward_is_not_clipped_unless_asked(tiny, capsys):
    words = ["fit", tiny, "--method", "full", "--gpu", "8GiB", "--no-search", "--json", "--sequence", "64"]
    plain = json.loads(answered(words, capsys))
    stepping = json.loads(answered([*words, "--step-in-backward"], capsys))
    assert plain["conditions"]["max_grad_norm"] == 1.0 and stepping["conditions"]["max_grad_norm"] is None
    assert stepping["conditions"]["step_in_backward"] and not plain["conditions"]["step_in_backward"]


def test_what_does_not_fit_says_by_how_much_and_what_to_try(tiny, capsys):
    words = ["fit", tiny, "--method", "full", "--gpu", "780MiB", "--batch", "8", "--sequence", "256"]
    text = answered(words, capsys)
    assert "DOES NOT FIT, short by " in text and " with --checkpointing: " in text
    assert 1 <= int(re.search(r"largest batch at 256 tokens: (\d+)", text)[1]) < 8


def test_all_ranks_every_method_that_trains(tiny, capsys):
    import baselines

    words = ["fit", tiny, "--method", "all", "--gpu", "2GiB", "--no-search", "--sequence", "64", "--set", "rank=4"]
    assert cli.main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    rows = json.loads(shown.out)["methods"]
    assert sorted(row["method"] for row in rows) == [name for name in baselines.names() if name != "vanilla"]
    simulated = [row for row in rows if row["status"] == "ok"]
    refused = {row["method"] for row in rows[len(simulated) :]}
    assert refused == {"bitfit", "owlore"}  # a Llama has no biases, and this one fewer layers than owlore's gamma
    peaks = [row["predicted_peak_bytes"] for row in simulated]
    assert peaks == sorted(peaks) and f"{len(rows)} of {len(rows)} methods done" in shown.err


def test_ranking_has_a_line_for_each_method_and_the_reason_of_what_failed(tiny, capsys):
    words = ["fit", tiny, "--method", "full,lisa", "--gpu", "2GiB", "--no-search", "--sequence", "64"]
    text = answered([*words, "--set", "gamma=9"], capsys)
    assert "  1  full " in text.replace("   ", "  ") and "  -  lisa: not simulated: " in text and "is 9; legal" in text


def test_command_line_as_a_process_is_quiet(tiny):
    words = ["fit", tiny, "--method", "galore", "--gpu", "2GiB", "--no-search", "--sequence", "64", "--set", "rank=4"]
    done = subprocess.run([sys.executable, "-m", "workflow.cli", *words], capture_output=True, text=True, check=True)
    assert "FITS" in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith("galore: batch 1 x 64 tokens: ")] == []


def test_a_reader_that_stops_early_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m workflow.cli methods --markdown | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("| method |") and done.stderr == "" and done.returncode in (0, 141)
