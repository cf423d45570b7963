"""AdamW whose moments take 8 bits in the parameter groups that ask for it (Dettmers et al. 2022, arXiv 2110.02861).

With a large vocabulary, embeddings and head are most of what LISA trains, and their moments most of its state:

    found = lisa.layers.parts(model)
    big, rest = [*found.embeddings, *found.head], [*found.norm, *(p for layer in found.layers for p in layer)]
    optimizer = AdamW([{"params": rest}, {"params": big, "moment_bits": 8}], lr=1e-5, fused=True)

Block-wise quantisation: every 256 consecutive values of a moment share one fp32 scale, their largest magnitude, and
each is one of 256 codes times that scale. Both moments together take 2 + 8 / 256 bytes a parameter, in place of 8 in
fp32 and 4 in bf16. The codes are the paper's dynamic ones: seven decades below the scale, the finer the larger, signed
for the first moment. A step reads a piece of both moments, updates them and the weights in fp32, and rounds the
moments back to codes.

What is lost: every step rounds. Near its block's scale a first moment is off by up to 0.7 % of that scale, a second
one by up to 0.35 %; the smaller a value, the larger a part of itself it is off by, up to all of it at a millionth of
the scale. Once the averages have settled, the changes of most second moments are less than half a code and lost:
within a block they then keep their proportions and move with the scale, which is exact. The paper finds 8-bit Adam on a
par with 32-bit on its tasks, but keeps 32 bits for word embeddings, and embeddings are what it is offered for here:
measure what it costs.

One difference from the paper: no second moment is rounded to zero, but up to the smallest code. A zero would leave a
first moment that has not vanished to be divided by epsilon alone, a step of many times the learning rate (the
zero-point problem of Li et al. 2023, arXiv 2309.01507).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

BLOCK_VALUES = 256  # that share a scale
PIECE_VALUES = 2**22  # worked on at a time: the temporaries of a step are some 0.1 GB, whatever the parameter
MOMENT_BITS = (8, 32)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW(torch.optim.AdamW):
    """torch's AdamW to the bit, except for groups with `moment_bits` 8, whose two moments are held in 8 bits.

    The state of a parameter with 8-bit moments is `step`, one number on the host, and for either moment
    `exp_avg_codes` (uint8, in the parameter's shape) and `exp_avg_scales` (fp32, one a block of the flattened
    parameter), `exp_avg_sq_codes` and `exp_avg_sq_scales`. Every parameter of the group is held so, however small.

    Args:
        params, args, kwargs: as `torch.optim.AdamW` takes them. Groups with 8-bit moments are updated one parameter
            and one piece of PIECE_VALUES after the other, whatever `foreach` and `fused` say.
        moment_bits: 8 or 32, for groups that have no "moment_bits" of their own.

    Raises:
        ValueError: other moment_bits; or 8-bit moments together with amsgrad, capturable or differentiable, or for a
            parameter that is sharded (a DTensor), not contiguous, or of a dtype not in DTYPES.
    """

    def __init__(self, params: ParamsT, *args: Any, moment_bits: int = 32, **kwargs: Any) -> None:
        super().__init__(params, *args, **kwargs)
        self.defaults["moment_bits"] = moment_bits
        for group in self.param_groups:
            group.setdefault("moment_bits", moment_bits)
            _check_group(group)
        self._step_supports_amp_scaling = False  # GradScaler would leave unscaling to a kernel that 8 bits do not use

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("moment_bits", 32)  # saved by torch's AdamW

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group may have "moment_bits".

        Raises:
            ValueError: as the constructor; the group is then not added.
        """
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which would cast codes and scales to the parameter's dtype: they are kept from it.

        Raises:
            ValueError: a group was saved with other `moment_bits`; or torch finds other groups.
        """
        for index, (group, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            bits, legal = saved.get("moment_bits", 32), group["moment_bits"]
            if bits != legal:
                raise ValueError(f"The state saved for parameter group {index} has {bits}-bit moments; legal: {legal}.")
        hide = self.register_load_state_dict_pre_hook(_hide)  # innermost: all other hooks see plain tensors
        show = self.register_load_state_dict_post_hook(_show, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            hide.remove()
            show.remove()

    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        """Torch's step collects here what a group has to update: with 8-bit moments it is done here, none is left."""
        if group["moment_bits"] == 32:
            return super()._init_group(group, *lists)
        for parameter in group["params"]:
            if parameter.grad is not None:
                _update(parameter, parameter.grad, self.state[parameter], group)
        return False  # none is complex


