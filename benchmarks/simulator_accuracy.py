"""The memory simulator against the CPU allocator's own trace of real runs, and what a simulation costs.

    python benchmarks/simulator_accuracy.py                                    # everything, half an hour
    python benchmarks/simulator_accuracy.py --parts accuracy --sizes 20m --methods lisa

Accuracy: every method that trains, in fp32 and bf16, with and without gradient checkpointing, on Llamas of 20 M and
100 M parameters. A cell is one real run in a process of its own, whose peak `torch.profiler` reports block by block
(`_accuracy_allocator.py`), and one simulation. Settings: the other ones of a step, one at a time, at 20 M. Workspaces:
what kernels hold and a simulation cannot see (`_accuracy_workspaces.py`). Cost: seconds and host memory of simulating
LLaMA-2-7B and 70B.

Prints its tables; a whole run writes them, with all numbers and the environment, to results/reference/cpu/. Ends with 1
if a cell is over the bound. Sizes do not depend on the machine, seconds do.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks for modules beside it

import torch  # noqa: E402

import baselines  # noqa: E402
from benchmarks import _accuracy_allocator, _accuracy_cost  # noqa: E402
from benchmarks._accuracy_allocator import POSITIONS, SIZES, Cell  # noqa: E402
from benchmarks._accuracy_workspaces import step_workspaces  # noqa: E402
from benchmarks._limits_report import Bound, Results, Table  # noqa: E402
from workflow.engine import records  # noqa: E402
from workflow.engine.simulator import simulate  # noqa: E402

PARTS = ("accuracy", "settings", "workspaces", "cost")
THREADS = 2
TOKENS = 256
SIZES_OF_BOUND = ("20m", "100m")
ERROR_BOUND_PERCENT = 0.5
COST_BOUNDS = {"llama-2-7b": {"process_s": 60.0, "process_peak_bytes": 2e9}, "llama-2-70b": {"process_s": 90.0}}
METHODS_OF_PARTS = {"settings": ("full",), "workspaces": ("full", "galore")}  # kernels are the same in all
OTHER_SETTINGS: tuple[dict[str, Any], ...] = (  # one at a time
    {"precision": "bf16-mixed"},
    {"attention": "eager"},
    {"adamw_implementation": "foreach"},
    {"adamw_implementation": "for-loop"},
    {"accumulation_steps": 2},
    {"batch_size": 4},
    {"max_grad_norm": None},
    {"loss_chunk_tokens": 64},
    {"loss_chunk_tokens": 64, "gradient_checkpointing": True},
    {"step_in_backward": True, "max_grad_norm": None},
)


@dataclass(frozen=True)
class Comparison:
    """One cell, both ways."""

    cell: Cell
    allocator: dict[str, Any]  # as `_accuracy_allocator.run` answers
    simulated: dict[str, Any]  # as `Simulation.as_json`

    @property
    def error_percent(self) -> float:
        """Of the simulated peak; negative where it is too small."""
        return 100 * (self.simulated["peak_bytes"] / self.allocator["peak_bytes"] - 1)

    def row(self) -> list[Any]:
        """Its line of the table."""
        peaks = (self.allocator["peak_bytes"] / 1e6, self.simulated["peak_bytes"] / 1e6)
        where = f"{self.allocator['peak_operator']} / {self.simulated['operator']}"
        return [self.cell.size, self.cell.method, self.cell.settings, *peaks, self.error_percent, where]


def main() -> None:
    """Run the parts, print as they finish, write."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import that it has no kernels for this CPU
    record: dict[str, Any] = {"environment": describe_environment(arguments)}
    results = Results()
    for part in arguments.parts:
        found, numbers = run_part(part, arguments)
        results.add(found)
        record |= numbers
        print("\n\n".join(table.markdown() for table in found.tables), end="\n\n", flush=True)
    verdicts = [verdict_table(results.bounds)] if results.bounds else []
    print("\n\n".join(table.markdown() for table in verdicts))
    if arguments.json:
        record["bounds"] = [{**asdict(bound), "verdict": bound.verdict} for bound in results.bounds]
        write(arguments.json, record, [*results.tables, *verdicts])
    if any(bound.verdict == "missed" for bound in results.bounds):
        sys.exit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = [name for name in baselines.names() if baselines.method_class(name).trains]
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES_OF_BOUND)
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"a row; one row a batch (default {TOKENS})")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", THREADS)))
    parser.add_argument(
        "--json", type=Path, help="file to write, its tables beside it as .md (a whole run has its own)"
    )
    arguments = parser.parse_args()
    if not 2 <= arguments.tokens <= POSITIONS:
        parser.error(f"--tokens {arguments.tokens}: legal: 2 to {POSITIONS}")
    whole = (tuple(arguments.parts), tuple(arguments.sizes), arguments.methods, arguments.tokens)
    if arguments.json is None and whole == (PARTS, SIZES_OF_BOUND, methods, TOKENS):
        arguments.json = ROOT / "results/reference/cpu/simulator_accuracy.json"
    return arguments


