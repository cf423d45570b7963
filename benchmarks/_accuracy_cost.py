"""What one simulation costs, for `simulator_accuracy.py`: seconds and host memory of a process that does nothing else.

python -m benchmarks._accuracy_cost QUESTION       # QUESTION and the answer are JSON; see `ask`
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks._accuracy_processes import in_new_process


def ask(shape: str, method: str, threads: int) -> dict[str, Any]:
    """Simulate a bundled shape under the default conditions in a new process.

    Returns `process_s` (interpreter and imports included), `simulated_s`, `process_peak_bytes`, `peak_bytes`.
    """
    began = time.perf_counter()
    answer = in_new_process(__name__, {"shape": shape, "method": method, "threads": threads})
    return {**answer, "process_s": time.perf_counter() - began}


def simulated(shape: str, method: str, threads: int) -> dict[str, Any]:
    """The simulation, in this process."""
    import torch

    from workflow.engine.memory import process_peak_bytes
    from workflow.engine.shapes import read_config
    from workflow.engine.simulator import simulate
    from workflow.engine.training_step import Conditions

    torch.set_num_threads(threads)
    simulation = simulate(read_config(shape), method, {}, Conditions())
    return {
        "simulated_s": simulation.simulated_s,
        "process_peak_bytes": process_peak_bytes(),
        "peak_bytes": simulation.peak_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(simulated(**json.loads(sys.argv[1]))))
