"""Compare the norms of a model's parts under full fine-tuning and under LoRA, as figure 2 of the LISA paper does.

Reads `weight_norms.csv` of the finished runs of one model on one data set (`workflow/engine/weight_norms.py` says what
stands there), takes means over the recorded steps and the seeds, and writes to
results/<experiment>/<model>/<data>/weight_norms/

weight_norms.csv   a row a part: mean, first and last norm under full fine-tuning, of LoRA's adapters, and of the
                   weights with the adapters added. First is before training: the share of the initialisation.
weights.csv        a row a part: p_l = w~_l / w_l of arXiv 2403.17919, section 3.1, from the adapters, which is the
                   paper's reading, and from the merged weights.
weight_norms.svg   the figure.

Prints the decoder layers' p_l as a line of YAML, for the hyper-parameters of a LISA variant. Of several variants of a
method the experiment's first one counts.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path
from typing import Any

from eval.collect import Run, collect
from workflow.engine.errors import InputError
from workflow.experiment import load
from workflow.stages import parser, results_folder, stage_main

READINGS = {"full": ("full", "weights"), "adapter": ("lora", "adapter"), "merged": ("lora", "merged")}

Norms = dict[str, dict[str, float]]  # part -> {mean, first, last}


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="name of the model in the experiment")
    arguments.add_argument("--data", required=True, help="name of the data set in the experiment")
    arguments = arguments.parse_args()
    experiment = load(arguments.experiment)
    results = results_folder(experiment, arguments.results)
    print(compare(experiment, results, arguments.model, arguments.data))


def compare(experiment: dict[str, Any], results: Path, model: str, data: str) -> str:
    """Write the tables and the figure of `model` on `data`; returns the line of YAML.

    Raises:
        InputError: a method has no finished run here, its norms were not recorded, or a layer has no adapter.
    """
    from eval.conditions import conditions
    from eval.tables import write_csv
    from workflow.report.static.svg import to_svg
    from workflow.report.weight_norms import draw

    runs = {method: finished_runs(experiment, results, model, data, method) for method in ("full", "lora")}
    found = {reading: norms(runs[method], kind) for reading, (method, kind) in READINGS.items()}
    about = {"model": model, "data": data}
    where = conditions([*runs["full"], *runs["lora"]], experiment)
    lines = [{**about, "part": part, **columns(found, part), **where} for part in found["full"]]
    ratios = {part: ratios_of(found, part) for part in found["full"]}
    yaml = yaml_line(ratios)
    folder = results / model / data / "weight_norms"
    write_csv(lines, folder / "weight_norms.csv")
    write_csv([{**about, "part": part, **ratios[part], **where} for part in ratios], folder / "weights.csv")
    figure = draw(f"Weight norms of {model} on {data}", caption(experiment, runs), lines)
    (folder / "weight_norms.svg").write_text(to_svg(figure), encoding="utf-8")
    return yaml


def finished_runs(experiment: dict[str, Any], results: Path, model: str, data: str, method: str) -> list[Run]:
    """The finished runs of the method's first variant, one a seed; all others are named on stderr.

    Raises:
        InputError: there is none.
    """
    name = f"{model}/{data}/{method}"
    runs = [run for run in collect(experiment, results) if run.path.startswith(f"{name}/")]
    if not runs:
        known = ", ".join(dict.fromkeys("/".join(run["path"].split("/")[:3]) for run in experiment["runs"]))
        raise InputError(f"Weight norms need {name}, which {experiment['name']} does not have. It has: {known}.")
    others = [f"{run.path} is not of the first variant" for run in runs if run.variant != runs[0].variant]
    runs = [run for run in runs if run.variant == runs[0].variant]
    stopped = [f"{run.path} is {run.status}: {run.reason}" for run in runs if not run.trained]
    if len(stopped) == len(runs):
        raise InputError(f"Weight norms need a finished run of {name}; {'; '.join(stopped)}")
    for line in others + stopped:
        print(f"left out: {line}", file=sys.stderr)
    return [run for run in runs if run.trained]


def norms(runs: list[Run], kind: str) -> Norms:
    """Mean over the recorded steps, first and last norm of every part that has this kind; means over the runs."""
    series = [recorded(run, kind) for run in runs]
    return {
        part: {
            "mean": statistics.fmean(statistics.fmean(one[part]) for one in series),
            "first": statistics.fmean(one[part][0] for one in series),
            "last": statistics.fmean(one[part][-1] for one in series),
        }
        for part in series[0]
    }


def recorded(run: Run, kind: str) -> dict[str, list[float]]:
    """A run's norms of one kind by part, in the order of the steps."""
    file = run.folder / "weight_norms.csv"
    rows = list(csv.DictReader(file.read_text().splitlines())) if file.is_file() else []
    if not rows:
        raise InputError(
            f"No weight norms in {file}. Set training.weight_norms_every_steps to a whole number from 1 and run the"
            " pipeline again."
        )
    series: dict[str, list[float]] = {}
    for row in rows:
        if row["kind"] == kind:
            series.setdefault(row["part"], []).append(float(row["norm"]))
    return series


def columns(found: dict[str, Norms], part: str) -> dict[str, float | None]:
    """full_mean, full_first ... merged_last of a part; None where LoRA left it alone."""
    names = ("mean", "first", "last")
    return {f"{key}_{name}": found[key].get(part, {}).get(name) for key in READINGS for name in names}


def ratios_of(found: dict[str, Norms], part: str) -> dict[str, float | None]:
    """The paper's ratio of mean norms, in both readings; None where LoRA left the part alone."""
    from lisa.sampling import paper_weights

    full = found["full"][part]["mean"]
    pairs = {f"{key}_over_full": found[key].get(part) for key in ("adapter", "merged")}
    return {key: paper_weights([lora["mean"]], [full])[0] if lora else None for key, lora in pairs.items()}


def yaml_line(ratios: dict[str, dict[str, float | None]]) -> str:
    """`weights: [...]`: the paper's ratio of every decoder layer, first to last."""
    weights = {part: ratio["adapter_over_full"] for part, ratio in ratios.items() if part.startswith("layer ")}
    bare = [part for part, weight in weights.items() if weight is None]
    if bare:
        raise InputError(f"LoRA adapts nothing in {', '.join(bare)}; target_modules must name modules of every layer.")
    return f"weights: [{', '.join(f'{weight:.4g}' for weight in weights.values())}]"


def caption(experiment: dict[str, Any], runs: dict[str, list[Run]]) -> str:
    """What the norms are means over."""
    every, rank = experiment["training"]["weight_norms_every_steps"], runs["lora"][0].hyperparameters["rank"]
    steps, seeds = runs["full"][0].field("steps"), len(runs["full"])
    over = f"{steps} optimizer steps (recorded every {every})" + (f" and {seeds} seeds" if seeds > 1 else "")
    return f"2-norm of each part, mean over {over}; LoRA of rank {rank}"


if __name__ == "__main__":
    stage_main(main)
