"""Measure cells of a memory experiment on this machine: memory, time and operations of real training steps on random
weights (`workflow/engine/measuring.py` says how). Nothing is downloaded or trained.

    python -m workflow.stages.measure --experiment config/paper/table1_memory.yaml                  # a whole campaign
    python -m workflow.stages.measure --experiment config/paper/table1_memory.yaml --only 'llama-2-7b/*'
    python -m workflow.stages.measure --experiment config/memory_cpu.yaml --cell llama-20m/full/default/default

A campaign measures one cell after the other, each in a process of its own, and leaves in results/<name>/<cell>/

run.json       the run record; out of memory is a result too, with the phase it happened in
timeline.csv   bytes by component over the operators of one step
measure.log    what the process printed
failure.json   in place of run.json: why a cell failed

It goes on after a cell that failed, and ends non-zero then. What was measured by the same code under the same settings
is not measured again, so a campaign that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import importlib.metadata
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from workflow.engine.errors import InputError
from workflow.memory_experiment import check_cell, find_cell, load
from workflow.stages import parser, reason_of, results_folder, stage_main
from workflow.stages.train import empty_record, settings_of, status_of

MADE_HERE = ("run.json", "timeline.csv", "failure.json")


def main() -> None:
    """Command line."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    which = arguments.add_mutually_exclusive_group()
    which.add_argument("--cell", help="model/method/variant/setting: this one, measured or not, in this process")
    which.add_argument("--only", metavar="PATTERN", help="cells whose path matches, with * and ?")
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), help="in place of the experiment's")
    arguments.add_argument("--again", action="store_true", help="measure also what is measured already")
    given = arguments.parse_args()
    experiment = load(given.experiment)
    experiment["measure"]["device"] = given.device or experiment["measure"]["device"]
    effort_of(experiment)  # a mistake in there stops all before it begins
    results = results_folder(experiment, given.results)
    if given.cell is None:
        campaign(experiment, cells_like(experiment, given.only), results, again=given.again)
    else:
        cell = find_cell(experiment, given.cell)
        measure_cell(experiment, cell, results / cell["path"])
        print(f"{cell['path']}  {outcome(results / cell['path'])[1]}")


# --- one cell


