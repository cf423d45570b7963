"""The benchmark of a large report runs: a small one is written by the stage and opened in Chromium, and told of."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.report.browser import executable

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_report_is_written_opened_and_told_of() -> None:
    words = ["--methods", "3", "--seeds", "2", "--items", "8", "--times", "1"]
    command = [sys.executable, "benchmarks/report_speed.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = done.stdout.splitlines()
    assert told[0] == "3 methods x 2 seeds, 8 items in each of four benchmarks"
    assert re.fullmatch(r"report stage: \d+\.\d s", told[1])
    assert re.fullmatch(r"page: \d\.\d\d MB; [1-9]\d* figures as SVG", told[2])
    if executable() is None:
        assert done.returncode == 1 and "no Chromium here" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"opened in Chromium: loaded after .* s, all figures drawn after .* s", told[3])
