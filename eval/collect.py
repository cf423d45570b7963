"""Read what the runs of an experiment left behind: every planned run becomes a `Run`, finished, failed or vanished.

    runs = collect(experiment, Path("results/smoke"))   # experiment: the content of results/smoke/experiment.json
    rows = group(runs, experiment)                      # one Row per (model, data, method, variant), its seeds inside

Statuses: `ok`, `oom`, `diverged` and `failed` as the records say; `missing` where a file that should be there is not,
or is of other settings than the planned ones. What trials choose is part of the plan as soon as it is chosen.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.benchmarks import SUITES
from eval.chosen import NotChosen, as_chosen, method_and_variant
from eval.json_files import read_json, require
from eval.planned import difference, planned_settings
from eval.protocols import key_of
from eval.statistics import Estimate, combine_seeds

PLANNED = ("model", "data", "method", "variant", "hyperparameters", "learning_rate", "seed", "path")
NO_RECORD = "neither run.json nor failure.json: the process ended without a word, or never started"
FOREIGN = "{name} is of other settings ({difference}); run the pipeline again"
EVALUATIONS = ("evaluate", "judge", "pairwise")  # phases after the training, whose failure leaves run.json standing
RECORDED = ("status", "environment", "method", "settings")
TRAINED = ("memory", "time", "throughput", "trainable_parameters")
PERPLEXITIES = ("token_perplexity", "word_perplexity", "bits_per_byte")
GENERAL_TEXT = ("file", "file_sha256", "first_character", "characters", "tokens", "sequence_length", *PERPLEXITIES)
PAIRED = ("baseline", "judge", "wins", "losses", "ties", "inconsistent", "unparsable", "win_rate", "interval")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One planned run and the files it left; `record`, `scores`, `mt_bench` and `pairwise` are empty where there is no
    file, or where it tells of an earlier training or of other settings; `foreign`: whether there was one of other
    settings. `noise_floor` and `general_text` (of the base model, before fine-tuning) are its model's.
    """

    model: str
    data: str
    method: str
    variant: str
    hyperparameters: Json
    learning_rate: float | None
    seed: int
    path: str
    folder: Path
    status: str
    phase: str
    reason: str
    foreign: bool
    record: Json
    scores: Json
    mt_bench: Json
    pairwise: Json
    noise_floor: Json
    general_text: Json

    @property
    def trained(self) -> bool:
        """Whether its training record stands, so that memory and speed count even if a later stage failed."""
        return self.record.get("status") == "ok"

    def field(self, *keys: str) -> Any:
        """A value of run.json by path, None where the record has null or lacks the key (vanilla has no step time)."""
        return dig(self.record, keys)

    @property
    def benchmarks(self) -> Json:
        """The entries of scores.json by benchmark, empty if nothing was evaluated."""
        return self.scores.get("benchmarks", {}) if self.scores.get("status") == "ok" else {}

    @property
    def judged(self) -> Json:
        """The content of mt_bench.json, empty if MT-Bench was skipped."""
        return self.mt_bench if self.mt_bench.get("status") == "ok" else {}

    @property
    def never_ran(self) -> bool:
        """Whether it left nothing at all, not even a record of other settings."""
        return self.status == "missing" and not self.record and not self.foreign

    @property
    def continued(self) -> Json:
        """What the record says of continual pretraining before the fine-tuning, empty where there was none."""
        return self.record.get("continual_pretraining") or {}

    @property
    def forgetting(self) -> Json:
        """Perplexities on general text after fine-tuning, empty where they were not asked for."""
        return (self.scores.get("general_text") or {}) if self.scores.get("status") == "ok" else {}


