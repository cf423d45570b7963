# The cells of a memory experiment: where they live, what decides each of them, and which were measured already.
from os.path import relpath

from eval.memory_cells import REFERENCE

CELL = f"{RESULTS}/{{model}}/{{method}}/{{variant}}/{{setting}}"
CELL_LOGS = f"logs/{NAME}/{{model}}/{{method}}/{{variant}}/{{setting}}"
CELLS = {cell["path"]: cell for cell in EXPERIMENT["cells"]}
CODE = {method: sha256_sources(memory_files(method)) for method in {cell["method"] for cell in EXPERIMENT["cells"]}}
SIMULATION_CODE = sha256_sources(sources("workflow/stages/simulate.py"))
MEASURING_CODE = sha256_sources(sources("workflow/stages/measure.py"))
# on a card, cells are measured by a campaign of their own (workflow/stages/measure.py), before or after
MEASURED_HERE = EXPERIMENT["measure"]["device"] == "cpu"


wildcard_constraints:
    model="[^/]+",
    method="[^/]+",
    variant="[^/]+",
    setting="[^/]+",


def cell_path(wildcards):
    """The cell's name within the experiment."""
    return f"{wildcards.model}/{wildcards.method}/{wildcards.variant}/{wildcards.setting}"


def cell_settings(wildcards):
    """All that decides a cell's step; a change of it, or of the code, simulates and measures it again."""
    cell = CELLS[cell_path(wildcards)]
    keys = ("shape", "hyperparameters", "learning_rate", "conditions")
    return {key: cell[key] for key in keys} | {"seed": EXPERIMENT["measure"]["seed"], "code": CODE[cell["method"]]}


def all_cells(file):
    """One file of every cell."""
    return [f"{RESULTS}/{path}/{file}" for path in CELLS]


def measured():
    """Records of measurements: those that are made here, and any that exist, so that a new one makes the page anew."""
    own = [file for file in all_cells("run.json") if MEASURED_HERE or Path(file).is_file()]
    return own + sorted(relpath(file) for path in CELLS for file in REFERENCE.glob(f"*/{NAME}/{path}/run.json"))
