"""A made-up tree of a memory experiment: predictions near the real ones, and measurements on two imaginary devices.

write_tree(folder) -> the resolved experiment, whose files then stand in `folder` as a pipeline run would leave them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.report import fixture_tree
from tests.report.fixture_tree import write

GB = 1_000_000_000
CONDITIONS = {
    "batch_size": 1,
    "sequence_length": 1024,
    "accumulation_steps": 1,
    "precision": "bf16",
    "attention": "sdpa",
    "gradient_checkpointing": False,
    "adamw_implementation": "fused",
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "loss_chunk_tokens": None,
    "step_in_backward": False,
}
MODELS = {
    "tinyllama": "TinyLlama",
    "mistral-7b": "Mistral-7B",
    "llama-2-7b": "LLaMA-2-7B",
    "llama-2-70b": "LLaMA-2-70B",
}
PARAMETERS = {"tinyllama": 1.10e9, "mistral-7b": 7.24e9, "llama-2-7b": 6.74e9, "llama-2-70b": 68.98e9}
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("full", "default", {}),
    ("lora", "r128", {"rank": 128}),
    ("lora", "r256", {"rank": 256}),
    ("lora", "r512", {"rank": 512}),
    ("lisa", "eh", {"gamma": 0}),
    ("lisa", "eh-2l", {"gamma": 2}),
    ("lisa", "eh-4l", {"gamma": 4}),
    ("galore", "default", {"rank": 128}),
)
PEAKS_GB = {
    "tinyllama": (9.0, 5.1, 5.7, 7.0, 4.5, 4.95, 5.4, 5.5),
    "mistral-7b": (58.0, 23.1, 25.1, 29.3, 20.6, 22.5, 24.3, 31.8),
    "llama-2-7b": (54.0, 21.5, 23.5, 27.4, 19.3, 21.1, 22.8, 29.6),
    "llama-2-70b": (556.0, 178.0, 190.0, 214.0, 163.0, 171.0, 178.0, 246.0),
}
SHARES = {"weights": 0.5, "gradients": 0.1, "optimizer_state": 0.2, "activations": 0.15, "temporaries": 0.04}
WORK = {"full": 1.0, "lora": 0.72, "lisa": 0.69, "galore": 1.02}
SETTINGS = {
    "foreach": ({"adamw_implementation": "foreach"}, 13.4),
    "eager": ({"attention": "eager"}, 6.4),
    "checkpointing": ({"gradient_checkpointing": True}, -2.3),
}
VARIED = (("full", "default"), ("lora", "r128"), ("lisa", "eh-2l"))
DEVICE = "Imaginary GPU 80 GB"


def experiment(name: str = "memory-fixture", models: tuple[str, ...] = tuple(MODELS)) -> dict[str, Any]:
    """A resolved memory experiment; the settings are varied for llama-2-7b."""
    base = [_cell(model, *method) for model in models for method in METHODS]
    varied = [cell for cell in base if cell["model"] == "llama-2-7b" and (cell["method"], cell["variant"]) in VARIED]
    changed = [_with_setting(cell, setting) for setting in SETTINGS for cell in varied]
    return {
        "name": name,
        "kind": "memory",
        "models": [{"name": model, "published_as": MODELS[model]} for model in models],
        "methods": ["full", "galore"],
        "method_settings": {},
        "training": CONDITIONS,
        "settings": [{"name": setting, "training": change} for setting, (change, _) in SETTINGS.items()],
        "measure": {"device": "auto", "warmup_steps": 2, "timed_steps": 5, "max_steps": 50, "seed": 0, "threads": 1},
        "report": {"published": ["table1_memory", "iteration_time"]},
        "cells": [*base, *changed],
    }


def write_tree(folder: Path, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write every prediction, experiment.json, and return the experiment."""
    plan = plan or experiment()
    for cell in plan["cells"]:
        write(folder / cell["path"] / "simulated.json", simulated(cell))
        write_timeline(folder / cell["path"] / "simulated_timeline.csv", peak_bytes(cell))
    write(folder / "experiment.json", plan)
    return plan


def cell_of(plan: dict[str, Any], path: str) -> dict[str, Any]:
    """The cell with this path."""
    return next(cell for cell in plan["cells"] if cell["path"] == path)


def measure(
    folder: Path, cell: dict[str, Any], *, excess: float = 0.02, device: str = DEVICE, status: str = "ok"
) -> None:
    """The record of a measurement, `excess` above the prediction."""
    write(folder / cell["path"] / "run.json", measured(cell, excess, device, status))
    write_timeline(folder / cell["path"] / "timeline.csv", round(peak_bytes(cell) * (1 + excess)))


def _cell(model: str, method: str, variant: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": f"{model}/{method}/{variant}/default",
        "model": model,
        "shape": model,
        "published_as": MODELS[model],
        "method": method,
        "variant": variant,
        "hyperparameters": hyperparameters,
        "learning_rate": 1e-5,
        "setting": "default",
        "conditions": dict(CONDITIONS),
    }


def _with_setting(cell: dict[str, Any], setting: str) -> dict[str, Any]:
    conditions = cell["conditions"] | SETTINGS[setting][0]
    path = f"{cell['model']}/{cell['method']}/{cell['variant']}/{setting}"
    return cell | {"path": path, "setting": setting, "conditions": conditions}


