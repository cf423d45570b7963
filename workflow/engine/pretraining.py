"""A small base model made from text at prepare time: byte-level BPE tokenizer, Llama of a given shape, the one loop.

For experiments without pretrained weights: the embedded world, and real text where no hub can be reached.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.contract import AdamWSettings

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def train_tokenizer(texts: list[str], vocabulary_size: int) -> Any:
    """Byte-level BPE (every text can be encoded) as a transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **SPECIAL)


def split_off(tokens: list[int]) -> tuple[list[int], list[int]]:
    """The text without its last twentieth, and that twentieth, on which nothing is trained."""
    cut = len(tokens) - len(tokens) // 20
    return tokens[:cut], tokens[cut:]


def build_model(architecture: dict[str, Any], tokenizer: Any, seed: int) -> Any:
    """A freshly initialised Llama.

    Attention starts mimetically (Trockman and Kolter 2023, arXiv 2305.09828): queries equal keys, and what is put out
    undoes what was taken in, so that looking back and copying need not be found first; the head starts as the
    embedding.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    ids = {name.replace("_token", "_token_id"): getattr(tokenizer, f"{name}_id") for name in SPECIAL}
    model = LlamaForCausalLM(LlamaConfig(**architecture, vocab_size=len(tokenizer), **ids))
    for layer in model.model.layers:
        _start_mimetically(layer.self_attn)
    model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.data)
    return model


def _start_mimetically(attention: Any) -> None:
    query, key, value, out = (getattr(attention, f"{name}_proj").weight.data for name in "qkvo")
    torch.nn.init.orthogonal_(value, gain=0.7**0.5)  # (key-value heads x head, width)
    torch.nn.init.orthogonal_(key, gain=0.5**0.5)
    repeats = query.shape[0] // key.shape[0]  # grouped heads share a key
    head = attention.head_dim
    query.copy_(key.view(-1, 1, head, key.shape[1]).expand(-1, repeats, -1, -1).reshape(query.shape))
    out.copy_(value.view(-1, 1, head, value.shape[1]).expand(-1, repeats, -1, -1).reshape(query.shape).t() / repeats)


def pretrain(model: Any, sequences: Tensor, held_out: Tensor, settings: dict[str, Any], folder: Path) -> float | None:
    """Full training on `sequences` (count, length): AdamW (0.9, 0.95), decay 0.1, cosine, 10 % warm-up, clipping at 1.

    Returns the mean loss over `held_out` (count, length), in nats a token; log and checkpoint stand in `folder`.
    """
    import baselines
    from workflow.engine.memory import MemoryMeter
    from workflow.engine.plain_text import Packed
    from workflow.engine.speed import StepClock
    from workflow.engine.training import Loop, LoopSettings

    folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(
        model,
        baselines.build("full", {}, AdamWSettings(beta2=0.95, weight_decay=0.1), settings["seed"]),
        LoopSettings(
            steps=settings["steps"],
            batch_size=settings["batch_size"],
            accumulation_steps=1,
            schedule="cosine",
            warmup_steps=max(1, settings["steps"] // 10),
            max_grad_norm=1.0,
            precision="fp32",
            evaluate_every_steps=None,
            checkpoint_every_steps=None,
            untimed_steps=0,
            metered_steps=1,
        ),
        train=Packed(sequences),
        validation=Packed(held_out),
        learning_rate=settings["learning_rate"],
        seed=settings["seed"],
        pad_token_id=model.config.pad_token_id,
        folder=folder,
        meter=MemoryMeter("cpu"),
        clock=StepClock(0),
    )
    return loop.run().validation_loss
