"""Compiling under LISA: decoder layer by decoder layer (`torch.compile`), so that a redraw compiles nothing anew.

A compiled whole model is specialised to which of its parameters train, so that every newly drawn set of layers compiles
it again: C(32, 2) = 496 sets at 32 layers. A compiled layer knows two cases, active and frozen, and layers that are
built alike share them: two graphs for each kind of layer, made in the first period in which both cases occur, and none
afterwards.

    model = compile_layers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    lisa = LISA(model, optimizer, gamma=2, period_steps=10, seed=0)
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from lisa.layers import decoder_layers

Model = TypeVar("Model", bound=nn.Module)


def compile_layers(model: Model, layers: str | None = None, **kwargs: Any) -> Model:
    """Compile every decoder layer of `model` in place (`nn.Module.compile`); names in the state dict stay as they are.

    Sets `use_cache = False` in the model's configuration. Training needs no key-value cache, and with one every layer
    would get graphs of its own: the cache is indexed by the layer's number, a constant of the graph, and the ninth
    graph exceeds torch's recompile limit, after which layers run uncompiled with no more than a warning. Set it back to
    generate.

    Further graphs, each made once: two for evaluation, two when the length of the batches first changes (from then on
    for any length; `dynamic=True` asks for that at once), two for layers below the first one that trains where the
    embeddings do not. Gradient checkpointing and `fully_shard` (FSDP2), before or after this call, need none.

    Args:
        model: as for `LISA`.
        layers: dotted name of the list of layers, where it cannot be found.
        **kwargs: of `torch.compile`, e.g. mode or dynamic.

    Returns:
        `model` itself.

    Raises:
        ValueError: the layers cannot be found.
    """
    for layer in decoder_layers(model, layers):
        layer.compile(**kwargs)
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "use_cache"):
            module.config.use_cache = False  # type: ignore[union-attr]
    return model