def dig(value: Any, keys: Iterable[str]) -> Any:
    """A value inside nested mappings, None where the path breaks off."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def collect(experiment: Json, results: Path) -> list[Run]:
    """Every run of the experiment's list, in its order.

    Raises:
        EvaluationError: a file that exists cannot be read, or lacks a field that the tables need.
    """
    of_model = functools.cache(lambda model: _of_model(experiment, results / model))
    return [_read_run(planned, experiment, results, of_model(planned["model"])) for planned in experiment["runs"]]


def _read_run(planned: Json, experiment: Json, results: Path, of_model: Json) -> Run:
    folder = results / planned["path"]
    try:
        planned = as_chosen(planned, experiment, results)
        record, failure, foreign = training_records(folder, planned_settings(planned, experiment))
    except NotChosen as error:  # whatever stands in the folder is of an earlier choice
        record, failure, foreign = {}, {}, str(error)
    scores, mt_bench = _evaluations(folder, record, failure)
    files = {"record": record, "scores": scores, "mt_bench": mt_bench}
    asked = is_paired(planned, experiment)
    files["pairwise"] = _read_pairwise(folder, failure) if asked and mt_bench.get("status") == "ok" else {}
    stopped = ("missing", "", foreign) if foreign else verdict(failure or record)
    status, phase, reason = stopped or _unfinished(files, experiment, asked)
    about = {key: planned[key] for key in PLANNED} | {"folder": folder, "foreign": bool(foreign)}
    return Run(**about, **of_model, status=status, phase=phase, reason=reason, **files)


def _of_model(experiment: Json, folder: Path) -> Json:
    """What an experiment measures once a model, as far as it asks for it: noise floor, and general text before."""
    asked = experiment.get("evaluation", {})
    noise_floor = read_json(folder / "noise_floor.json", ("status",)) if asked.get("noise_floor") else {}
    for name, entry in noise_floor.get("benchmarks", {}).items():
        require(folder / "noise_floor.json", entry, ("items", "value", "floor"), f"benchmarks.{name}.")
    general_text = read_json(folder / "general_text.json", ("status",)) if asked.get("general_text") else {}
    if general_text.get("status") == "ok":
        require(folder / "general_text.json", general_text, GENERAL_TEXT)
    return {"noise_floor": noise_floor, "general_text": general_text}


def is_paired(run: Json | Run, experiment: Json) -> bool:
    """Whether a run's answers, planned or collected, are to be compared with a baseline's, being not its own."""
    baseline = (experiment.get("mt_bench") or {}).get("pairwise_baseline")
    own = (run.method, run.variant) if isinstance(run, Run) else (run["method"], run["variant"])
    return bool(baseline) and own != method_and_variant(baseline)


def _read_pairwise(folder: Path, failure: Json) -> Json:
    if failure.get("phase") == "pairwise":
        return {}
    pairwise = read_json(folder / "pairwise.json", ("status",))
    if pairwise.get("status") == "ok":
        require(folder / "pairwise.json", pairwise, PAIRED)
    return pairwise


def training_records(folder: Path, plan: Json) -> tuple[Json, Json, str]:
    """run.json and failure.json as far as they are of the plan, and what is wrong if what there is is not."""
    failure, foreign_failure = _of_plan(folder / "failure.json", plan)
    if failure and failure.get("phase") not in EVALUATIONS:
        return {}, failure, ""  # a run.json beside it is of an earlier training
    record, foreign = _of_plan(folder / "run.json", plan)
    return record, {} if foreign else failure, foreign or ("" if record else foreign_failure)


def _of_plan(file: Path, plan: Json) -> tuple[Json, str]:
    """A record, empty if there is none or if it is of other settings, and which."""
    record = read_json(file, RECORDED)
    if not record:
        return {}, ""
    require(file, record["method"], ("hyperparameters", "learning_rate"), "method.")
    require(file, record, TRAINED if record["status"] == "ok" else ())
    other = difference(record, plan)
    return ({}, FOREIGN.format(name=file.name, difference=other)) if other else (record, "")


def _evaluations(folder: Path, record: Json, failure: Json) -> tuple[Json, Json]:
    """scores.json and mt_bench.json as far as they are of the training in `record`, and not of an earlier one."""
    if record.get("status") != "ok" or failure.get("phase") == "evaluate":
        return {}, {}
    scores = _read_scores(folder / "scores.json")
    answered = scores.get("status") not in (None, "oom")  # one process scores and answers
    if failure.get("phase") == "judge" or not answered:
        return scores, {}
    mt_bench = read_json(folder / "mt_bench.json", ("status",))
    if mt_bench.get("status") == "ok":
        require(folder / "mt_bench.json", mt_bench, ("judge", "mean", "stderr", "unparsable"))
    return scores, mt_bench


def _read_scores(file: Path) -> dict[str, Any]:
    scores = read_json(file, ("status",))
    if scores.get("status") == "ok":
        require(file, scores, ("benchmarks",))
        for name, entry in scores["benchmarks"].items():
            require(file, entry, ("value", "stderr"), f"benchmarks.{name}.")
        require(file, scores.get("general_text") or dict.fromkeys(GENERAL_TEXT), GENERAL_TEXT, "general_text.")
    return scores


def verdict(record: Json) -> tuple[str, str, str] | None:
    """Status, phase and reason by a record or failure; None if it is ok."""
    if not record:
        return "missing", "", NO_RECORD
    if record["status"] == "ok":
        return None
    return str(record["status"]), str(record.get("phase") or ""), str(record.get("error") or "no reason recorded")


def _unfinished(files: Json, experiment: Json, paired: bool) -> tuple[str, str, str]:
    """Status, phase and reason of a run whose training is ok: what the experiment evaluates must be there too."""
    scores, mt_bench, pairwise = files["scores"], files["mt_bench"], files["pairwise"]
    if scores.get("status") == "oom":
        return "oom", "evaluate", str(scores.get("reason") or "no reason recorded")
    if experiment.get("evaluation", {}).get("benchmarks") and scores.get("status") != "ok":
        return "missing", "evaluate", scores.get("reason") or "no scores.json: the evaluation did not finish"
    if experiment.get("mt_bench") and mt_bench.get("status") != "ok":
        return "missing", "judge", mt_bench.get("reason") or "no mt_bench.json: the judging did not finish"
    if paired and not pairwise:
        return "missing", "pairwise", "no pairwise.json: the comparison with the baseline did not finish"
    return "ok", "", ""


@dataclass(frozen=True)
class Row:
    """The runs that differ only by their seed: one row of every table."""

    runs: tuple[Run, ...]
    published_as: str

    @property
    def first(self) -> Run:
        """Any of the runs, for what they share."""
        return self.runs[0]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """(model, data, method, variant)."""
        return (self.first.model, self.first.data, self.first.method, self.first.variant)

    @property
    def label(self) -> str:
        """Method, and variant unless that is `default`."""
        return self.first.method if self.first.variant == "default" else f"{self.first.method} {self.first.variant}"

    @property
    def status(self) -> str:
        """The status that all seeds share, else the counts."""
        return joined_statuses([run.status for run in self.runs])

    @property
    def reason(self) -> str:
        """Why the seeds that are not ok are not."""
        reasons: dict[str, list[str]] = {}
        for run in self.runs:
            if run.status != "ok":
                where = f"{run.phase}: " if run.phase else ""
                reasons.setdefault(where + run.reason, []).append(str(run.seed))
        return "; ".join(f"seed {', '.join(seeds)}: {reason}" for reason, seeds in reasons.items())

    def estimate(self, metric: str) -> Estimate:
        """Mean and standard error over the seeds of a metric of `score`: accuracies are 0 to 1, MT-Bench is points.

        Seeds that were scored in different ways have no mean: take a `part` of the row first (`eval/protocols.py`).
        """
        scored = [run for run in self.runs if score(run, metric)[0] is not None]
        assert len({key_of(run, metric) for run in scored}) <= 1, f"{self.key}: seeds of several protocols of {metric}"
        pairs = [score(run, metric) for run in scored]
        return combine_seeds([value for value, _ in pairs], [stderr for _, stderr in pairs])

    def fields(self, *keys: str) -> list[Any]:
        """A value of the record for every seed that trained and has it."""
        return [value for run in self.runs if run.trained and (value := run.field(*keys)) is not None]

    def largest(self, *keys: str) -> Any:
        """The largest over seeds: a peak is what must fit."""
        return max(self.fields(*keys), default=None)

    def mean(self, *keys: str) -> float | None:
        """The mean over seeds."""
        return combine_seeds(self.fields(*keys)).value

    def shared(self, *keys: str) -> str:
        """What the seeds share, joined by ' / ' where they do not."""
        return " / ".join(dict.fromkeys(str(value) for value in self.fields(*keys)))


def joined_statuses(statuses: list[str]) -> str:
    """What all share, else the counts, e.g. `ok 1 of 2, oom 1 of 2`."""
    counts = Counter(statuses)
    if len(counts) == 1:
        return statuses[0]
    return ", ".join(f"{status} {count} of {len(statuses)}" for status, count in counts.items())


def score(run: Run, metric: str) -> tuple[Any, float | None]:
    """A run's value of a metric and its standard error over items; (None, None) where it has none.

    Metrics: the benchmarks of scores.json by name, suites (their members' plain mean), `mt_bench`,
    `mt_bench_without_coding`, `mt_bench_<category>`, `validation_loss`.
    """
    if metric == "validation_loss":
        return (run.field("validation_loss") if run.trained else None), None
    if metric == "mt_bench":
        return run.judged.get("mean"), run.judged.get("stderr")
    if metric == "mt_bench_without_coding":
        return run.judged.get("mean_without_coding"), run.judged.get("stderr_without_coding")
    if metric.startswith("mt_bench_"):
        return dig(run.judged, ("categories", metric.removeprefix("mt_bench_"), "mean")), None
    if metric in SUITES:
        return _suite_score(run, metric)
    return dig(run.benchmarks, (metric, "value")), dig(run.benchmarks, (metric, "stderr"))


def _suite_score(run: Run, name: str) -> tuple[float | None, float | None]:
    if key_of(run, name) is None:
        return None, None
    pairs = [score(run, member) for member in SUITES[name].members]
    if any(value is None for value, _ in pairs):
        return None, None
    stderrs = [stderr for _, stderr in pairs]
    known = None if None in stderrs else math.sqrt(sum(stderr**2 for stderr in stderrs)) / len(stderrs)
    return fmean(value for value, _ in pairs), known


def group(runs: Iterable[Run], experiment: Json) -> list[Row]:
    """One row per (model, data, method, variant), in the experiment's order."""
    published_as = {model["name"]: model.get("published_as", model["name"]) for model in experiment.get("models", [])}
    rows: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        rows.setdefault((run.model, run.data, run.method, run.variant), []).append(run)
    return [Row(tuple(members), published_as.get(key[0], key[0])) for key, members in rows.items()]


def panels(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """The rows by (model, data): only these compare with each other."""
    for key, members in itertools.groupby(rows, key=lambda row: row.key[:2]):
        yield key, list(members)
