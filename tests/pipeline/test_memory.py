"""A memory experiment as a whole: simulated, measured on the CPU, its page made; and one of whose cells fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pipeline.mini import snakemake

ARCHITECTURE = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
MEMORY: dict[str, Any] = {
    "name": "mini_memory",
    "kind": "memory",
    "models": [{"name": "tiny", "architecture": ARCHITECTURE}],
    "methods": ["full"],
    "training": {"sequence_length": 32, "precision": "fp32"},
}


def test_a_cell_is_simulated_and_measured_and_both_stand_on_the_page(tmp_path: Path) -> None:
    measure = {"device": "cpu", "warmup_steps": 1, "timed_steps": 2}
    done = snakemake(tmp_path, {**MEMORY, "measure": measure})
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results/mini_memory"
    cell = results / "tiny/full/default/default"
    simulated, measured = (json.loads((cell / name).read_text()) for name in ("simulated.json", "run.json"))
    assert simulated["cell"] == "tiny/full/default/default"
    assert sum(simulated["components"].values()) == simulated["peak_bytes"]
    peak = measured["memory"]["allocated_peak_bytes"]
    assert abs(simulated["peak_bytes"] / peak - 1) < 0.02  # 1 MB in all: a mask or a scalar counts
    assert (cell / "simulated_timeline.csv").read_text().startswith("operator,part,weights")
    assert {"complete", "report.html"} <= {file.name for file in results.iterdir()}


def test_a_cell_that_fails_leaves_its_reason_and_the_page_of_the_others(tmp_path: Path) -> None:
    models = [*MEMORY["models"], {"name": "big", "shape": "nobody/big"}]  # the tests have no network
    done = snakemake(tmp_path, {**MEMORY, "models": models}, HF_HUB_OFFLINE="1")
    assert done.returncode != 0
    results, cell = tmp_path / "results/mini_memory", "full/default/default"
    log = (tmp_path / f"logs/mini_memory/big/{cell}/simulate.log").read_text()
    assert "error: " in log and "nobody/big" in log and "Traceback" not in log
    assert (results / "tiny" / cell / "simulated.json").is_file()
    assert "big" in (results / "report.html").read_text()
    assert not (results / "complete").exists()
