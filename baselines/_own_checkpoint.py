"""Checkpoints of models with modules that no architecture of transformers has: base weights, extra modules, the code.

    save(model, folder, _bottleneck, {"modules": [...], "bottleneck": 256, ...})
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

The folder holds a modelling file: the source of a module with a function `insert(model, **settings)`, and a class that
derives from the base model's and calls it. The `model_type` is its own, so that whoever does not allow code is refused
instead of getting the bare base model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

CODE = "without a module of its own no architecture has it: the checkpoint brings a modelling file (trust_remote_code)"
CLASSES = '''

# --- the base model with it, as transformers loads it

from {config_module} import {config_class}  # noqa: E402
from {model_module} import {model_class}  # noqa: E402


class AdaptedConfig({config_class}):
    """The base model's, and `adapter`: the arguments of `insert`."""

    model_type = "{model_type}"


class AdaptedModel({model_class}):
    """The base model with the modules that were trained."""

    config_class = AdaptedConfig

    def __init__(self, config: AdaptedConfig) -> None:
        super().__init__(config)
        insert(self, **config.adapter)
'''


def save(
    model: Any, folder: Path, code: ModuleType, settings: Mapping[str, Any], extra: Mapping[str, Tensor] | None = None
) -> None:
    """Write the checkpoint; `model` stays as it is.

    Args:
        model: of a class of transformers.
        code: the module whose source is copied.
        settings: of its `insert`, which makes the extra modules on a loaded base model.
        extra: weights of the extra modules by name, where they are not in the model already.

    Raises:
        ValueError: the model's class is no class of transformers.
    """
    kind = type(model)
    if not kind.__module__.startswith("transformers."):
        told = f"{kind.__name__} is of {kind.__module__}"
        raise ValueError(f"{told}; legal: a model class of transformers, which a modelling file can import.")
    name = code.__name__.rsplit(".", 1)[-1].strip("_")
    file, model_type = f"modeling_{name}", f"{model.config.model_type}_{name}"
    weights = {**model.state_dict(), **(extra or {})}
    model.save_pretrained(folder, state_dict=weights, save_original_format=False)  # names as in memory: on loading,
    # transformers finds old names (GPT-NeoX's embed_out, Mixtral's experts) by `model_type`, which is not the base's
    classes = CLASSES.format(
        config_module=type(model.config).__module__,
        config_class=type(model.config).__name__,
        model_module=kind.__module__,
        model_class=kind.__name__,
        model_type=model_type,
    )
    (folder / f"{file}.py").write_text(Path(code.__file__ or "").read_text() + classes)
    described = json.loads((folder / "config.json").read_text())
    described |= {
        "model_type": model_type,
        "architectures": ["AdaptedModel"],
        "auto_map": {"AutoConfig": f"{file}.AdaptedConfig", "AutoModelForCausalLM": f"{file}.AdaptedModel"},
        "adapter": dict(settings),
    }
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def save_adapter(model: nn.Module, folder: Path, settings: Mapping[str, Any]) -> None:
    """The weights that trained and their settings, without the base model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(json.dumps(dict(settings), indent=2) + "\n")
