"""Every example runs as its first lines say, trains what LISA draws, holds state of nothing else, and learns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lisa import draw_uniform

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*_lisa.py") if path.name != "fsdp2_lisa.py")
# By example: the seed of the draws (a Trainer's own is 42), and the words of the vocabulary.
KNOWN = {"plain_loop_lisa.py": (0, 64), "trainer_lisa.py": (42, 64), "trl_lisa.py": (42, 66)}
LAYERS, GAMMA, PERIODS = 6, 2, 5

STEP = re.compile(r"step +(\d+)  ((?:layer \d+(?:, )?)+)  optimizer state (\d+) bytes  loss (\d+\.\d+)")
LEARNT = re.compile(r"loss (\d+\.\d+) .*, (\d+\.\d+) .*: (\d+\.\d+) of it")


def state_bytes(vocabulary: int, hidden: int = 64, inner: int = 128) -> int:
    """Two fp32 moments a weight and one fp32 step count a tensor: embeddings, head, norm and GAMMA layers."""
    layer = 4 * hidden * hidden + 3 * hidden * inner + 2 * hidden  # in 9 tensors
    weights = 2 * vocabulary * hidden + hidden + GAMMA * layer  # the first two terms in 3 tensors
    return 2 * 4 * weights + 4 * (3 + GAMMA * 9)


def test_every_example_is_known_here():
    assert EXAMPLES == sorted(KNOWN)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_what_is_drawn_and_learns(name):
    seed, vocabulary = KNOWN[name]
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # lisa/ must be found without it
    command = [sys.executable, f"examples/{name}"]
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

    rows = [STEP.fullmatch(line) for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(rows) == PERIODS
    for period, (step, layers, held, _) in enumerate(row.groups() for row in rows):
        assert int(step) == 8 * (period + 1)
        assert tuple(int(digit) for digit in re.findall(r"\d", layers)) == draw_uniform(seed, period, LAYERS, GAMMA)
        assert int(held) == state_bytes(vocabulary)
    losses = [float(row.group(4)) for row in rows]
    assert losses == sorted(losses, reverse=True)
    before, after, ratio = (float(number) for number in LEARNT.fullmatch(done.stdout.splitlines()[-1]).groups())
    assert ratio == pytest.approx(after / before, abs=1e-3)
    assert ratio < 0.4
