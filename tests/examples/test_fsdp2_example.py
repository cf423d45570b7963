"""examples/fsdp2_lisa.py as its reader starts it, in two processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP = re.compile(r"step +(\d+)  (.+)  loss ([\d.]+)  optimizer state on each rank \[(\d+), (\d+)\] bytes")
# Of the example's Llama: embedding, head and final norm; and two layers of seven matrices and two norms each.
TRAINED_PARAMETERS = 3 + 2 * 9
TRAINED_WEIGHTS = 2 * 64 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64)


@pytest.mark.parametrize(("arguments", "shards"), [([], 2), (["--replicate"], 1)], ids=["sharded", "replicated"])
def test_it_trains_saves_and_resumes_bit_for_bit(arguments: list[str], shards: int):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "examples/fsdp2_lisa.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.split("resumed at step 7\n")
    steps = STEP.findall(first)
    assert [int(step) for step, *_ in steps] == list(range(12))
    assert len({layers for _, layers, *_ in steps}) > 1
    assert float(steps[-1][2]) < float(steps[0][2]) - 0.5
    expected_bytes = str(2 * 4 * TRAINED_WEIGHTS // shards + 4 * TRAINED_PARAMETERS)
    assert {held for *_, mine, other in steps for held in (mine, other)} == {expected_bytes}
    assert STEP.findall(again) == steps[7:]
    assert again.endswith("largest difference to the run without a break: losses 0.0, weights 0.0\n")
