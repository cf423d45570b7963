"""How long a large report takes: 40 methods with 5 seeds, written, opened, its size.

    python benchmarks/report_speed.py                   # 1,300 items in each of four benchmarks; two minutes
    python benchmarks/report_speed.py --items 200 --methods 10

The results are made up (the tests' tree), with item-level answers and ratings of every run; the stage `report` then
reads them, tests all pairs, writes tables, figures and pages. Printed: seconds of the stage as a process of its own and
its largest part, the page's size, and in headless Chromium the seconds until the page has loaded and until its last
figure is drawn, without a request to any network. Wanted: at most 20 s, 6 MB, 2 s.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.report import fixture_tree  # noqa: E402
from tests.report.browser import DRAWN, Chromium, executable  # noqa: E402

STEPS = 300


def write_results(folder: Path, methods: int, seeds: int, items: int) -> dict[str, Any]:
    """A tree of made-up runs in `folder`; returns its experiment."""
    draw = random.Random(0)
    names = ["vanilla", "full", *(f"method{place}" for place in range(methods - 2))]
    fixture_tree.METHODS = tuple((name, "default", {}, None if name == "vanilla" else 1e-3) for name in names)
    fixture_tree.SKILL = {name: draw.uniform(0.5, 0.95) for name in names} | {"vanilla": 0.0}
    fixture_tree.MEMORY_MB = dict.fromkeys(names, fixture_tree.MEMORY_MB["full"])
    fixture_tree.STEP_S = dict.fromkeys(names, fixture_tree.STEP_S["full"])
    fixture_tree.STEPS = STEPS
    plan = fixture_tree.write_tree(folder, fixture_tree.experiment(seeds=tuple(range(seeds))))
    fixture_tree.write_whole(folder, plan)
    fixture_tree.write_items(folder, plan, items)
    fixture_tree.write(folder / "experiment.json", plan)
    return plan


def stage_s(folder: Path) -> float:
    """Seconds of the stage `report`, start of the process included."""
    command = [sys.executable, "-m", "workflow.stages.report", "--experiment", str(folder / "experiment.json")]
    started = time.perf_counter()
    subprocess.run([*command, "--results", str(folder)], cwd=ROOT, check=True)
    return time.perf_counter() - started


def opening_s(page: Path) -> tuple[float, float]:
    """Seconds until a page has loaded, and until its last figure is drawn."""
    with Chromium() as browser:
        browser.open("about:blank")
        started = time.perf_counter()
        opened = browser.open(page.as_uri())
        loaded_s = time.perf_counter() - started
        opened.wait_for(DRAWN)
        drawn_s = time.perf_counter() - started
        asked = [url for url in opened.requests if not url.startswith(("data:", "file:"))]
        assert not asked and not opened.errors, (asked, opened.errors)
    return loaded_s, drawn_s


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, words in (
        ("methods", 40, "rows"),
        ("seeds", 5, "of every row"),
        ("items", 1300, "of each of the four benchmarks"),
        ("times", 3, "that the page is opened, the least counts"),
    ):
        arguments.add_argument(f"--{name}", type=int, default=default, help=f"{words} ({default})")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_results(folder, given.methods, given.seeds, given.items)
        print(f"{given.methods} methods x {given.seeds} seeds, {given.items} items in each of four benchmarks")
        print(f"report stage: {stage_s(folder):.1f} s")
        page = folder / "report.html"
        print(f"page: {page.stat().st_size / 1e6:.2f} MB; {len(list((folder / 'figures').iterdir()))} figures as SVG")
        if executable() is None:
            sys.exit("error: no Chromium here, so that nothing says how long the page takes to open.")
        loaded_s, drawn_s = min(opening_s(page) for _ in range(given.times))
        print(f"opened in Chromium: loaded after {loaded_s:.2f} s, all figures drawn after {drawn_s:.2f} s")


if __name__ == "__main__":
    main()
