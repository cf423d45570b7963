"""The model of a `config.json` without data, for methods that have to look at modules to know whether they suit it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def blank_model(config: Mapping[str, Any]) -> nn.Module:
    """On the "meta" device: names, classes and shapes are there. Not to be changed, since the next call gives it again.

    A configuration without a model type is a Llama's.

    Raises:
        ValueError: transformers has no causal language model of this type.
    """
    return _made(json.dumps({"model_type": "llama", **config}, sort_keys=True, default=str))


@functools.lru_cache(maxsize=8)
def _made(config: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(config)))
