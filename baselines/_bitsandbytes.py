"""What the methods share that use bitsandbytes: the package, and linear layers with weights of four bits.

    quantise(layer)      # its weight is NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314)
    layer.weight         # what it computes with, made anew at every look
    layer.dequantise()   # a plain layer again, with that weight

bitsandbytes quantises and dequantises; the results are its own `Linear4bit`'s to the bit, as is training with them
(tests/baselines/test_qlora.py). That layer does not serve here: it holds the scales outside of parameters and buffers,
where the memory meter does not see them, it repacks its weights when a CPU with AVX-512 evaluates them and has no
gradient afterwards, it cannot be made of tensors without data, as the simulator does, and on a CPU it is wrong where
inputs are no multiple of 64 (bitsandbytes 0.50). A product dequantises its whole weight, as bitsandbytes' own does for
more than some hundred tokens.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 64  # numbers that share a scale: the paper's
SCALE_BLOCK = 256  # scales that share one of their own


def bitsandbytes() -> Any:
    """The package, without its warnings about kernels for the CPU."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


@torch.no_grad()
def quantise(layer: nn.Module) -> None:
    """Put NF4 in place of the weight of a Linear, or of transformers' Conv1D, whose weight is (in, out)."""
    functional, weight = bitsandbytes().functional, _upright(layer, layer.weight)  # (out, in)
    packed, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    offset = state.absmax.mean()
    # as its compress_statistics=True, which takes the code from a cache that outlives tensors without data
    scales, nested = functional.quantize_blockwise(
        state.absmax - offset, code=functional.create_dynamic_map().to(weight.device), blocksize=SCALE_BLOCK
    )
    layer.weight = nn.Parameter(packed, requires_grad=False)
    statistics = {"code": state.code, "scales": scales, "offset": offset}
    statistics |= {"nested_code": nested.code, "nested_scales": nested.absmax}
    for name, value in statistics.items():  # made anew from the base model's weights, so no checkpoint holds them
        layer.register_buffer(name, value, persistent=False)
    layer.quantised_shape, layer.quantised_dtype = weight.shape, weight.dtype
    layer.__class__ = _four_bit(type(layer))


@functools.cache
def _four_bit(plain: type[nn.Module]) -> type[nn.Module]:
    """The layer's own class with weights of four bits: whoever asks for a Linear or a Conv1D finds one."""
    return type(f"FourBit{plain.__name__}", (FourBit, plain), {"plain": plain})


class FourBit(nn.Module):
    """What `quantise` makes of a layer; its parameter named weight holds the packed numbers, two a byte."""

    plain: type[nn.Module]
    quantised_shape: torch.Size  # (out, in)
    quantised_dtype: torch.dtype

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, in the layer's own layout and precision."""
        return _upright(self, self.dequantised(self.quantised_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """In the precision of `x`, or autocast's, as torch's own linear layers."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return _Product.apply(x, self)

    def dequantise(self) -> None:
        """Make it a plain layer again, with the weight that it computes with."""
        weight = self.weight
        self.__class__ = self.plain
        self.weight = nn.Parameter(weight, requires_grad=False)
        for name in ("code", "scales", "offset", "nested_code", "nested_scales"):
            delattr(self, name)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The weight as (out, in), of this precision."""
        functional, shape = bitsandbytes().functional, self.quantised_shape
        if shape[1] % BLOCK:  # its kernel on the CPU takes wrong scales where a row ends inside a block: one long row
            shape = torch.Size((1, shape.numel()))
        nested = functional.QuantState(self.nested_scales, None, self.nested_code, SCALE_BLOCK, dtype=torch.float32)
        state = functional.QuantState(self.scales, shape, self.code, BLOCK, "nf4", dtype, self.offset, nested)
        return functional.dequantize_4bit(self._parameters["weight"], state).view(self.quantised_shape)


class _Product(torch.autograd.Function):
    """x times a four-bit weight, which is dequantised in forward and again in backward, and not kept in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBit) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return nn.functional.linear(x, layer.dequantised(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantised(gradient.dtype), None


def _upright(layer: nn.Module, weight: Tensor) -> Tensor:
    """Between a layer's own layout and (out, in)."""
    return weight if isinstance(layer, nn.Linear) else weight.t().contiguous()