def moment_bytes(values: int) -> int:
    """Bytes of both 8-bit moments of a parameter with so many values: codes and scales."""
    return 2 * (values + 4 * math.ceil(values / BLOCK_VALUES))


def _check_group(group: dict[str, Any]) -> None:
    bits = group.get("moment_bits", 32)  # torch's constructor adds groups before ours has set the default
    if bits not in MOMENT_BITS:
        raise ValueError(f"moment_bits is {bits!r}; legal: {' or '.join(map(str, MOMENT_BITS))}.")
    if bits == 32:
        return
    refused = [name for name in ("amsgrad", "capturable", "differentiable") if group[name]]
    if refused:
        raise ValueError(f"8-bit moments do not work with {', '.join(refused)}. Leave it off, or moment_bits at 32.")
    for parameter in group["params"]:
        if hasattr(parameter, "device_mesh"):  # blocks of a shard mean nothing to another number of devices
            raise ValueError(
                "8-bit moments of sharded parameters (fully_shard) are not supported: moment_bits must be 32."
            )
        if parameter.dtype not in DTYPES or not parameter.is_contiguous():
            what = f"{'contiguous' if parameter.is_contiguous() else 'strided'} {parameter.dtype}"
            legal = ", ".join(map(str, DTYPES))
            raise ValueError(f"A parameter of {what} cannot have 8-bit moments; legal: contiguous {legal}.")


# --- one step ---------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Whole blocks of a flattened parameter, or a shorter last one."""

    values: slice
    blocks: slice
    width: int  # values a block

    def rows(self, flat: Tensor) -> Tensor:
        """A view of the piece, (blocks, width)."""
        return flat[self.values].view(-1, self.width)


def _pieces(values: int) -> Iterator[Piece]:
    """A parameter in pieces of at most PIECE_VALUES; a last block that is not full comes by itself."""
    blocks, rest = divmod(values, BLOCK_VALUES)
    at_a_time = PIECE_VALUES // BLOCK_VALUES
    for start in range(0, blocks, at_a_time):
        stop = min(start + at_a_time, blocks)
        yield Piece(slice(start * BLOCK_VALUES, stop * BLOCK_VALUES), slice(start, stop), BLOCK_VALUES)
    if rest:
        yield Piece(slice(values - rest, values), slice(blocks, blocks + 1), rest)


