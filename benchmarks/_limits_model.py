"""What `lisa_limits.py` measures on: Llamas of random weights, LISA and the readings it is compared with, one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lisa import LISA, decoder_layers, draw_uniform

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LLAMA = {"rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 4096, "use_cache": False}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4, "heads": (4, 4)},
    "llama-100m": {  # 100.3 million parameters
        "vocab_size": 10_000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "heads": (12, 12),
    },
    "llama-2-7b": {  # arXiv 2307.09288
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "heads": (32, 32),
    },
    "llama-3-8b": {  # arXiv 2407.21783
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "heads": (32, 8),
    },
}
GPU_OPTIONS = "--device cuda --shape llama-2-7b --dtype bf16 --tokens 1024"  # the numbers to reach on a GPU are for it
Loss = Callable[[nn.Module, Tensor], Tensor]  # (model, token ids) -> scalar


@dataclass(frozen=True)
class Setup:
    """On what a run of the benchmark measures."""

    shape: str
    device: torch.device
    dtype: str  # fp32 | bf16
    batch_size: int  # rows
    tokens: int  # a row
    gamma: int = 2

    def describe(self) -> str:
        """One clause for the tables."""
        return (
            f"{self.shape}, {self.dtype}, {self.device.type}, batch {self.batch_size} x {self.tokens} tokens,"
            f" gamma {self.gamma}, fused AdamW, SDPA attention, random weights"
        )

    def is_for_gpu_bounds(self) -> bool:
        """Whether it is what GPU_OPTIONS say."""
        cell = (self.shape, self.device.type, self.dtype, self.batch_size, self.tokens, self.gamma)
        return cell == ("llama-2-7b", "cuda", "bf16", 1, 1024, 2)


def build(setup: Setup, device: torch.device | str | None = None, **changes: Any) -> nn.Module:
    """A Llama of random weights in training mode; `changes` go over its shape, "meta" as the device costs nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {**LLAMA, **SHAPES[setup.shape], **changes}
    heads, key_value_heads = shape.pop("heads")
    config = LlamaConfig(
        **shape, num_attention_heads=heads, num_key_value_heads=key_value_heads, attn_implementation="sdpa"
    )
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPES[setup.dtype])
    try:
        with torch.device(device or setup.device):
            return LlamaForCausalLM(config).train()
    finally:
        torch.set_default_dtype(torch.float32)


def adamw(model: nn.Module, **settings: Any) -> torch.optim.AdamW:
    """Fused AdamW over every parameter."""
    return torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1, fused=True, **settings)


def token_ids(setup: Setup, tokens: int | None = None) -> Tensor:
    """(batch, tokens) uniform token ids."""
    generator = torch.Generator().manual_seed(0)
    size = (setup.batch_size, tokens or setup.tokens)
    return torch.randint(0, SHAPES[setup.shape]["vocab_size"], size, generator=generator).to(setup.device)


def own_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """The model's own loss; nothing else of its output outlives this call."""
    return model(input_ids=ids, labels=ids).loss


def state_bytes(optimizer: Optimizer, device: torch.device | None = None) -> int:
    """Bytes of all tensors that the optimizer's state holds, or of those on one kind of device."""
    tensors = (t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor))
    return sum(t.nbytes for t in tensors if device is None or t.device.type == device.type)


def moment_bytes(parameters: Sequence[nn.Parameter]) -> int:
    """By formula: AdamW's two moments, each like its parameter, and one fp32 step count."""
    return sum(2 * p.nbytes + 4 for p in parameters)


class ToggleOnly:
    """LISA as the public callbacks have it: the drawn layers get `requires_grad`, and nothing else is touched."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, gamma: int, period_steps: int, seed: int) -> None:
        self.layers, self.optimizer = decoder_layers(model), optimizer
        self.gamma, self.period_steps, self.seed = gamma, period_steps, seed
        self.active: tuple[int, ...] = ()

    def before_step(self, step: int) -> None:
        """The same draws as LISA's."""
        if step % self.period_steps == 0:
            self.active = draw_uniform(self.seed, step // self.period_steps, len(self.layers), self.gamma)
            for index, layer in enumerate(self.layers):
                layer.requires_grad_(index in self.active)


class Everything:
    """Full fine-tuning."""

    active: tuple[int, ...] = ()

    def before_step(self, step: int) -> None:
        """Nothing to redraw."""


@dataclass(frozen=True)
class StepTimes:
    """Where the seconds of one optimizer step went."""

    before_s: float
    forward_backward_s: float
    optimizer_s: float

    @property
    def whole_s(self) -> float:
        return self.before_s + self.forward_backward_s + self.optimizer_s


class Run:
    """A model with its optimizer and what is called before each step; counts its own steps."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, method: LISA | ToggleOnly | Everything) -> None:
        self.model, self.optimizer, self.method = model, optimizer, method
        self.steps = 0
        self.visited: set[int] = set()

    def step(self, ids: Tensor, loss_of: Loss = own_loss) -> StepTimes:
        """One optimizer step, timed between synchronisations."""
        clock = [_now(ids.device)]
        self.method.before_step(self.steps)
        clock.append(_now(ids.device))
        loss_of(self.model, ids).backward()
        clock.append(_now(ids.device))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clock.append(_now(ids.device))
        self.steps += 1
        self.visited |= set(self.method.active)
        return StepTimes(*(after - before for before, after in zip(clock, clock[1:], strict=False)))

    def visit_all(self, ids: Tensor) -> None:
        """Steps, whole periods of them, until every unit was active once."""
        units = len(decoder_layers(self.model)) if isinstance(self.method, ToggleOnly) else len(self.method.units)
        while len(self.visited) < units or self.steps % self.method.period_steps:
            self.step(ids)


def start(
    setup: Setup,
    method: type[LISA] | type[ToggleOnly],
    period_steps: int,
    *,
    model: nn.Module | None = None,
    make_optimizer: Callable[[nn.Module], Optimizer] = adamw,
    **settings: Any,
) -> Run:
    """LISA or its toggle-only reading at step 0 with a new optimizer, on a new model or one that served before."""
    model = build(setup) if model is None else model.requires_grad_(True)
    optimizer = make_optimizer(model)
    return Run(model, optimizer, method(model, optimizer, setup.gamma, period_steps, 0, **settings))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
