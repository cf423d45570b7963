"""Loading and saving Hugging Face checkpoints from local folders; nothing here touches the network."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from baselines.contract import Method
from workflow.engine.errors import InputError
from workflow.engine.records import MODEL_CARD

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16-mixed": torch.float32}


def work_offline() -> None:
    """From here on no library asks a hub: all that a stage needs was prepared."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"


def load_model(
    folder: Path,
    *,
    precision: str,
    attention: str,
    device: torch.device,
    training: bool,
    own_code: bool = False,
    device_map: dict[str, int] | None = None,
) -> nn.Module:
    """A causal language model in the recipe's weight dtype, in eval mode; the key-value cache is off for training.

    `own_code`: run the modelling file that the checkpoint brings, as those do that this suite itself exported with one.
    `device_map`: modules on several devices (`workflow.engine.split`), in place of all of them on `device`.

    Raises:
        ValueError: the checkpoint brings a modelling file, and `own_code` is False.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    settings = {"dtype": DTYPES[precision], "attn_implementation": attention, "trust_remote_code": own_code}
    model = AutoModelForCausalLM.from_pretrained(folder, **settings, device_map=device_map)
    model.config.use_cache = not training
    return model if device_map else model.to(device)


def loading_device(method: Method, device: torch.device) -> torch.device:
    """Where a model for `method` is loaded: on the device, or in host memory if `prepare` makes it smaller."""
    return torch.device("cpu") if method.prepares_on_host else device


def random_model(config: Any, *, precision: str, attention: str, device: torch.device | str) -> nn.Module:
    """A causal language model of this shape with random weights, made on the device in the recipe's weight dtype."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.use_cache = False
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=DTYPES[precision], attn_implementation=attention)


def weights_bytes(config: Any, precision: str) -> int:
    """What the parameters of such a model take in the recipe's weight dtype."""
    model = random_model(config, precision=precision, attention="eager", device="meta")
    return count_parameters(model) * DTYPES[precision].itemsize


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer; padding is the end of sequence where the model has no padding of its own.

    It needs no modelling file that the checkpoint brings, and nobody is asked whether to run one.
    """
    from transformers import AutoTokenizer

    logger = logging.getLogger("transformers.configuration_utils")
    logger.addFilter(_is_no_surprise_at_its_type)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    finally:
        logger.removeFilter(_is_no_surprise_at_its_type)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-sequence token, so answers would have no end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _is_no_surprise_at_its_type(record: logging.LogRecord) -> bool:
    """Without the modelling file its `model_type` is unknown, and for a tokenizer that is as it should be."""
    return "You are using a model of type" not in record.getMessage()


def count_parameters(model: nn.Module) -> int:
    """Parameters of the model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def sha256_file(file: Path) -> str:
    """sha256 of one file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """sha256 over names and contents of the files in a checkpoint folder, but for manifest, card and hidden ones."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        other = file.name in ("manifest.json", MODEL_CARD) or file.name.startswith(".")  # Snakemake leaves a hidden one
        if file.is_file() and not other:
            digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the host's memory was too small."""
    words = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
