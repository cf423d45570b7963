"""LISA at its limits: correctness, memory over its floor, speed over its FLOP limit, in one run and as ratios.

    python benchmarks/lisa_limits.py                        # 100 M Llama on the CPU, 2 threads, within 10 minutes
    python benchmarks/lisa_limits.py --quick --out FOLDER   # tiny sizes: does it run
    python benchmarks/lisa_limits.py --device cuda --shape llama-2-7b --dtype bf16 --tokens 1024

Prints its tables and, at the end, every bound with what was measured; writes the same as `lisa_limits.md` and `.json`,
with the environment, and a chart of the optimizer state to results/reference/<device>/. Weights are random: nothing is
downloaded. Times compare only on a machine that does nothing else; the load when it began is in the record.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks for modules beside it

import torch  # noqa: E402

from benchmarks._limits_correctness import correctness  # noqa: E402
from benchmarks._limits_memory import memory  # noqa: E402
from benchmarks._limits_model import DTYPES, SHAPES, Setup  # noqa: E402
from benchmarks._limits_report import Results, summary, write  # noqa: E402
from benchmarks._limits_speed import Sizes as SpeedSizes  # noqa: E402
from benchmarks._limits_speed import speed  # noqa: E402
from benchmarks._limits_state import Sizes as StateSizes  # noqa: E402
from benchmarks._limits_state import state  # noqa: E402
from workflow.engine import records  # noqa: E402

SECTIONS = ("correctness", "memory", "state", "speed")
THREADS = 2
SIZES_OF_BOUNDS = (("cpu", "llama-100m", "fp32", 256), ("cuda", "llama-2-7b", "bf16", 1024))
LONG_ROWS = 4  # on the CPU, memory is shown for rows so many times as long, too


def main() -> None:
    """Run the sections, print as they finish, write."""
    arguments = parse()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", THREADS)))
    setup = Setup(arguments.shape, torch.device(arguments.device), arguments.dtype, 1, arguments.tokens)
    environment = describe_environment(setup)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results()
    for section in arguments.sections:
        found = run_section(section, setup, arguments.quick)
        results.add(found)
        print("\n\n".join(table.markdown() for table in found.tables), end="\n\n", flush=True)
    results.bounds = [replace(bound, judged=is_for_bounds(arguments)) for bound in results.bounds]
    print(summary(results.bounds).markdown())
    write(arguments.out, results, environment)
    print(f"\nWritten to {arguments.out}.")


def parse() -> argparse.Namespace:
    """The command line; --quick changes the sizes unless they are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default cpu)")
    parser.add_argument("--shape", choices=SHAPES, help="default llama-100m, with --quick tiny")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of weights, gradients and moments")
    parser.add_argument("--tokens", type=int, help="a row; one row a batch (default 256, with --quick 16)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder to write to (whole runs: default results/reference/<device>)")
    arguments = parser.parse_args()
    if arguments.tokens is None:
        arguments.tokens = 16 if arguments.quick else 256
    arguments.shape = arguments.shape or ("tiny" if arguments.quick else "llama-100m")
    if arguments.tokens < 2:
        parser.error(f"--tokens {arguments.tokens}: a row needs 2, one to read and one to predict")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", arguments.device):
        parser.error(f"--device {arguments.device}: cpu, cuda, or cuda:<number>")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: torch finds no CUDA device here")
    if arguments.out is None:
        if not is_for_bounds(arguments) or set(arguments.sections) != set(SECTIONS):
            parser.error("--out FOLDER is needed: results/reference/ is for whole runs at the sizes of the bounds")
        arguments.out = ROOT / "results/reference" / folder_name(torch.device(arguments.device))
    return arguments


def is_for_bounds(arguments: argparse.Namespace) -> bool:
    """Whether these are sizes that the bounds are meant for."""
    sizes = (arguments.device.partition(":")[0], arguments.shape, arguments.dtype, arguments.tokens)
    return not arguments.quick and sizes in SIZES_OF_BOUNDS


def run_section(section: str, setup: Setup, quick: bool) -> Results:
    """One of SECTIONS."""
    if section == "correctness":
        return correctness()
    if section == "memory":
        return memory(setup, () if quick or setup.device.type == "cuda" else (LONG_ROWS * setup.tokens,))
    if section == "state":
        return state(setup, StateSizes(growth_periods=6, always_on_periods=2) if quick else StateSizes())
    quick_sizes = SpeedSizes(rounds=4, periods=2, period_steps=3, compiled_rounds=4, backend="aot_eager")
    return speed(setup, quick_sizes if quick else SpeedSizes())


def describe_environment(setup: Setup) -> dict[str, Any]:
    """As in run records, with date, load and the checksum of the benchmark itself."""
    files = records.sources("benchmarks/lisa_limits.py", "benchmarks/_limits_*.py", "lisa/*.py", "workflow/engine/*.py")
    found = records.environment(records.method_files("lisa"), setup.device, torch.get_num_threads())
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "setup": setup.describe(),
        "load_average_1_min": os.getloadavg()[0],
        **found,
        "code_sha256": records.sha256_sources(files),
    }


def folder_name(device: torch.device) -> str:
    """cpu, or the name of the GPU in lower case and hyphens."""
    if device.type == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")


if __name__ == "__main__":
    main()
