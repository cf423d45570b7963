"""Which scores may share a column: only those that were made in one way.

A benchmark's protocol is what scores.json says of it (`benchmarks.<name>.protocol`): harness, task versions, shots,
limit, prompts, batch size, backend, dtype, library versions. MT-Bench's is its judge and the judge's server, the
judge's prompts, its repeats, the questions with their references, the limit and the answers' cap. A suite's is that of
all its members. Older files say less: what they do not say is `not recorded`, and no match for what is.

    for slot in slots(rows, "mmlu"):                  # one a protocol, that of most rows first
        row_of_protocol = slot.part(row)              # the seeds of a row that were scored so
        key, what = slot.key, slot.differs            # "mmlu_2", "batch size 16"
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from eval.benchmarks import BENCHMARKS, SUITES

if TYPE_CHECKING:
    from eval.collect import Row, Run

MT_BENCH = "mt_bench"
NOT_RECORDED = "not recorded"
OF_SETTINGS = ("batch_size", "backend", "dtype", "transformers", "torch", "vllm")  # as in `settings` of scores.json
FIELDS = ("harness", "tasks", "shots", "limit", "max_new_tokens", "prompts_sha256", *OF_SETTINGS)
OF_A_PROCESS = ("harness", *OF_SETTINGS)  # what the members of a suite must share
LIBRARIES = ("transformers", "torch", "vllm")  # two machines or versions differ in these and score the same way
CUT_NOTE = (
    "Prompts cut: those for which the model has too few positions. They are cut at the beginning, so that the first "
    "demonstrations go first."
)
IN_TITLES = ("shots", "limit", "judge")  # `described` and the judge's name say them already

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Slot:
    """The scores of a metric that were made in one way: a column of the tables.

    Args:
        metric: a benchmark, a suite or `mt_bench`.
        key: the metric, for further protocols `<metric>_2` and so on.
        protocol: as text, None where no run has a score.
        differs: what tells it from the metric's other protocols beside what titles say, empty where there is one.
        told: the same for where no title says shots, limit or judge.
    """

    metric: str
    key: str
    protocol: str | None
    differs: str = ""
    told: str = ""

    def part(self, row: Row) -> Row:
        """The row with only its seeds that were scored so; it may have none."""
        return dataclasses.replace(
            row, runs=tuple(run for run in row.runs if key_of(run, self.metric) == self.protocol)
        )


def metrics(rows: Iterable[Row], experiment: Json) -> list[str]:
    """Benchmarks that the experiment asks for or a run has, in the registry's order, then suites that are complete."""
    names = {entry["name"] for entry in experiment.get("evaluation", {}).get("benchmarks", [])}
    names |= {name for row in rows for run in row.runs for name in run.benchmarks}
    suites = [name for name, suite in SUITES.items() if names.issuperset(suite.members)]
    return [*(name for name in BENCHMARKS if name in names), *suites]


def label(metric: str) -> str:
    """A benchmark's or suite's name in tables."""
    return (SUITES[metric] if metric in SUITES else BENCHMARKS[metric]).label


def slots(rows: Iterable[Row], metric: str) -> list[Slot]:
    """A slot for each protocol among the rows, that of most rows first, the earlier one on ties."""
    counts = Counter(text for row in rows for text in {key_of(run, metric): None for run in row.runs} if text)
    texts = sorted(counts, key=lambda text: -counts[text])
    if not texts:
        return [Slot(metric, metric, None)]
    found = [json.loads(text) for text in texts]
    told = [_told(found, place) for place in range(len(found))]
    keys = [metric if place == 1 else f"{metric}_{place}" for place in range(1, len(texts) + 1)]
    return [Slot(metric, *rest) for rest in zip(keys, texts, differences(found), told, strict=True)]


def key_of(run: Run, metric: str) -> str | None:
    """A run's protocol of a metric as text, equal for equal protocols; None where it has no such score."""
    found = protocol(run, metric)
    return None if found is None else json.dumps(found, sort_keys=True)