def measure_cell(experiment: dict[str, Any], cell: dict[str, Any], folder: Path) -> None:
    """Leave run.json and timeline.csv in `folder`, or failure.json where neither a peak nor its absence is known."""
    from workflow.engine.records import check_record, write_json

    for name in MADE_HERE:
        (folder / name).unlink(missing_ok=True)
    attempt = Attempt(experiment, cell)
    try:
        attempt.carry_out()
    except Exception as error:
        attempt.record |= {"status": status_of(error), "error": reason_of(error)}
        if attempt.record["status"] == "failed":
            with contextlib.suppress(OSError):  # a full disk: the reason comes first
                write_json(folder / "failure.json", attempt.finished())
            raise
    record = attempt.finished()
    try:
        check_record(record)
    except ModuleNotFoundError as error:
        print(f"run.json is not checked against its schema: {error}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    attempt.write_timeline(folder / "timeline.csv")
    write_json(folder / "run.json", record)


class Attempt:
    """One attempt at a cell; `record` and `measurement` hold what is known so far."""

    def __init__(self, experiment: dict[str, Any], cell: dict[str, Any]) -> None:
        self.experiment, self.cell, self.how = experiment, cell, experiment["measure"]
        self.record = empty_record(experiment, {**cell, "data": "synthetic", "seed": self.how["seed"]})
        self.measurement: Any = None

    def carry_out(self) -> None:
        """Take the device, which must be empty, and measure there."""
        import torch

        from workflow.engine.devices import require_empty, require_host_memory, take_device
        from workflow.engine.measuring import Measurement
        from workflow.engine.models import weights_bytes
        from workflow.engine.records import environment, memory_files
        from workflow.engine.shapes import read_config
        from workflow.engine.training_step import Conditions, build_method

        cell, seed, threads = self.cell, self.how["seed"], self.how["threads"]
        conditions = Conditions(**cell["conditions"])
        config = read_config(cell["shape"])
        check_cell(cell, config)
        method = build_method(cell["method"], cell["hyperparameters"], conditions, seed)
        torch.set_num_threads(threads)
        device = take_device(self.how["device"])
        self.record["environment"] = environment(memory_files(cell["method"]), device, threads)
        self.record["settings"] = self._settings(device, method)
        require_empty(device)
        if device.type == "cpu":
            require_host_memory(weights_bytes(config, conditions.precision))
        self.measurement = Measurement(
            config,
            method,
            conditions,
            device,
            effort_of(self.experiment),
            learning_rate=cell["learning_rate"],
            seed=seed,
        )
        self.measurement.run()
        self.record |= {"status": "ok", "error": None}

    def finished(self) -> dict[str, Any]:
        """The record with all that was measured, and random weights and tokens as model and data."""
        record, measurement = self.record, self.measurement
        if measurement is None:
            return record
        tokens = measurement.plan.steps * measurement.tokens if measurement.plan else None
        return {
            **record,
            **measurement.parts(),
            "model": record["model"] | {"parameters": measurement.parameters},
            "data": record["data"] | {"train_tokens": tokens},
            "settings": record["settings"] | measurement.settings(),
        }

    def write_timeline(self, file: Path) -> None:
        """Empty where memory ran out before the first metered step began."""
        if self.measurement.timeline is None:
            file.touch()
        else:
            self.measurement.timeline.write_csv(file)

    def _settings(self, device: Any, method: Any) -> dict[str, Any]:
        conditions = self.cell["conditions"]
        shared = {"training": conditions, "prompt_format": None, "threads": self.how["threads"]}
        return {
            **settings_of(shared, device, method),
            **conditions,
            "setting": self.cell["setting"],
            "request_sha256": request_sha256(self.experiment, self.cell),
        }


def effort_of(experiment: dict[str, Any]) -> Any:
    """How long each cell is measured.

    Raises:
        InputError: the numbers of steps do not go together.
    """
    from workflow.engine.measuring import Effort

    return Effort(**{key: experiment["measure"][key] for key in ("warmup_steps", "timed_steps", "max_steps")})


def request_sha256(experiment: dict[str, Any], cell: dict[str, Any]) -> str:
    """Digest of all that decides a measurement on one device: what is measured, how thoroughly, the code, torch and its
    allocator. Which device it is stays open: asking CUDA would take memory on it that a cell must find empty.
    """
    from workflow.engine.records import allocator, memory_files, sha256_sources

    parts = {key: cell[key] for key in ("shape", "method", "hyperparameters", "learning_rate", "conditions")}
    parts |= {"measure": experiment["measure"], "code": sha256_sources(memory_files(cell["method"]))}
    parts |= {"torch": importlib.metadata.version("torch"), "allocator": allocator()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# --- a campaign


def cells_like(experiment: dict[str, Any], pattern: str | None) -> list[dict[str, Any]]:
    """The experiment's cells whose path matches; all of them without a pattern."""
    cells = [cell for cell in experiment["cells"] if fnmatch.fnmatchcase(cell["path"], pattern or "*")]
    if not cells:
        known = ", ".join(cell["path"] for cell in experiment["cells"])
        raise InputError(f"--only: no cell of experiment {experiment['name']!r} matches {pattern!r}. Known: {known}.")
    return cells


def campaign(experiment: dict[str, Any], cells: list[dict[str, Any]], results: Path, *, again: bool = False) -> None:
    """Measure cells one after the other, each in a process of its own; says of each how it went.

    Raises:
        InputError: the device is not there, or cells failed, which are named; the others are measured.
    """
    from workflow.engine.devices import check_device

    check_device(experiment["measure"]["device"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running cell ends with the campaign
    statuses: dict[str, str] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "experiment.json"  # resolved once: a change of the YAML is for the next campaign
        document.write_text(json.dumps(experiment))
        for number, cell in enumerate(cells, start=1):
            cell_began = time.perf_counter()
            kept = not again and is_measured(experiment, cell, results / cell["path"])
            if not kept:
                measure_apart(document, experiment, cell, results)
            statuses[cell["path"]], words = outcome(results / cell["path"])
            took = "measured before" if kept else f"{time.perf_counter() - cell_began:.0f} s"
            print(f"[{number}/{len(cells)}] {cell['path']}  {words}  {took}", flush=True)
    counts = ", ".join(f"{count} {status}" for status, count in Counter(statuses.values()).items())
    print(f"{len(cells)} cells: {counts}; {time.perf_counter() - began:.0f} s; records in {results}")
    failed = [path for path, status in statuses.items() if status == "failed"]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}."
            f" Why stands in failure.json and measure.log of each, under {results}."
        )


def is_measured(experiment: dict[str, Any], cell: dict[str, Any], folder: Path) -> bool:
    """Whether the folder has a record of this cell by today's code and settings."""
    file = folder / "run.json"
    if not file.is_file():
        return False
    return json.loads(file.read_text())["settings"].get("request_sha256") == request_sha256(experiment, cell)


def measure_apart(document: Path, experiment: dict[str, Any], cell: dict[str, Any], results: Path) -> None:
    """Measure a cell in a fresh process; one that dies without a word leaves failure.json too."""
    from workflow.engine.records import write_json

    folder = results / cell["path"]
    folder.mkdir(parents=True, exist_ok=True)
    for name in MADE_HERE:
        (folder / name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "workflow.stages.measure", "--experiment", str(document), "--cell", cell["path"]]
    with (folder / "measure.log").open("w") as log:
        done = subprocess.run([*command, "--results", str(results)], stdout=log, stderr=log, check=False)
    if not any((folder / name).is_file() for name in ("run.json", "failure.json")):
        ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        record = Attempt(experiment, cell).record
        hint = "; the host's memory may be too small" if ended == "SIGKILL" else ""
        write_json(folder / "failure.json", record | {"error": f"the process ended by {ended}{hint}"})


def outcome(folder: Path) -> tuple[str, str]:
    """What a cell came to: its status, and one line for people."""
    from workflow.engine.cards import format_bytes

    file = next(folder / name for name in ("run.json", "failure.json") if (folder / name).is_file())
    record = json.loads(file.read_text())
    status, settings = record["status"], record["settings"]
    words = [status if record["phase"] is None else f"{status} ({record['phase']})"]
    if status != "ok":
        words.append(record["error"])
        return status, "  ".join(words)
    words.append(f"peak {format_bytes(record['memory']['allocated_peak_bytes'])}")
    words.append(f"{1000 * record['time']['step_median_s']:.1f} ms a step")
    if settings["visited_units"] < settings["drawn_units"]:
        words.append(f"only {settings['visited_units']} of {settings['drawn_units']} units trained")
    if not settings["periodic_cost_seen"]:
        words.append("no periodic cost seen")
    return status, "  ".join(words)


if __name__ == "__main__":
    stage_main(main)