def _update(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One step of one parameter with 8-bit moments."""
    if gradient.is_sparse:
        raise RuntimeError("AdamW needs dense gradients; here is a sparse one: build the embedding with sparse=False.")
    if not state:
        state.update(_fresh_state(parameter))
    state["step"] += 1
    step = float(state["step"])
    books = code_book(parameter.device, signed=True), code_book(parameter.device, signed=False)
    weights, gradients = parameter.view(-1), gradient.reshape(-1)
    for piece in _pieces(parameter.numel()):
        held = [
            Quantised(piece.rows(state[f"{name}_codes"].view(-1)), state[f"{name}_scales"][piece.blocks])
            for name in MOMENTS
        ]
        exp_avg, exp_avg_sq = (dequantise(moment, book) for moment, book in zip(held, books, strict=True))
        weight = piece.rows(weights).float()  # the parameter itself if it is fp32, a copy otherwise
        _adamw(weight, piece.rows(gradients).float(), exp_avg, exp_avg_sq, step, group)
        piece.rows(weights).copy_(weight)
        quantise(exp_avg, books[0], out=held[0])
        quantise(exp_avg_sq, books[1], out=held[1])


def _adamw(
    weight: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: float, group: dict[str, Any]
) -> None:
    """Loshchilov and Hutter's AdamW (arXiv 1711.05101) on fp32 tensors of one shape, in torch's order of operations."""
    lr, (beta1, beta2) = float(group["lr"]), map(float, group["betas"])
    if group["maximize"]:
        gradient = -gradient
    weight.mul_(1 - lr * group["weight_decay"])
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    weight.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))


def _fresh_state(parameter: Tensor) -> dict[str, Tensor]:
    blocks = -(-parameter.numel() // BLOCK_VALUES)
    state = {"step": torch.tensor(0.0, dtype=torch.float32, device="cpu")}  # on the host, which reads it
    for name in MOMENTS:
        state[f"{name}_codes"] = torch.zeros_like(parameter, dtype=torch.uint8)
        state[f"{name}_scales"] = torch.zeros(blocks, dtype=torch.float32, device=parameter.device)
    return state


# --- quantisation -----------------------------------------------------------------------------------------------------


class Quantised(NamedTuple):
    """A moment, or a piece of one."""

    codes: Tensor  # uint8 (blocks, width)
    scales: Tensor  # fp32 (blocks,): the largest magnitude of each block


class CodeBook(NamedTuple):
    """What the codes 0..255 stand for, as a part of the scale."""

    values: Tensor  # fp32 (256,), ascending, at most 1
    borders: Tensor  # fp32 (255,): the code of x is the number of borders below x


def quantise(moment: Tensor, book: CodeBook, out: Quantised) -> None:
    """Write `moment`, fp32 (blocks, width), into `out`: every value as the nearest code times its block's scale."""
    scales = moment.abs().amax(dim=1)
    tiny = torch.finfo(torch.float32).tiny  # a block of zeros has scale 0
    out.codes.copy_(torch.bucketize(moment / scales.clamp(min=tiny).unsqueeze(1), book.borders, out_int32=True))
    out.scales.copy_(scales)


def dequantise(moment: Quantised, book: CodeBook) -> Tensor:
    """What `moment` stands for, fp32 (blocks, width)."""
    values = book.values.index_select(0, moment.codes.view(-1).int()).view_as(moment.codes)
    return values.mul_(moment.scales.unsqueeze(1))


def code_book(device: torch.device, signed: bool) -> CodeBook:
    """The dynamic code book on `device`; the unsigned one, for second moments, never rounds to zero."""
    values = torch.tensor(SIGNED if signed else UNSIGNED, dtype=torch.float32, device="cpu")
    borders = (values[:-1] + values[1:]) / 2
    if not signed:
        borders[0] = -1.0  # below all that is not negative, so that code 0, which is zero, is not taken
    return CodeBook(*(part.to(device, non_blocking=True) for part in (values, borders)))


def dynamic_codes(signed: bool) -> list[float]:
    """The 256 values of the dynamic data type (Dettmers 2016, arXiv 1511.04561; signed or not: 2110.02861), ascending.

    Decade d = 0..6 reaches from 10^(d-7) to 10^(d-6) and is cut into 2^d equal parts (unsigned: 2^(d+1)), whose
    middles are codes, with either sign if signed. 0 and 1 are codes too, but -1 is not.
    """
    values = [torch.tensor([0.0, 1.0], dtype=torch.float32, device="cpu")]
    for decade in range(7):
        parts = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float32, device="cpu")
        middles = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        values += [middles, -middles] if signed else [middles]
    codes: list[float] = torch.cat(values).sort().values.tolist()
    return codes


SIGNED, UNSIGNED = dynamic_codes(signed=True), dynamic_codes(signed=False)  # numbers: a cached tensor has one device


# --- loading ----------------------------------------------------------------------------------------------------------


class _Hidden:
    """A tensor of the state where torch does not recognise it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _hide(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    quantised = {f"{name}_{part}" for name in MOMENTS for part in ("codes", "scales")}
    states = {
        index: {name: _Hidden(value) if name in quantised else value for name, value in state.items()}
        for index, state in state_dict["state"].items()
    }
    return {**state_dict, "state": states}


def _show(optimizer: Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, _Hidden):
                state[name] = value.tensor.to(parameter.device)
        if f"{MOMENTS[0]}_codes" in state:
            state["step"] = state["step"].cpu()  # torch puts a fused optimizer's on the device
