"""The causal language model's loss with the head computed for so many tokens at a time, as `training.loss_chunk_tokens`
asks, so that logits of the whole batch never exist.

    loss = ChunkedLoss(model, chunk_tokens=256)(batch, learned=tokens)      # in place of model(**batch, ...).loss

A model's own loss holds batch x tokens x vocabulary numbers three times over in fp32, which at a vocabulary of 128,000
is more than the rest of a step's activations. Here the logits of a chunk become their own gradient, from which the
gradients of hidden states and head follow at once, already in the forward pass: nothing is computed again, and ahead of
backward exists only what backward makes first anyway, the head's gradient. The same idea as Liger Kernel (Hsu et al.
2024, arXiv 2410.10989, section 3.2) and `torch.nn.functional.linear_cross_entropy`, which torch 2.11 lacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workflow.engine.data import IGNORED
from workflow.engine.errors import InputError

PROBE_TOKENS = 4
PROBE_RANGE = 60.0  # of the probe's logits: soft caps stand at 15 to 50


class ChunkedLoss:
    """Loss of a causal language model, bare or wrapped (adapters, autocast), whose logits are its linear head's output.

    Args:
        model: with the output head that `get_output_embeddings()` names.
        chunk_tokens: positions whose logits exist at the same time, at least 1. In 16-bit precision the head's gradient
            is rounded once a chunk, like that of accumulated batches, so chunks should be few.

    Raises:
        InputError: the head is no plain linear layer, or its output is not all that the model's loss depends on.
    """

    def __init__(self, model: nn.Module, chunk_tokens: int) -> None:
        self.model, self.chunk_tokens = model, chunk_tokens
        self.head = _linear_head(model)
        _check_loss_follows_from_head(model, self.head)

    def __call__(self, batch: dict[str, Tensor], learned: int) -> Tensor:
        """Sum of the token losses of `batch` (input_ids, attention_mask, labels: (batch, tokens)), over `learned`.

        What the model itself returns for `num_items_in_batch=learned`; positions that are not learned get no logits.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        targets = batch["labels"][:, 1:]  # (batch, tokens - 1)
        where = targets != IGNORED
        losses: list[Tensor] = []

        def loss_instead_of_logits(hidden: Tensor) -> Tensor:  # (batch, tokens, width), inside the model's autocast
            rows = hidden[:, :-1][where]  # (learned positions, width)
            losses.append(linear_cross_entropy(rows, self.head, targets[where], learned, self.chunk_tokens))
            return hidden

        with _forward_of(self.head, loss_instead_of_logits):
            self.model(**inputs, use_cache=False)
        (loss,) = losses
        return loss


def linear_cross_entropy(hidden: Tensor, head: nn.Linear, targets: Tensor, learned: int, chunk_tokens: int) -> Tensor:
    """Sum over `learned` of the cross-entropies of `head(hidden)`, (positions, width), with `targets` (positions,).

    Under autocast the head computes in autocast's precision, as it would by itself. Differentiable once.
    """
    weight, bias = head.weight, head.bias
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in (hidden, weight, bias))
    wanted = tuple(
        torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    )
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, learned, chunk_tokens, wanted)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are made in forward and handed over in backward, which only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (positions, width)
        weight: Tensor,  # (vocabulary, width)
        bias: Tensor | None,  # (vocabulary,)
        targets: Tensor,  # (positions,)
        learned: int,
        chunk_tokens: int,
        wanted: tuple[bool, ...],  # gradients of hidden, weight, bias
    ) -> Tensor:
        inputs = (hidden, weight, bias)
        gradients = [torch.zeros_like(t) if want else None for t, want in zip(inputs, wanted, strict=True)]
        of_hidden, of_weight, of_bias = gradients
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            logits = functional.linear(hidden[chunk], weight, bias).float()  # (chunk, vocabulary)
            normalizer, target = logits.logsumexp(dim=1, keepdim=True), targets[chunk, None]
            total += (normalizer - logits.gather(1, target)).sum()
            if any(wanted):
                errors = logits.sub_(normalizer).exp_()  # the probabilities; minus one at the target, the gradient
                errors = errors.scatter_add_(1, target, -torch.ones_like(normalizer)).div_(learned).to(weight.dtype)
            if of_hidden is not None:
                torch.mm(errors, weight, out=of_hidden[chunk])
            if of_weight is not None:
                torch.addmm(of_weight, errors.T, hidden[chunk], out=of_weight)  # in place, and seen by the FLOP counter
            if of_bias is not None:
                of_bias += errors.sum(dim=0)
        ctx.gradients = gradients
        return total / learned

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        del ctx.gradients  # handed over, not copied: they become `.grad`, and a second backward fails
        return *(None if gradient is None else gradient.mul_(outer) for gradient in gradients), *[None] * 4


def _linear_head(model: nn.Module) -> nn.Linear:
    head = model.get_output_embeddings()  # type: ignore[operator]
    if isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward and "forward" not in vars(head):
        return head
    raise InputError(
        f"training.loss_chunk_tokens: the output head of {type(model).__name__} is {type(head).__name__};"
        " legal: a plain torch.nn.Linear, without adapters, or loss_chunk_tokens: null."
    )


@contextlib.contextmanager
def _forward_of(head: nn.Linear, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, calling `head` calls `forward`."""
    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward  # the class's own shows again


@torch.no_grad()
def _check_loss_follows_from_head(model: nn.Module, head: nn.Linear) -> None:
    """Raise InputError unless logits put in the head's place come out unchanged and as the cross-entropy of them alone.

    Found out by trying, since models cap (Gemma 2), scale (Cohere, Granite) or add to them (routers of experts) under
    ever new names.
    """
    device = head.weight.device
    span = torch.linspace(PROBE_RANGE, -PROBE_RANGE, PROBE_TOKENS * head.out_features, device=device)
    probe = span.to(head.weight.dtype).view(1, PROBE_TOKENS, -1)
    tokens = torch.arange(PROBE_TOKENS, device=device)[None]  # the likeliest, for a loss beside which others show
    training = model.training
    model.eval()
    try:
        with _forward_of(head, lambda _: probe.clone()):
            outputs = model(input_ids=tokens, labels=tokens, use_cache=False)
    finally:
        model.train(training)
    unchanged = outputs.logits.shape == probe.shape and torch.equal(outputs.logits.float(), probe.float())
    loss = functional.cross_entropy(probe[0, :-1].float(), tokens[0, 1:])
    if not unchanged or not torch.allclose(outputs.loss.float(), loss):
        what = "changes its logits after the output head" if not unchanged else "adds to the loss of its logits"
        raise InputError(
            f"training.loss_chunk_tokens: {type(model).__name__} {what} (a cap, a scale, a router's loss),"
            " which a loss from the head in chunks would leave out; legal: loss_chunk_tokens: null."
        )
