"""Run records: what one run was, did, cost and on what; `run.json` by `workflow/schemas/run_record.schema.json`.

Results with the same major.minor schema version compare.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = "1.1.2"
TRACKED = ("baselines", "config", "eval", "lisa", "workflow")  # a method file that git does not know counts as a change
MODEL_CARD = "README.md"  # of a checkpoint's folder: about the model and no part of it, so it moves no checksum
ROOT = Path(__file__).parents[2]
# of the engine, what predicts and measures steps, evaluates or shows: a change of it trains nothing again
NO_TRAINING = (
    "cards.py",
    "checkpoints.py",
    "dataless.py",
    "fit.py",
    "margin.py",
    "measuring.py",
    "shapes.py",
    "simulator.py",
    "split.py",
    "tracking.py",
    "visits.py",
)
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "galore-torch",
    "apollo-torch",
    "lm-eval",
    "datasets",
    "openai",
    "snakemake",
)


def write_json(file: Path, content: Any) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(file.suffix + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(file)


def sources(*patterns: str) -> list[Path]:
    """Source files of this project by glob patterns from its root, sorted."""
    return sorted(file for pattern in patterns for file in ROOT.glob(pattern))


def method_files(method: str) -> list[Path]:
    """Sources that decide what a run of this method does: lisa, the engine, what it imports of baselines."""
    engine = [file for file in sources("workflow/engine/*.py") if file.name not in NO_TRAINING]
    training = ("train", "continue_pretraining")
    stages = sources("workflow/continual_pretraining.py", *(f"workflow/stages/{name}.py" for name in training))
    return sorted([*sources("lisa/*.py"), *stages, *_own_files(method), *engine])


def _own_files(method: str) -> set[Path]:
    """Registry, contract, the method's file, and all modules of baselines that these import, directly or not."""
    found, new = set(), {ROOT / f"baselines/{name}.py" for name in ("__init__", "contract", method)}
    while new:
        found |= new
        new = {imported for file in new for imported in _imported_baselines(file)} - found
    return found


def _imported_baselines(file: Path) -> set[Path]:
    """Modules of baselines that a source file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(part for part in ("baselines" if node.level else None, node.module) if part)
            names |= {package, *(f"{package}.{alias.name}" for alias in node.names)}
    modules = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("baselines.")}
    return {module for module in modules if module.is_file()}


def memory_files(method: str) -> list[Path]:
    """Sources that decide what a simulated or measured step of this method takes."""
    apart = ("cards.py", "checkpoints.py", "fit.py", "margin.py", "split.py", "tracking.py")
    beside = [f"workflow/engine/{name}" for name in NO_TRAINING if name not in apart]
    return sorted([*method_files(method), *sources(*beside, "workflow/engine/model_shapes/*.json")])


def sha256_sources(files: Iterable[Path]) -> str:
    """sha256 over the names and contents of source files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def allocator() -> str | None:
    """The configuration of CUDA's caching allocator, where the environment has one."""
    return os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")


def environment(code: Iterable[Path], device: torch.device, threads: int) -> dict[str, Any]:
    """Packages, torch build, device, driver, commit, and checksums of the lock and of `code`, the sources that ran."""
    import torch

    lock = ROOT / "requirements.lock"
    return {
        "python": platform.python_version(),
        "packages": _versions(),
        "torch_build": torch.__version__,
        "cuda": torch.version.cuda,
        "device": device_name(device),
        "driver": _driver() if device.type == "cuda" else None,
        "device_type": device.type,
        "host_cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        **_git(),
        "code_sha256": sha256_sources(code),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def device_name(device: torch.device) -> str:
    """Name of the device that computes."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


@functools.cache
def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


def _driver() -> str | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _git() -> dict[str, Any]:
    """Commit and dirty flag; None outside a git checkout (an installed package)."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", *TRACKED)
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def check_record(record: dict[str, Any]) -> None:
    """Assert that a record has the schema's form; a violation is a bug of ours, not of the user."""
    from jsonschema import Draft202012Validator

    schema = json.loads((ROOT / "workflow/schemas/run_record.schema.json").read_text())
    Draft202012Validator(schema).validate(record)
