"""The report of an experiment as one HTML page that needs nothing beside it: no network, no other file.

    drawn = draw(experiment, rows, verdicts, published)     # rows: eval.collect.group(...)
    html = render(experiment, rows, tables, drawn, answers) # tables: eval.text.Table in their order

All texts that come from records are escaped by the template (autoescape) or by `drawing.safe` (labels in figures).
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks import BENCHMARKS
from eval.collect import Row, Run, panels
from eval.conditions import WORLD_NOTE, conditions, distinct, thousands
from eval.present import RULE_BASED_NOTE
from eval.tables import TableRow
from eval.tested import Verdicts
from eval.text import Table
from workflow.report import figures
from workflow.report.drawing import Figure, styles
from workflow.report.forest import forest_figure, published_figure
from workflow.report.pareto import pareto_figure
from workflow.report.summary import Answer
from workflow.report.tuning_figure import tuning_figure

TEMPLATES = Path(__file__).parent / "templates"
LAYOUT = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
LEFT_OUT = ("runs", "trials", "cells", "prepared", "card_bytes")  # what follows from the rest ...
LEFT_OUT += ("tracking",)  # ... and where people look
FIRST = ("methods", "claims")  # tables that stand before the figures
ESTIMATE = re.compile(r"(\S+) (\[[^\]]+\])(?: (\w+))?")  # 61.87 [55.1, 68.4] ab
MOST_FOLDED_ROWS = 1500  # about 0.7 MB of the page
HIDDEN = ("packages", "code_sha256")  # of the environment's table: shown apart, and different for each method


@dataclass(frozen=True)
class Panel:
    """The figures of one model on one data set."""

    title: str
    figures: list[Figure]


def draw(experiment: Mapping[str, Any], rows: list[Row], verdicts: Verdicts, published: list[TableRow]) -> list[Panel]:
    """The figures of every model on every data set; `published` are the lines of the published table beside ours."""
    look = styles(rows)
    return [
        Panel(" on ".join(key), _figures(members, look, experiment, verdicts, published))
        for key, members in panels(rows)
    ]


def render(
    experiment: Mapping[str, Any], rows: list[Row], tables: list[Table], drawn: list[Panel], answers: list[Answer]
) -> str:
    """The page."""
    environments = [run.record["environment"] for row in rows for run in row.runs if run.record]
    return fill(
        "report.html.j2",
        name=experiment["name"],
        summary=summary(experiment, rows),
        notices=notices(experiment, rows),
        answers=answers,
        tables=sorted(tables, key=lambda table: table.name not in FIRST),
        first=sum(table.name in FIRST for table in tables),
        most_rows=MOST_FOLDED_ROWS,
        judged=experiment["mt_bench"] is not None,
        panels=drawn,
        stopped=[run for row in rows for run in row.runs if run.status != "ok"],
        machines=machines(environments),
        packages=packages(environments),
        commands=commands(experiment, rows),
        row_commands=row_commands(experiment, rows),
        document=document(experiment),
    )


def fill(template: str, **content: Any) -> str:
    """A page from its template, with the styles and scripts that all pages carry."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, **LAYOUT)
    environment.filters["parted"] = parted
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # no browser would read the figure
    return environment.get_template(template).render(
        **content,
        style=Markup((TEMPLATES / "report.css").read_text()),
        script=Markup((TEMPLATES / "report.js").read_text()),
        plotly=packed_plotly(),
    )


@functools.cache
def packed_plotly() -> str:
    """plotly.js, gzip in base64: less than half of it, and the page unpacks it as it opens."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def parted(cell: str) -> tuple[str, str, str]:
    """A cell's value, its interval and its letters; the latter two empty where it is no estimate."""
    found = ESTIMATE.fullmatch(cell)
    return (found[1], found[2], found[3] or "") if found else (cell, "", "")


def _figures(
    rows: list[Row],
    look: Mapping[tuple[str, str], Any],
    experiment: Mapping[str, Any],
    verdicts: Verdicts,
    published: list[TableRow],
) -> list[Figure]:
    own = [line for line in published if (line["our_model"], line["our_data"]) == rows[0].key[:2]]
    drawn = [
        pareto_figure(rows, look, verdicts, experiment),
        forest_figure(rows, look, verdicts, experiment),
        published_figure(own),
        figures.memory_figure(rows),
        figures.speed_figure(rows, look),
        figures.forgetting_figure(rows, look),
        tuning_figure(rows, look, experiment),
        *figures.loss_figures(rows, look),
    ]
    return [figure for figure in drawn if figure is not None]


# --- words


def summary(experiment: Mapping[str, Any], rows: list[Row]) -> list[str]:
    """What was run, in a few sentences."""
    training = experiment.get("training", {})
    methods = distinct(row.first.method for row in rows) or "none"
    models, data = (listed(dict.fromkeys(row.key[place] for row in rows)) for place in (0, 1))
    runs = [run for row in rows for run in row.runs]
    length = f"{training['steps']} steps" if "steps" in training else f"{training.get('epochs', '?')} epochs"
    batch = training.get("batch_size", "?")
    accumulation = training.get("accumulation_steps", 1)
    window = f"{batch} sequences" if accumulation == 1 else f"{accumulation} x {batch} sequences"
    seeds = len({run.seed for run in runs})
    where = conditions(runs, experiment)
    made = "; ".join(filter(None, (where["precision"], where["device"])))
    trained = [name for name in methods.split(" / ") if name != "vanilla"]
    beside = ", beside the untouched model (vanilla)" if "vanilla" in methods.split(" / ") else ""
    return [
        f"{models} fine-tuned on {data} by {listed(trained) or 'no method'}{beside}.",
        *_continued(where),
        f"Training: {length} of {window}, at most {training.get('sequence_length', '?')} tokens each; "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; {made or 'nothing is trained yet'}.",
        _evaluated(experiment),
        f"{sum(run.status == 'ok' for run in runs)} of {len(runs)} runs are complete.",
    ]