# --- files


def peak_bytes(cell: dict[str, Any]) -> int:
    """The peak of the tables above; full fine-tuning feels a setting most."""
    place = [method[:2] for method in METHODS].index((cell["method"], cell["variant"]))
    change = SETTINGS[cell["setting"]][1] if cell["setting"] in SETTINGS else 0.0
    share = 1.0 if cell["method"] == "full" else 0.1 if cell["setting"] == "foreach" else 0.8
    return round((PEAKS_GB[cell["model"]][place] + change * share) * GB)


def components(total: int) -> dict[str, int]:
    """Six roles that add up."""
    parts = {role: round(share * total) for role, share in SHARES.items()}
    return {**parts, "other": total - sum(parts.values())}


def simulated(cell: dict[str, Any]) -> dict[str, Any]:
    """As workflow/stages/simulate.py writes it."""
    total = peak_bytes(cell)
    parameters = round(PARAMETERS[cell["model"]])
    forward, whole = 2 * parameters * 1024, 6 * parameters * 1024
    work = round(WORK[cell["method"]] * whole)
    return {
        "schema_version": "1.0.0",
        "experiment": "memory-fixture",
        "cell": cell["path"],
        "model": cell["model"],
        "method": {"name": cell["method"], **{key: cell[key] for key in ("variant", "hyperparameters")}},
        "setting": cell["setting"],
        "conditions": cell["conditions"],
        "status": "ok",
        "peak_bytes": total,
        "phase": "step",
        "operator": "aten._fused_adamw_.default",
        "phases": {"load": total // 3, "forward": total // 2, "backward": total - 1000, "step": total},
        "components": components(total),
        "flops": {"forward": forward, "backward": work - forward, "total": work},
        "parameters": parameters,
        "trainable_parameters": {"always": 262_000_000, "sampled": 6_400_000_000, "total": 6_662_000_000},
        "drawn_units": 32 if cell["method"] == "lisa" else 0,
        "visited_units": 32 if cell["method"] == "lisa" else 0,
        "simulated_s": 4.2,
        "environment": environment("cpu (Imaginary CPU)"),
    }


def measured(cell: dict[str, Any], excess: float, device: str, status: str) -> dict[str, Any]:
    """A run.json of the schema of workflow/schemas/run_record.schema.json."""
    total = round(peak_bytes(cell) * (1 + excess))
    parts = {"forward": total // 2, "backward": total - 1000, "step": total}
    memory = {
        "meter": "cuda-allocator",
        "allocated_peak_bytes": total,
        "reserved_peak_bytes": total + 300_000_000,
        "process_peak_bytes": total + 900_000_000,
        "phases": {"load": total // 3, "train": total, **parts},
        "components": components(total),
        "metered_steps": 3,
    }
    step_s = 0.5 * WORK[cell["method"]]
    time = {"train_s": 5.0, "step_median_s": step_s, "step_p90_s": 1.1 * step_s, "warmup_steps": 2, "timed_steps": 5}
    tokens = {"train_tokens": 1024, "train_items": 1, "validation_items": 0, "cut_items": 0}
    done = status == "ok"
    return {
        "schema_version": "1.1.0",
        "experiment": "memory-fixture",
        "model": {"name": cell["model"], "revision": None, "sha256": None, "parameters": 1_100_000_000},
        "data": {"name": "synthetic", "revision": None, "sha256": None, **tokens},
        "method": {
            "name": cell["method"],
            **{key: cell[key] for key in ("variant", "hyperparameters", "learning_rate")},
        },
        "seed": 0,
        "status": status,
        "phase": None if done else "train",
        "error": None if done else "CUDA out of memory",
        "settings": {**cell["conditions"], "setting": cell["setting"], "threads": 1},
        "memory": memory if done else None,
        "time": time if done else None,
        "throughput": {"tokens_per_s": 1024 / step_s, "padded_tokens_per_s": 1024 / step_s} if done else None,
        "flops_per_step": 1 if done else None,
        "mfu": None,
        "trainable_parameters": {"always": 1, "sampled": 0, "total": 1} if done else None,
        "validation_loss": None,
        "steps": 7,
        "resumed_at_step": None,
        "started": "2030-01-02T03:04:00+00:00",
        "environment": environment(device),
    }


def environment(device: str) -> dict[str, Any]:
    """As workflow/engine/records.py writes it."""
    return fixture_tree.environment() | {"device": device, "git_dirty": False}


def write_timeline(file: Path, total: int, moments: int = 300) -> None:
    """A step whose memory rises in the forward, falls in the backward and peaks at the end."""
    header = "operator,part," + ",".join(f"{role}_bytes" for role in components(total))
    lines = [header]
    for place in range(moments):
        at = place / moments
        part = "forward" if at < 0.4 else "backward" if at < 0.9 else "step"
        full = components(total)
        parts = full | {
            "gradients": round(full["gradients"] * min(1, max(0.0, (at - 0.4) * 2))),
            "activations": round(full["activations"] * max(0.0, 1 - abs(at - 0.4) * 2)) if at < 0.9 else 0,
            "temporaries": full["temporaries"] + full["activations"] if place == moments - 5 else 0,
        }
        lines.append(f"{place + 1},{part}," + ",".join(str(value) for value in parts.values()))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