def protocol(run: Run, metric: str) -> dict[str, Any] | None:
    """How a run's score of a benchmark, suite or `mt_bench...` was made; None where it has none, or it is a loss."""
    if metric in SUITES:
        return _of_suite(run, SUITES[metric].members)
    if metric.startswith(MT_BENCH):
        return _of_judge(run.judged) if run.judged else None
    return of_benchmark(run, metric) if metric in run.benchmarks else None


def of_benchmark(run: Run, name: str) -> dict[str, Any]:
    """A benchmark's protocol; of an older file what it says elsewhere, the rest None."""
    entry, settings = run.benchmarks[name], run.scores.get("settings", {})
    of_settings = {key: settings.get(key) for key in OF_SETTINGS}
    if entry.get("protocol"):
        return {key: entry["protocol"].get(key, of_settings.get(key)) for key in FIELDS}
    harness = settings.get("lm_eval")
    return {
        "harness": f"lm_eval {harness}" if harness else None,
        "tasks": {task: scored.get("version") for task, scored in entry.get("tasks", {}).items()},
        **{key: entry.get(key) for key in ("shots", "limit", "max_new_tokens")},
        "prompts_sha256": None,
        **of_settings,
    }


def _of_suite(run: Run, members: Iterable[str]) -> dict[str, Any] | None:
    """None unless every member was scored, all by one harness with the same settings."""
    found = {member: of_benchmark(run, member) for member in members if member in run.benchmarks}
    shared = [{key: entry[key] for key in OF_A_PROCESS} for entry in found.values()]
    if len(found) < len(list(members)) or any(other != shared[0] for other in shared):
        return None
    return {**shared[0], "members": found}


def _of_judge(judged: Json) -> dict[str, Any]:
    judge = judged["judge"]
    return {
        "judge": {key: judge.get(key) for key in ("kind", "model")},
        "judge_server": judge.get("server"),
        "prompts_sha256": judge.get("prompts_sha256"),
        "repeats": judged.get("repeats", 1),
        "questions_sha256": judged.get("questions_sha256"),
        "question_limit": judged.get("limit"),
        "answer_max_new_tokens": judged.get("answers", {}).get("max_new_tokens"),
    }


def comparing_judge(run: Run) -> str:
    """Judge, prompts and limit of a run's pairwise comparisons as text; dates are no difference."""
    judge = run.pairwise.get("judge") or {}
    return json.dumps([*(judge.get(key) for key in ("kind", "model", "prompts_sha256")), run.pairwise.get("limit")])


def across_versions(found: Json) -> dict[str, Any]:
    """A protocol without the versions of the libraries under the harness."""
    kept = {key: value for key, value in found.items() if key not in LIBRARIES}
    members = {name: across_versions(member) for name, member in kept.get("members", {}).items()}
    return kept | ({"members": members} if members else {})


# --- words


def described(runs: Iterable[Run], metric: str) -> str | None:
    """How a benchmark was run, e.g. `5-shot, 3 of 57 tasks, first 40 items of each`; None where it was not."""
    describe = _suite_words if metric in SUITES else _benchmark_words
    texts = [describe(metric, run) for run in runs if protocol(run, metric) is not None]
    return " / ".join(dict.fromkeys(filter(None, texts))) or None


def _benchmark_words(name: str, run: Run) -> str:
    entry, cap = run.benchmarks[name], of_benchmark(run, name)["max_new_tokens"]
    shots = f"{entry['shots']}-shot" if entry.get("shots") is not None else ""
    own_cap = WORDS["max_new_tokens"](cap) if cap is not None else ""
    return ", ".join(filter(None, (shots, extent_words(name, entry), own_cap, cut_words(entry))))


def extent_words(name: str, entry: Json) -> str:
    """How much of a benchmark was run, e.g. `3 of 57 tasks, first 40 items of each`; empty where all of it was."""
    ran, whole, limit = len(entry.get("tasks", {})), len(BENCHMARKS[name].tasks), entry.get("limit")
    parts = [f"{ran} of {whole} tasks"] if 0 < ran < whole else []
    return ", ".join(
        [*parts, *([f"first {limit} items" + (" of each" if ran > 1 else "")] if limit is not None else [])]
    )


