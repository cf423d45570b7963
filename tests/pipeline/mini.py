"""The smallest experiment that has every part, and ways to run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def mini(prepared: Path, **changes: Any) -> dict[str, Any]:
    """An experiment on a small world that trains for a few seconds a run."""
    experiment = {
        "name": "mini",
        "data_root": "world",
        "prepared_root": str(prepared),
        "world": {"seed": 0, "people": 40, "towns": 20, "test_items": 8},
        "models": [
            {
                "name": "tiny",
                "pretrain": {
                    "corpus": "corpus/world.txt.gz",
                    "corpus_characters": 60_000,
                    "vocabulary_size": 500,
                    "architecture": {
                        "hidden_size": 32,
                        "intermediate_size": 64,
                        "num_hidden_layers": 4,
                        "num_attention_heads": 4,
                        "num_key_value_heads": 2,
                        "max_position_embeddings": 1024,
                    },
                    "phases": [{"steps": 6, "batch_size": 4, "sequence_length": 128, "learning_rate": 0.003}],
                    "threads": 1,
                },
            }
        ],
        "data": [
            {
                "name": "world",
                "dataset": "world/instructions",
                "format": "messages",
                "validation_split": "validation",
                "validation_items": 8,
            }
        ],
        "methods": ["vanilla", "lisa"],
        "seeds": [0],
        "prompt_format": "question-answer",
        "training": {
            "steps": 8,
            "batch_size": 4,
            "sequence_length": 128,
            "learning_rate": 0.001,
            "untimed_steps": 2,
            "checkpoint_every_steps": 3,
        },
        "evaluation": {
            "batch_size": 8,
            "benchmarks": [
                {"name": "mmlu", "limit": 2, "tasks": ["mmlu_global_facts"]},
                {"name": "agieval", "limit": 2, "tasks": ["agieval_aqua_rat"]},
                {"name": "winogrande", "limit": 2},
                {"name": "gsm8k", "limit": 2, "max_new_tokens": 6},
            ],
            "general_text": {"file": "text/general.txt.gz", "sequence_length": 128},
        },
        "mt_bench": {"judge": "rule-based", "max_new_tokens": 6, "limit": 1},
    }
    return experiment | changes


def inherited() -> dict[str, str]:
    """This process's environment without the developer's own judge."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("JUDGE_", "OPENAI_"))}


def snakemake(
    folder: Path, experiment: dict[str, Any], *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the pipeline from the repository with results and logs in `folder`; the YAML is written there."""
    file = folder / f"{experiment['name']}.yaml"
    file.write_text(yaml.safe_dump(experiment))
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "2", "--directory", str(folder)]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(file)]
    command += ["--workflow-profile", str(ROOT / "profiles/default"), *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=inherited() | environment, check=False
    )


def stage(folder: Path, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one stage without Snakemake, `folder` being the working directory."""
    command = [sys.executable, "-m", f"workflow.stages.{name}", *arguments]
    variables = inherited() | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables, check=False)
