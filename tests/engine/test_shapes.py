"""Model shapes: the bundled ones against published numbers of parameters, names, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import baselines
from baselines.contract import AdamWSettings
from lisa import decoder_layers
from tests.conftest import ROOT
from tests.engine.hub_server import Hub, Repository, serve
from workflow.engine.errors import InputError
from workflow.engine.models import count_parameters
from workflow.engine.shapes import (
    check_length,
    check_room,
    needs_download,
    positions,
    read_config,
    read_shape,
    shape_names,
)

# (layers, parameters): the hub shows the number of values in each checkpoint's safetensors files on its model page
PUBLISHED = {
    "gpt2-small": (12, 124_439_808),  # the page says 137,022,720, with the causal masks stored in the file
    "tinyllama": (22, 1_100_048_384),
    "phi-2": (32, 2_779_683_840),
    "mistral-7b": (32, 7_241_732_096),
    "llama-2-7b": (32, 6_738_415_616),
    "llama-2-13b": (40, 13_015_864_320),
    "llama-2-70b": (80, 68_976_648_192),
    "llama-3-8b": (32, 8_030_261_248),
    "llama-3-70b": (80, 70_553_706_496),
    "qwen2.5-7b": (28, 7_615_616_512),
}
LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 99}


def write(folder: Path, content: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


def refused(name: Any, *words: str) -> None:
    """One line that has these words."""
    with pytest.raises(InputError) as caught:
        read_config(name)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


# --- bundled


def test_every_bundled_shape_is_checked_against_a_published_number():
    assert shape_names() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_bundled_shape_has_the_published_layers_and_parameters(name: str):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read_config(name))
    assert (len(decoder_layers(model)), count_parameters(model)) == PUBLISHED[name]


def test_a_bundled_shape_is_known_by_its_hub_id_in_any_case_and_without_organisation():
    for name in ("llama-2-7b", "LLaMA-2-7B", "meta-llama/Llama-2-7b-hf", "META-LLAMA/llama-2-7B-HF", "Llama-2-7b-hf"):
        assert read_config(name).name_or_path == "meta-llama/Llama-2-7b-hf"
        assert not needs_download(name)


def test_two_readings_of_a_shape_share_nothing():
    changed = read_config("gpt2-small")
    changed.n_embd = 5
    assert read_config("gpt2-small").n_embd == 768


# --- folders, files, content


def test_a_folder_its_file_and_its_content_are_one_model(tmp_path: Path):
    folder = write(tmp_path / "mine", LLAMA)
    configs = [read_config(folder), read_config(f"{folder}/config.json"), read_config(LLAMA)]
    assert [config.hidden_size for config in configs] == [64, 64, 64]
    assert configs[0].name_or_path == folder
    assert not needs_download(folder) and not needs_download(LLAMA)


def test_an_unknown_name_lists_what_is_known():
    refused("lama-2-7b", "Unknown model 'lama-2-7b'", "Did you mean 'llama-2-7b'?", *PUBLISHED, "hub id", "config.json")
    for name in ("", "./nothing", "/nothing/here", "a/b/c", "a/"):
        refused(name, "Unknown model", *PUBLISHED)
        assert not needs_download(name)


def test_a_file_that_is_no_configuration_is_one_line(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused(str(tmp_path / "empty"), "no config.json")
    refused(write(tmp_path / "a", "{"), "is not JSON")
    refused(write(tmp_path / "b", "[1]"), "holds list")
    refused(write(tmp_path / "c", {"hidden_size": 64}), "no 'model_type'")
    refused(write(tmp_path / "d", {"model_type": "chatglm"}), "'chatglm' is not in transformers")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hidden_size": "wide"}, ("not valid", "hidden_size", "wide")),
        ({"num_attention_heads": 5}, ("not valid", "64", "5")),
        ({"dtype": "float17"}, ("not valid", "float17")),
        ({"num_hidden_layers": 0}, ("num_hidden_layers: 0", "legal: 1 or more")),
        ({"vocab_size": -1}, ("vocab_size: -1", "legal: 1 or more")),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ("quantised checkpoint",)),
    ],
)
def test_a_configuration_that_no_model_can_have_is_one_line(changes: dict[str, Any], words: tuple[str, ...]):
    refused({**LLAMA, **changes}, *words)


# --- what is no decoder


@pytest.mark.parametrize(
    "kind, what",
    [
        ("t5", "an encoder-decoder"),
        ("bart", "an encoder-decoder"),  # the causal mapping knows its decoder
        ("whisper", "an encoder-decoder"),
        ("bert", "an encoder"),  # the causal mapping knows BertLMHeadModel
        ("distilbert", "an encoder"),
        ("llava", "a model of several parts"),
        ("gemma3", "a model of several parts"),  # the causal mapping knows it
        ("clip", "a model of several parts"),
        ("vit", "another kind of model"),
    ],
)
def test_what_is_no_decoder_is_refused_by_its_model_type(kind: str, what: str):
    refused({"model_type": kind}, f"model_type {kind!r} is {what}", "not a decoder-only language model")


def test_an_encoder_that_is_set_to_decode_is_a_decoder():
    assert read_config({"model_type": "bert", "is_decoder": True}).is_decoder


def test_every_text_decoder_that_lisa_finds_layers_in_is_accepted():
    for kind in ("llama", "gpt2", "gpt_neox", "opt", "bloom", "falcon", "gemma3_text", "qwen3", "phi3", "mixtral"):
        assert kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        assert read_config({"model_type": kind}).model_type == kind


def test_no_model_with_a_second_input_is_accepted():
    """The rule is a list of words in names of sub-configurations; this finds a newcomer that it misses."""
    several = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if CONFIG_MAPPING[kind].sub_configs]
    assert len(several) > 5
    accepted = [kind for kind in several if not _is_refused(kind)]
    assert accepted == ["blt", "dbrx", "mpt"]  # parts of a text decoder: patches of bytes, attention, experts


def _is_refused(kind: str) -> bool:
    try:
        read_config({"model_type": kind})
    except InputError:
        return True
    return False


# --- positions


def test_a_sequence_beyond_the_positions_is_refused_with_the_legal_range():
    config = read_config("gpt2-small")
    check_length(config, 1024)
    for length, word in ((1025, "legal: up to 1024"), (0, "legal: 1 or more")):
        with pytest.raises(InputError, match=word):
            check_length(config, length)


def test_a_model_without_positions_takes_any_length():
    config = read_config({"model_type": "bloom", "hidden_size": 64, "n_head": 4})
    assert positions(config.to_dict()) is None
    check_length(config, 10**9)


def test_positions_are_read_alike_from_a_file_and_from_a_configuration(tmp_path: Path):
    for shape in ({**LLAMA, "max_position_embeddings": 77}, {"model_type": "gpt2", "n_positions": 77}):
        file = Path(write(tmp_path / "model", shape)) / "config.json"
        assert positions(read_shape(file)) == positions(read_config(shape).to_dict()) == 77


# --- the hub; in a process, as its client reads its settings at import

SCRIPT = """
import sys
from workflow.engine.errors import InputError
from workflow.engine.shapes import read_config
for name in sys.argv[1:]:
    try:
        config = read_config(name)
        print(config.model_type, config.hidden_size, config.name_or_path)
    except InputError as error:
        print(error)