def cut_words(entry: Json) -> str:
    """How many prompts of a benchmark did not fit the model, `CUT_NOTE` says more; empty where all did."""
    cut = entry.get("truncated_items")
    return f"{cut} of {entry['items']} prompts cut" if cut else ""


def _suite_words(name: str, run: Run) -> str:
    members = SUITES[name].members
    partial = sum(run.benchmarks[member].get("whole_benchmark") is not True for member in members)
    return f"mean of {len(members)} benchmarks" + (f", {partial} of them in part" if partial else "")


def differences(protocols: list[Json]) -> list[str]:
    """For each protocol what tells it from the others, e.g. `batch size 16`; what titles say anyway is left out."""
    return [_told(protocols, place, IN_TITLES) for place in range(len(protocols))]


def told_apart(a: Json, b: Json) -> tuple[str, str]:
    """What each of two protocols has that the other has not, e.g. `5-shot` and `0-shot`."""
    return _told([a, b], 0), _told([a, b], 1)


def _told(protocols: list[Json], place: int, left_out: Iterable[str] = ()) -> str:
    """Every field in which one of several protocols differs from another, with its own value."""
    parts = []
    for key, own in protocols[place].items():
        values = [other[key] for other in protocols]
        if key in left_out or all(value == own for value in values):
            continue
        if key == "members":
            parts += [
                f"{label(member)}: {_told([value[member] for value in values], place)}"
                for member in own
                if any(value[member] != own[member] for value in values)
            ]
        else:
            parts.append(_tasks(values, place) if key == "tasks" else WORDS[key](own))
    return ", ".join(filter(None, parts))


def _tasks(values: list[Json], place: int) -> str:
    """Versions where all have the same tasks, else the tasks that not all have."""
    own = values[place]
    shared = set.intersection(*(set(value) for value in values))
    if any(set(value) != shared for value in values):
        return "tasks " + (_some(sorted(set(own) - shared)) or "that all have")
    differing = [task for task in own if any(value[task] != own[task] for value in values)]
    versions = list(dict.fromkeys(own[task] for task in differing))
    if len(versions) == 1:
        return f"task version {_shown(versions[0])}"
    return "task versions " + _some([f"{task} {_shown(own[task])}" for task in differing])


def _some(names: list[str]) -> str:
    """At most three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shown(value: Any) -> str:
    return NOT_RECORDED if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _worded(before: str, after: str = "") -> Callable[[Any], str]:
    return lambda value: f"{before} {NOT_RECORDED}" if value is None else f"{before} {_shown(value)}{after}"


WORDS: dict[str, Callable[[Any], str]] = {
    "harness": lambda value: f"harness {NOT_RECORDED}" if value is None else str(value),
    "shots": lambda value: f"shots {NOT_RECORDED}" if value is None else f"{value}-shot",
    "limit": lambda value: "all items" if value is None else f"first {value}",
    "max_new_tokens": lambda value: "the task's own cap" if value is None else f"at most {value} new tokens",
    "prompts_sha256": lambda value: f"prompts {NOT_RECORDED if value is None else value[:8]}",
    "batch_size": _worded("batch size"),
    "backend": _worded("backend"),
    "dtype": _worded("dtype"),
    "transformers": _worded("transformers"),
    "torch": _worded("torch"),
    "vllm": lambda value: "" if value is None else f"vLLM {value}",  # its absence is another backend
    "judge": lambda value: f"judge {value['model']}",
    "judge_server": _worded("judge at"),
    "questions_sha256": lambda value: f"questions {NOT_RECORDED if value is None else value[:8]}",
    "question_limit": lambda value: "all questions" if value is None else f"first {value} of each category",
    "answer_max_new_tokens": _worded("answers' cap", " tokens"),
    "repeats": lambda value: f"judged {value} times" if value > 1 else "judged once",
}