def run_part(part: str, arguments: argparse.Namespace) -> tuple[Results, dict[str, Any]]:
    """One of PARTS, and its numbers for the record."""
    sizes, tokens, threads = arguments.sizes, arguments.tokens, arguments.threads
    methods = [name for name in arguments.methods if name in METHODS_OF_PARTS.get(part, arguments.methods)]
    methods = methods or arguments.methods
    if part == "accuracy":
        title = "1. The peak of memory: the allocator's and the simulated"
        return accuracy(part, main_cells(sizes, methods, tokens), threads, title)
    if part == "settings":
        title = "2. The same with other settings of the step"
        return accuracy(part, other_cells(sizes[0], methods, tokens), threads, title)
    if part == "workspaces":
        cells = main_cells(sizes[-1:], methods, tokens)
        return workspaces([cell for cell in cells if not cell.conditions().gradient_checkpointing])
    return cost(methods, threads)


# --- accuracy


def main_cells(sizes: list[str], methods: list[str], tokens: int) -> list[Cell]:
    """Those that the bound is for."""
    return [
        Cell(size, method, {"precision": precision, "gradient_checkpointing": on, "sequence_length": tokens})
        for size, method, precision, on in itertools.product(sizes, methods, ("fp32", "bf16"), (False, True))
    ]


def other_cells(size: str, methods: list[str], tokens: int) -> list[Cell]:
    """OTHER_SETTINGS, in bf16 where they do not say otherwise."""
    return [
        Cell(size, method, {"sequence_length": tokens, **changes})
        for method, changes in itertools.product(methods, OTHER_SETTINGS)
    ]


def compare(cell: Cell, threads: int) -> Comparison:
    """A real run and a simulation."""
    allocator = _accuracy_allocator.ask(cell, threads)
    simulation = simulate(cell.config(), cell.method, cell.hyperparameters, cell.conditions(), seed=cell.seed)
    return Comparison(cell, allocator, simulation.as_json())


def accuracy(part: str, cells: list[Cell], threads: int, title: str) -> tuple[Results, dict[str, Any]]:
    """All cells, one at a time, and the worst of them."""
    found = []
    for cell in cells:
        found.append(compare(cell, threads))
        error = f"{found[-1].error_percent:+.4f} %"
        print(f"{cell.size} {cell.method}, {cell.settings}: {error}", file=sys.stderr, flush=True)
    worst = max(found, key=lambda comparison: abs(comparison.error_percent))
    table = Table(
        title,
        f"Llamas of random weights on the CPU, {threads} threads, batch 1 x {cells[0].conditions().sequence_length}"
        " tokens and the defaults of `Conditions` (bf16, SDPA attention, fused AdamW) where a row says nothing else.",
        COLUMNS,
        [comparison.row() for comparison in found],
        f"Worst of {len(found)}: {worst.error_percent:+.4f} %, {worst.cell.method} at {worst.cell.size}.",
    )
    bound = Bound(
        f"{part}: error at the peak, %, worst of {len(found)} cells",
        "<=",
        ERROR_BOUND_PERCENT,
        abs(worst.error_percent),
    )
    return Results([table], [bound]), {part: [{**asdict(c), "error_percent": c.error_percent} for c in found]}


COLUMNS = {
    "size": "",
    "method": "",
    "settings": "",
    "allocator, MB": ".3f",
    "simulated, MB": ".3f",
    "error, %": "+.4f",
    "operator at the peak, allocator / simulated": "",
}


# --- workspaces