"""


ONLINE = ("HF_", "TRANSFORMERS_", "HTTP", "http")  # what decides whether and where a hub is asked


def read_in_process(names: list[str], home: Path, url: str, **env: str) -> list[str]:
    """A line for each name: what was read, or the error."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith(ONLINE)}
    settings |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(command, cwd=ROOT, env=settings | env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    return lines


def test_a_hub_id_is_downloaded_once_and_then_needs_no_network(tmp_path: Path):
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"large"}
    assert needs_download("org/mine")
    with serve(Hub({"models/org/mine": Repository(files)})) as hub:
        first = read_in_process(["org/mine"], tmp_path, hub.url)
        assert not any("safetensors" in asked for asked in hub.asked)
        asked = len(hub.asked)
        again = read_in_process(["org/mine"], tmp_path, hub.url)
        assert len(hub.asked) == asked
    offline = read_in_process(["org/mine"], tmp_path, hub.url, HF_HUB_OFFLINE="1")
    assert first == again == offline == ["llama 64 org/mine"]


def test_what_the_hub_refuses_is_one_clear_line(tmp_path: Path):
    config = {"config.json": json.dumps(LLAMA).encode()}
    repositories = {
        "models/org/gated": Repository(config, gated=True),
        "models/org/gguf": Repository({"model.gguf": b""}),
        "models/org/broken": Repository(config, failing=True),
    }
    wanted = {
        "org/gated": "is gated",
        "org/gguf": "has no config.json",
        "org/broken": "cannot be downloaded",
        "org/unknown": "is not on the hub",
        "org/a b": "is not an id of the hub",
    }
    with serve(Hub(repositories)) as hub:
        lines = read_in_process(list(wanted), tmp_path, hub.url)
    for (name, words), line in zip(wanted.items(), lines, strict=True):
        assert f"model {name!r} {words}" in line


def test_without_a_network_the_error_names_what_needs_none(tmp_path: Path):
    nobody = "http://127.0.0.1:9"
    [message] = read_in_process(["meta-llama/Llama-2-7b-fh"], tmp_path, nobody)
    for word in ("cannot be downloaded", "Did you mean 'meta-llama/llama-2-7b-hf'?", *PUBLISHED):
        assert word in message


def room_of(extra: int, sequence_length: int) -> None:
    method = baselines.build("prefix_tuning", {"num_virtual_tokens": extra}, AdamWSettings(), 0)
    check_room(method, {"max_position_embeddings": 4096}, sequence_length)


def test_a_prefix_that_leaves_no_room_for_any_sequence_is_refused_with_the_longest():
    with pytest.raises(ValueError, match="takes 5000 positions .* has 4096; legal: up to 4095"):
        room_of(5000, 8)
    with pytest.raises(ValueError, match="takes 4096 positions .* legal: up to 4095"):
        room_of(4096, 1)
    with pytest.raises(ValueError, match="legal: sequences up to 1\\."):
        room_of(4095, 2)
    room_of(4095, 1)