def _continued(where: Mapping[str, Any]) -> list[str]:
    """What the methods were trained on before, where they were."""
    if not where.get("continual_pretraining"):
        return []
    tokens = thousands(where["continual_pretraining_tokens"] or "unknown")
    return [f"Before it, every method that trains was trained on {where['continual_pretraining']} ({tokens} tokens)."]


def _evaluated(experiment: Mapping[str, Any]) -> str:
    names = [BENCHMARKS[entry["name"]].label for entry in experiment.get("evaluation", {}).get("benchmarks", [])]
    names += ["MT-Bench"] if experiment.get("mt_bench") else []
    return f"Evaluated on {listed(names)}." if names else "Not evaluated on any benchmark."


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def about(experiment: Mapping[str, Any], rows: list[Row]) -> str:
    """What a figure says that stands alone: which experiment, where it ran, what its numbers are about."""
    runs = [run for row in rows for run in row.runs]
    where = conditions(runs, experiment)
    known = [f"Experiment {experiment['name']}", where["device"], where["precision"]]
    return " ".join([f"{'; '.join(filter(None, known))}.", *_meaning(experiment, runs)])


def _meaning(experiment: Mapping[str, Any], runs: Iterable[Run]) -> list[str]:
    """What the numbers are no measure of."""
    judged = any(run.judged.get("judge", {}).get("kind") == "rule-based" for run in runs)
    return [WORLD_NOTE] * (experiment.get("data_root") == "world") + [RULE_BASED_NOTE] * judged


def notices(experiment: Mapping[str, Any], rows: list[Row]) -> list[str]:
    """What a reader must know before reading a number."""
    runs = [run for row in rows for run in row.runs]
    found = conditions(runs, experiment)
    mixed = [key for key in ("device", "precision", "packages", "git_commit") if " / " in (found[key] or "")]
    notes = _meaning(experiment, runs)
    notes += [f"These runs differ in {listed(mixed)}: compare with care."] if mixed else []
    notes += ["The code had uncommitted changes: the commit alone does not reproduce it."] if found["git_dirty"] else []
    stopped = sum(run.status != "ok" for run in runs)
    return [*notes, *([f"{stopped} of {len(runs)} runs have no complete result; see below."] if stopped else [])]


# --- environment and commands


def machines(environments: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The environments' fields with their values in all of them."""
    keys = dict.fromkeys(key for environment in environments for key in environment if key not in HIDDEN)
    values = {key: distinct(environment.get(key) for environment in environments) for key in keys}
    return [(key.replace("_", " "), value) for key, value in values.items() if value]


def packages(environments: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Versions of the packages in all environments."""
    found = [environment.get("packages", {}) for environment in environments]
    names = sorted({name for versions in found for name in versions})
    return [(name, version) for name in names if (version := distinct(versions.get(name) for versions in found))]


def document(experiment: Mapping[str, Any]) -> str:
    """The experiment as Snakemake reads it: everything that decides a number."""
    return json.dumps({key: value for key, value in experiment.items() if key not in LEFT_OUT}, indent=2)


def commands(experiment: Mapping[str, Any], rows: list[Row]) -> list[str]:
    """What to type to make this page again, and one run alone."""
    commits = conditions([run for row in rows for run in row.runs], experiment)["git_commit"]
    checkout = [f"git checkout {commit}" for commit in (commits or "").split(" / ") if commit]
    snakemake = ".venv/bin/snakemake --cores {} --configfile reproduce.json"
    one = next((run.path for row in rows for run in row.runs), None)
    single = f"{snakemake.format(1)} -- results/{experiment['name']}/{one}/run.json"
    return [
        *checkout,
        "make install",
        "# save the experiment below as reproduce.json, then: all of it,",
        snakemake.format("all"),
        *(["# or one run of it", single] if one else []),
    ]


def row_commands(experiment: Mapping[str, Any], rows: list[Row]) -> list[tuple[str, str]]:
    """For each row what to type to make its results again, all seeds of it."""
    files = ["run", *(["scores"] if experiment["evaluation"]["benchmarks"] else [])]
    files += ["mt_bench"] if experiment["mt_bench"] else []
    snakemake = f".venv/bin/snakemake --cores all --configfile reproduce.json -- results/{experiment['name']}"
    several = len({row.key[:2] for row in rows}) > 1
    return [
        (
            " ".join([*(row.key[:2] if several else ()), row.label]),
            f"{snakemake}/{'/'.join(row.key)}/seed{_braced(seeds)}/{_braced(files)}.json",
        )
        for row in rows
        for seeds in [[str(run.seed) for run in row.runs]]
    ]


def _braced(words: list[str]) -> str:
    """As a shell expands it: `a`, or `{a,b}`."""
    return words[0] if len(words) == 1 else f"{{{','.join(words)}}}"
