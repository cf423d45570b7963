"""For the tests of lisa and baselines: tiny models, a learnable task, the shortest loop that keeps the contract."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import baselines
from baselines.contract import AdamWSettings, Method
from workflow.engine.live_storage import tensors_in
from workflow.engine.step_in_backward import StepInBackward

VOCABULARY = 32
LAYERS = 4
WEIGHT_SCALE = 0.2  # of the first weights: a frozen random head must let logits grow, or no adapter can learn below it


def tiny_llama(seed: int = 0, tied: bool = False, layers: int = LAYERS) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "initializer_range": WEIGHT_SCALE}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, tie_word_embeddings=tied, **sizes, **special)
    )


def tiny_gpt2(seed: int = 0) -> nn.Module:
    """Biases, tied embeddings, Conv1D in place of Linear."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **still, bos_token_id=0, eos_token_id=1, initializer_range=WEIGHT_SCALE))


def tiny_qwen(seed: int = 0) -> nn.Module:
    """Qwen2.5 in small: biases on queries, keys and values only, fewer heads for keys than for queries, tied."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "initializer_range": WEIGHT_SCALE}
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            num_hidden_layers=LAYERS,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            **sizes,
            **special,
        )
    )


def suited(name: str, config: Any) -> Any:
    """This Llama configuration; for a method that refuses it (BitFit: no biases), Qwen2's of the same sizes."""
    from transformers import Qwen2Config

    method = baselines.build(name, baselines.method_class(name).small, AdamWSettings(), 0)
    try:
        method.check(config.to_dict())
    except ValueError:
        sizes = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
        return Qwen2Config(**sizes)
    return config


def batch(step: int) -> Tensor:
    """(4, 12) tokens in which each follows from the one before it, so that a model can learn them."""
    tokens = [torch.randint(0, VOCABULARY, (4,), generator=torch.Generator().manual_seed(step))]
    for _ in range(11):
        tokens.append((3 * tokens[-1] + 7) % VOCABULARY)
    return torch.stack(tokens, dim=1)


def loss_of(model: nn.Module, step: int) -> Tensor:
    tokens = batch(step)
    return model(input_ids=tokens, labels=tokens).loss


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state dict."""
    return sum(t.nbytes for s in optimizer.state_dict()["state"].values() for t in s.values() if isinstance(t, Tensor))


def held_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The same as `Method.state_bytes` counts them: shared tensors once, single numbers not at all."""
    held = tensors_in(optimizer.state_dict()["state"])
    return sum({t.data_ptr(): t.nbytes for t in held if t.numel() > 1}.values())


@dataclass
class Run:
    """A method on a model, with its optimizer and a falling learning rate."""

    method: Method
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    losses: list[float] = field(default_factory=list)

    def train(self, start: int, end: int, accumulation: int = 1) -> Run:
        """Steps `start` to `end`; each over `accumulation` batches that together are the step's one."""
        for step in range(start, end):
            if step == 0:
                self.method.calibrate(
                    self.model, [{"input_ids": batch(0), "attention_mask": torch.ones_like(batch(0))}]
                )
            self.method.before_step(step)
            self.losses.append(sum(self._backward(tokens, accumulation) for tokens in batch(step).chunk(accumulation)))
            if not self.method.steps_in_backward:
                self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        return self

    def _backward(self, tokens: Tensor, parts: int) -> float:
        loss = self.model(input_ids=tokens, labels=tokens).loss / parts
        loss.backward()
        return loss.item()

    def saved(self) -> bytes:
        """A checkpoint as the training loop writes it."""
        buffer = io.BytesIO()
        torch.save(self.states(), buffer)
        return buffer.getvalue()

    def states(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in (self.model, self.optimizer, self.schedule, self.method)]

    def load(self, checkpoint: bytes) -> Run:
        """The contract's order: model, optimizer and schedule first, the method's own state last."""
        states = torch.load(io.BytesIO(checkpoint), weights_only=True)
        for part, state in zip((self.model, self.optimizer, self.schedule, self.method), states, strict=True):
            part.load_state_dict(state)
        return self


def start(
    name: str,
    model: nn.Module | None = None,
    lr: float = 3e-3,
    adamw: AdamWSettings | None = None,
    seed: int = 0,
    **overrides: Any,
) -> Run:
    """The method `name` at step 0 on `model` (a tiny Llama by default), in the order the training loop keeps."""
    method = baselines.build(name, {**baselines.method_class(name).small, **overrides}, adamw or AdamWSettings(), seed)
    model = method.prepare(tiny_llama() if model is None else model)
    optimizer = method.optimizer(model, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.05 * step))
    if method.steps_in_backward:
        StepInBackward(optimizer)
    return Run(method, model, optimizer, schedule)


def train_by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, lr: float) -> list[float]:
    """Losses of the plainest loop, at the rates of `start`'s schedule: what a package does by itself."""
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr / (1 + 0.05 * step)
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the parameters that are not bit for bit what they were."""
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
