"""A learned prefix of keys and values in every layer's attention (Li and Liang 2021, arXiv 2101.00190), for inference.

    insert(model, virtual_tokens=10, heads=8, head_size=64)      # then load `model.prefix.keys_values`

Wherever the model is called without a past, the prefix is the past: its keys and values stand in the cache already. The
attention mask and the positions of the caller do not count the virtual tokens; here they are added. That is how
huggingface/peft defines it, to the bit of the positions. `generate` works, with its cache and with padding on the left.

Exported checkpoints run this file: it is copied into them, so it imports torch and transformers only.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache


class Prefix(nn.Module):
    """keys_values: (layers, 2, heads, virtual tokens, head size)."""

    def __init__(self, layers: int, heads: int, virtual_tokens: int, head_size: int) -> None:
        super().__init__()
        self.keys_values = nn.Parameter(torch.zeros(layers, 2, heads, virtual_tokens, head_size))

    def fill(self, cache: DynamicCache, batch: int) -> None:
        """Make the prefix the past of `batch` sequences."""
        for layer, (keys, values) in enumerate(self.keys_values):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), layer)


def insert(model: nn.Module, virtual_tokens: int, heads: int, head_size: int) -> None:
    """Give the model a prefix of zeros, on its device and in its precision."""
    place, layers = next(model.parameters()), model.config.get_text_config().num_hidden_layers
    model.prefix = Prefix(layers, heads, virtual_tokens, head_size).to(place.device, place.dtype)
    names = list(inspect.signature(model.forward).parameters)
    model.register_forward_pre_hook(
        lambda model, args, given: _with_prefix(model, names, args, given), with_kwargs=True
    )
    model.register_forward_hook(_without_cache, with_kwargs=True)


def _with_prefix(
    model: nn.Module, names: list[str], args: tuple, given: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call, `args` by position and `given` by name, with the prefix in the cache and counted."""
    call = {**dict(zip(names, args, strict=False)), **given}
    tokens = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
    batch, count = len(tokens), model.prefix.keys_values.shape[3]
    mask, positions, cache = (call.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    cache = DynamicCache() if cache is None else cache
    if not isinstance(cache, DynamicCache) or (mask is not None and mask.dim() != 2):
        raise ValueError("A model with a learned prefix takes an attention mask of (batch, tokens) and a DynamicCache.")
    if cache.get_seq_length() == 0:
        model.prefix.fill(cache, batch)
    call["past_key_values"] = cache
    if mask is not None:
        call["attention_mask"] = torch.cat([mask.new_ones(batch, count), mask], dim=1)
    if positions is not None:
        call["position_ids"] = positions + count
    return (), call


def _without_cache(model: nn.Module, args: tuple, given: dict[str, Any], output: Any) -> Any:
    """The output without a cache that nobody asked for, with which `generate` would go on."""
    if given.get("use_cache") is False and hasattr(output, "past_key_values"):
        return type(output)(**{name: value for name, value in output.items() if name != "past_key_values"})
    return output