def workspaces(cells: list[Cell]) -> tuple[Results, dict[str, Any]]:
    """What kernels hold inside, and how far below the step's peak they do."""
    rows, numbers = [], []
    for cell in cells:
        found, peak_bytes = step_workspaces(cell)
        for workspace in found[:3]:
            below = (peak_bytes - workspace.top_bytes) / 1e6
            rows.append(
                [cell.method, cell.conditions().precision, workspace.operator, workspace.hidden_bytes / 1e6, below]
            )
            numbers.append({"cell": asdict(cell), **asdict(workspace), "step_peak_bytes": peak_bytes})
    table = Table(
        f"3. Workspaces of kernels, {cells[0].size}",
        "The three largest of a step that begins a period, with state there: what the allocator's total rises inside an"
        " operator above both its ends, which no operator returns and so no simulation sees.",
        {"method": "", "precision": "", "operator": "", "workspace, MB": ".3f", "below the step's peak, MB": ".1f"},
        rows,
        "Where the last column is large, the workspace cannot make the peak.",
    )
    return Results([table]), {"workspaces": numbers}


# --- cost


def cost(methods: list[str], threads: int) -> tuple[Results, dict[str, Any]]:
    """Seconds and host memory of simulating the large shapes."""
    asked = list(itertools.product(COST_BOUNDS, methods))
    numbers = [{"shape": s, "method": m, **_accuracy_cost.ask(s, m, threads)} for s, m in asked]
    columns = {"shape": "", "method": "", "simulation, s": ".1f", "process, s": ".1f", "host memory, GB": ".2f"}
    rows = [
        [
            n["shape"],
            n["method"],
            n["simulated_s"],
            n["process_s"],
            n["process_peak_bytes"] / 1e9,
            n["peak_bytes"] / 1e9,
        ]
        for n in numbers
    ]
    table = Table(
        "4. What a simulation costs",
        "Each in a process of its own, start and imports included; batch 1 x 1024 tokens in bf16.",
        {**columns, "simulated peak, GB": ".2f"},
        rows,
    )
    bounds = [
        Bound(f"cost: {shape}, {key}, worst of {len(methods)} methods", "<=", limit, worst_cost(numbers, shape, key))
        for shape, limits in COST_BOUNDS.items()
        for key, limit in limits.items()
    ]
    return Results([table], bounds), {"cost": numbers}


def worst_cost(numbers: list[dict[str, Any]], shape: str, key: str) -> float:
    """The largest over methods."""
    return max(float(n[key]) for n in numbers if n["shape"] == shape)


# --- the report


def verdict_table(bounds: list[Bound]) -> Table:
    """Every bound, with what was measured."""
    rows = [[bound.what, f"{bound.relation} {bound.limit:g}", bound.measured, bound.verdict] for bound in bounds]
    return Table("The bounds", "", {"bound": "", "limit": "", "measured": ".4g", "verdict": ""}, rows)


def describe_environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """As in run records, with date, load and the checksum of all code that takes part."""
    files = records.sources(
        "benchmarks/simulator_accuracy.py",
        "benchmarks/_accuracy_*.py",
        "baselines/*.py",
        "lisa/*.py",
        "workflow/engine/*.py",
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average_1_min": os.getloadavg()[0],
        **records.environment(records.memory_files("full"), torch.device("cpu"), arguments.threads),
        "code_sha256": records.sha256_sources(files),
    }


def write(file: Path, record: dict[str, Any], tables: list[Table]) -> None:
    """All numbers to `file`, the tables beside it."""
    records.write_json(file, record)
    environment = record["environment"]
    names = ("date", "device", "threads", "torch_build", "git_commit")
    told = ", ".join(f"{name} {environment[name]}" for name in names)
    packages = ", ".join(f"{name} {environment['packages'][name]}" for name in ("transformers", "peft", "galore-torch"))
    head = (
        "# The memory simulator's accuracy\n\n"
        f"Written by `python benchmarks/simulator_accuracy.py`: {told}; {packages}. MB = 1e6 bytes, GB = 1e9."
    )
    file.with_suffix(".md").write_text("\n\n".join([head, *(table.markdown() for table in tables)]) + "\n")
    print(f"\nWritten to {file} and {file.with_suffix('.md')}.")


if __name__ == "__main__":
    main()
