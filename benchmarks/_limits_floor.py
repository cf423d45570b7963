"""The floor of memory: what a training step must hold at once, added up from parts without the meter.

Through the whole step there are the weights and the moments of what trains. On top of them come activations that
backward still needs and gradients that it has made, and the floor is where their sum is largest. Backward walks the
segments of the model (embeddings, layer 0 .. layer L-1, head with norm and loss) from last to first. When it is about
to enter segment s there must be

    the activations saved in segments 0..s   +   the gradients of segments s+1..L+1

and behind the last segment all gradients, as at the optimizer step. A storage that several segments saved goes with
the first of them, since backward reaches that one last. Saved activations are counted by storage, through
`torch.autograd.graph.saved_tensors_hooks` in one forward pass; weights and the batch are no activations; gradients
and moments follow from the shapes of what requires a gradient.

With gradient checkpointing the inputs of layers 0..s are there, and what layer s saves when it is computed again.
With the optimizer step in backward, a gradient exists only by itself: the largest one of a segment, beside what the
segments before it need.

So the floor grants nothing to temporaries: not the gradient that passes from layer to layer, not the two further copies
of the logits in the loss, no workspace. What a measured peak has above 1.0 is these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks._limits_model import Loss, moment_bytes
from lisa import decoder_layers


@dataclass(frozen=True)
class Saved:
    """Bytes that one forward pass saves for backward, by segment: embeddings, layers, head."""

    segments: list[int]
    layer_inputs: list[int]  # of them, a layer's own input, by layer


@dataclass(frozen=True)
class Floor:
    """Bytes, and the segment that backward is about to enter where they are highest."""

    weights: int
    moments: int
    activations: int
    gradients: int
    where: str

    @property
    def total(self) -> int:
        return self.weights + self.moments + self.activations + self.gradients


def saved_activations(model: nn.Module, ids: Tensor, loss_of: Loss) -> Saved:
    """Storages that autograd saves in a forward pass without checkpointing, each counted where it is saved first."""
    layers = decoder_layers(model)
    segments, inputs = [0] * (len(layers) + 2), [0] * len(layers)
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), ids)}
    alive, now, handles = [], 0, []

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            alive.append(storage)  # its address must not be given away
            segments[now] += storage.nbytes()
        return tensor

    def enter(index: int, hidden: Tensor) -> None:
        nonlocal now
        now = index + 1
        inputs[index] = hidden.untyped_storage().nbytes()

    def leave() -> None:
        nonlocal now
        now = len(segments) - 1

    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(lambda _, args, index=index: enter(index, args[0])))
    handles.append(layers[-1].register_forward_hook(lambda *_: leave()))
    try:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            loss_of(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return Saved(segments, inputs)


def trainable_by_segment(model: nn.Module) -> list[list[nn.Parameter]]:
    """What requires a gradient: embeddings, each layer, all else (norm and head)."""
    modules: list[nn.Module] = [model.get_input_embeddings(), *decoder_layers(model)]  # type: ignore[operator]
    segments = [[p for p in module.parameters() if p.requires_grad] for module in modules]
    known = {id(p) for segment in segments for p in segment}
    return [*segments, [p for p in model.parameters() if p.requires_grad and id(p) not in known]]


def floor(model: nn.Module, saved: Saved, *, checkpointing: bool = False, step_in_backward: bool = False) -> Floor:
    """The floor for what requires a gradient now; `saved` is of the same active set, without checkpointing."""
    trainable = trainable_by_segment(model)
    moments = moment_bytes([p for segment in trainable for p in segment])
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    sums = (_with_step_in_backward if step_in_backward else _with_step_after)(saved, checkpointing, trainable)
    activations, gradients, segment = max(sums, key=lambda moment: moment[0] + moment[1])
    names = ["embeddings", *(f"layer {index}" for index in range(len(trainable) - 2)), "head", "optimizer step"]
    return Floor(weights, moments, activations, gradients, names[segment])


Moments = list[tuple[int, int, int]]  # of backward: bytes of activations and of gradients, and the segment
Segments = Sequence[Sequence[nn.Parameter]]


def _with_step_after(saved: Saved, checkpointing: bool, trainable: Segments) -> Moments:
    """About to enter each segment, then the optimizer step."""
    standing = _standing(saved, checkpointing)
    made = [sum(p.nbytes for segment in trainable[index:] for p in segment) for index in range(len(trainable) + 1)]
    entering = [(standing[s] + saved.segments[s], made[s + 1], s) for s in range(len(trainable))]
    return [*entering, (0, made[0], len(trainable))]


def _with_step_in_backward(saved: Saved, checkpointing: bool, trainable: Segments) -> Moments:
    """About to enter each segment; in it, its own activations gone, the largest of its gradients there."""
    standing = _standing(saved, checkpointing)
    largest = [max((p.nbytes for p in segment), default=0) for segment in trainable]
    entering = [(standing[s] + saved.segments[s], 0, s) for s in range(len(trainable))]
    return [*entering, *((standing[s], largest[s], s) for s in range(len(trainable)))]


def _standing(saved: Saved, checkpointing: bool) -> list[int]:
    """Bytes of activations that the segments before each one need after it."""
    segments = [saved.segments[0], *saved.layer_inputs] if checkpointing else saved.segments
    return [sum(segments[:index]) for index in range(len(saved.segments))]
