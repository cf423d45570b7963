"""Model shapes: the configuration of a decoder-only language model by name, without its weights.

    config = read_config("llama-2-7b")                 # bundled; needs no network, and neither does its hub id
    config = read_config("checkpoints/mine")           # a folder with config.json, or the file itself
    config = read_config("HuggingFaceTB/SmolLM2-1.7B")  # anything else on the hub: its config.json alone
    check_length(config, sequence_length=2048)

`model_shapes/<name>.json` are the published config.json files, cut down to what decides shapes, memory and
floating-point operations (dropout does: its masks are kept for backward); `_name_or_path` is the model's hub id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.engine.errors import InputError
from workflow.form import hint

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from baselines.contract import Method

FOLDER = Path(__file__).parent / "model_shapes"
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
INPUT_PARTS = ("text", "vision", "audio", "vq")  # in the names of sub-configurations of models with several inputs


def shape_names() -> list[str]:
    """Names of the bundled shapes."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def read_config(shape: str | Mapping[str, Any]) -> PretrainedConfig:
    """The configuration of a decoder-only language model.

    Args:
        shape: a bundled name or its hub id, with or without the organisation, in any case; else a folder with
            config.json or such a file; else the hub id of any other model, whose config.json is downloaded once.
            Or the content of a config.json.

    Raises:
        InputError: no such model; it cannot be downloaded; or it is no decoder-only language model.
    """
    if not isinstance(shape, str):
        return _config("given here", dict(shape))
    bundled = _bundled().get(shape.lower())
    if bundled is not None:
        return _config(shape, read_shape(FOLDER / f"{bundled}.json"))
    return _config(shape, read_shape(_file(shape)) | {"_name_or_path": shape})


def needs_download(shape: str | Mapping[str, Any]) -> bool:
    """Whether `read_config` would ask the hub, or its cache."""
    if not isinstance(shape, str) or shape.lower() in _bundled():
        return False
    return not Path(shape).expanduser().exists() and _is_hub_id(shape)


def read_shape(file: Path) -> dict[str, Any]:
    """A checkpoint's config.json."""
    try:
        shape = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
    if not isinstance(shape, dict):
        raise InputError(f"{file} holds {type(shape).__name__}; a model's configuration is a mapping.")
    return shape


def positions(shape: Mapping[str, Any]) -> int | None:
    """Most tokens that a model of this config.json takes at once; None where nothing limits them."""
    return shape.get("max_position_embeddings", shape.get("n_positions"))  # GPT-2's config.json says n_positions


def check_length(config: PretrainedConfig, sequence_length: int, where: str = "sequence_length") -> None:
    """Raise InputError unless a sequence of so many tokens fits the model's positions; `where` it was asked for."""
    most = positions(config.to_dict())
    if sequence_length < 1:
        raise InputError(f"{where}: {sequence_length} is too short; legal: 1 or more.")
    if most is not None and sequence_length > most:
        raise InputError(f"{where}: {sequence_length} on a model with {most} positions; legal: up to {most}.")


def check_room(method: Method, shape: Mapping[str, Any], sequence_length: int) -> None:
    """Raise ValueError unless the model's positions hold such a sequence and what the method puts in front of it."""
    most, extra = positions(shape), method.extra_positions()
    if most is not None and extra >= most:
        raise ValueError(
            f"It takes {extra} positions in front of every sequence, and the model has {most}; legal: up to {most - 1}."
        )
    if most is not None and extra and sequence_length + extra > most:
        raise ValueError(
            f"It takes {extra} positions in front of a sequence of {sequence_length} tokens, and the model has {most};"
            f" legal: sequences up to {most - extra}."
        )


def _bundled() -> dict[str, str]:
    """Every name of a bundled shape, in lower case: its own, its hub id, and that without the organisation."""
    names = {}
    for shape in shape_names():
        hub_id = read_shape(FOLDER / f"{shape}.json")["_name_or_path"].lower()
        names |= {shape: shape, hub_id: shape, hub_id.split("/")[1]: shape}
    return names


def _file(name: str) -> Path:
    """The config.json that a name which is not bundled means."""
    from workflow.engine.sources import download_config

    path = Path(name).expanduser()
    if name and path.is_file():
        return path
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"Model folder {name!r} has no config.json.")
        return path / "config.json"
    known = ", ".join(shape_names())
    if not _is_hub_id(name):
        raise InputError(
            f"Unknown model {name!r}.{_hint(name)} Known: {known};"
            " or a hub id <organisation>/<name>, or a folder with config.json."
        )
    return download_config(name, f"Without a network: a folder with config.json, or one of {known}.{_hint(name)}")


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and name[0] not in "./~" and name[-1] != "/"


def _hint(name: str) -> str:
    return hint(name.lower(), list(_bundled()))


def _config(name: str, shape: dict[str, Any]) -> PretrainedConfig:
    """The configuration object of a config.json that is a decoder-only language model's."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    if "model_type" not in shape:
        raise InputError(f"Model {name!r}: its config.json has no 'model_type', so it is no model of transformers.")
    kind = shape["model_type"]
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"Model {name!r}: model_type {kind!r} is not in transformers {transformers.__version__};"
            " code that comes with a checkpoint is never run."
        )
    try:
        config = CONFIG_MAPPING[kind].from_dict(shape)
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"Model {name!r}: its config.json is not valid: {' '.join(str(error).split())}") from error
    _check_decoder(name, config)
    _check_sizes(name, config)
    return config


def _check_decoder(name: str, config: PretrainedConfig) -> None:
    what = _other_kind(config)
    if what is not None:
        raise InputError(
            f"Model {name!r}: model_type {config.model_type!r} is {what}, not a decoder-only language model."
            " Legal: what transformers' AutoModelForCausalLM knows and reads text alone, such as llama, gpt2 or qwen2."
        )


def _other_kind(config: PretrainedConfig) -> str | None:
    """What the model is, if it is no decoder-only language model.

    The causal-LM mapping alone does not tell: BERT, BART's decoder and models that also see pictures stand there too.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder"
    inputs = [part for part in config.sub_configs if any(word in part for word in INPUT_PARTS)]
    if inputs:
        return f"a model of several parts ({', '.join(inputs)})"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "an encoder"
    return None if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "another kind of model"


def _check_sizes(name: str, config: PretrainedConfig) -> None:
    """What would otherwise fail deep inside, or be simulated as what it is not."""
    for key in SIZES:
        if getattr(config, key, 1) < 1:
            raise InputError(f"Model {name!r}: {key}: {getattr(config, key)} in its config.json; legal: 1 or more.")
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"Model {name!r} is a quantised checkpoint (quantization_config); its weights cannot be trained."
            " Name the model that it was made from."
        )
