"""The checkpoint as lm-eval's `hf` backend sees it, without bars, and counting what did not fit the model's context.

Importing this module imports lm-eval and transformers (seconds): `eval.harness` does so when it evaluates.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval import EvaluationError
from eval.answering import virtual_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(model: Any, tokenizer: Any, *, batch_size: int, device: str, dtype: str) -> CountingHFLM:
    """Wrap a checkpoint folder, or a loaded model with its tokenizer."""
    if isinstance(model, (str, Path)):
        folder = Path(model).resolve()
        if not (folder / "config.json").is_file():
            raise EvaluationError(f"No checkpoint in {folder}: it has no config.json.")
        if dtype not in DTYPES:
            raise EvaluationError(f"Unknown dtype {dtype!r}. Known: {', '.join(DTYPES)}.")
        settings = {"dtype": DTYPES[dtype], "trust_remote_code": False}  # an error, and no question to a terminal
        model = AutoModelForCausalLM.from_pretrained(folder, **settings).to(device)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer is None:
        raise EvaluationError("A loaded model needs its tokenizer beside it.")
    return CountingHFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")


class CountingHFLM(HFLM):
    """lm-eval cuts a prompt that is too long from the left and logs it; here `overflow` says whose and by how much.

    Attributes:
        overflow: (task, item) -> tokens cut from the item's prompt.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.overflow: dict[tuple[str, int], int] = {}
        self._scored: list[Any] = []
        self._encode_once = functools.lru_cache(maxsize=1024)(super().tok_encode)

    @property
    def max_length(self) -> int:
        """The model's context in tokens of text."""
        return super().max_length - virtual_tokens(self.model.config)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Tokens of a string; the choices of an item share their prompt, which is encoded once."""
        return list(self._encode_once(string, add_special_tokens, left_truncate_len, **kwargs))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each request's continuation."""
        self._scored = requests
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        for instance, (_, prompt, answer) in zip(self._scored, requests, strict=True):
            if len(answer) > self.max_length:
                raise EvaluationError(
                    f"{instance.task_name}, item {instance.doc_id}: an answer of {len(answer)} tokens does not fit"
                    f" the model's context of {self.max_length}."
                )
            self._count(instance, len(prompt) + len(answer) - (self.max_length + 1))
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Continuation of each request's prompt."""
        for instance in requests:
            prompt, settings = instance.args
            new_tokens = settings.get("max_gen_toks", self.max_gen_toks)
            if new_tokens >= self.max_length:
                raise EvaluationError(
                    f"{instance.task_name}: {new_tokens} new tokens leave no room for a prompt in the model's context"
                    f" of {self.max_length}. Legal max_new_tokens: 1 to {self.max_length - 1}."
                )
            self._count(instance, len(self.tok_encode(prompt)) - (self.max_length - new_tokens))
        return super().generate_until(requests, disable_tqdm=True)

    def _count(self, instance: Any, tokens: int) -> None:
        if tokens > 0:
            key = (instance.task_name, instance.doc_id)
            self.overflow[key] = max(tokens, self.overflow.get(key, 0))
