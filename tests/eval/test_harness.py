"""Scores are lm-eval's own, item by item; repeatable; of the data root that was named; and say what was cut."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from eval import EvaluationError
from eval.benchmarks import BENCHMARKS, read_split, tasks_of
from eval.harness import evaluate, prompts_sha256
from eval.protocols import FIELDS
from tests.eval.benchmark_data import (
    MMLU_SIZES,
    REQUESTS,
    SUITE_REQUESTS,
    write_checkpoint,
    write_data_root,
    write_dataset,
    write_gsm8k,
    write_sat_math,
    write_suite_data,
)

Scores = dict[str, Any]
Rows = list[dict[str, Any]]
(PUBMEDQA,) = BENCHMARKS["pubmedqa"].tasks


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), context_tokens=3000)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def suite_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite_data(tmp_path_factory.mktemp("suites"))


@pytest.fixture(scope="module")
def evaluation(checkpoint: Path, data_root: Path) -> tuple[Scores, Rows]:
    """All four benchmarks on the small data."""
    return evaluate(checkpoint, data_root, REQUESTS)


# --- equal to lm-eval (on real data, to its command line: tests/eval/test_lm_eval_command.py)


def bare_lm_eval(checkpoint: Path, hub: Path, request: dict[str, Any], cache: Path, shots: int) -> dict[str, Any]:
    """What lm-eval's own `simple_evaluate` says, its data read by `datasets` from a hub-shaped working directory."""
    import datasets
    import lm_eval
    import lm_eval.evaluator
    from lm_eval.tasks import TaskManager

    cap = request.get("max_new_tokens")
    folder = Path(lm_eval.__file__).parent / "tasks" / BENCHMARKS[request["name"]].folder
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(hub):
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)  # asks pip: seconds
        return lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(checkpoint), "dtype": "float32"},
            tasks=list(tasks_of(request["name"])),
            num_fewshot=shots,
            batch_size=8,
            device="cpu",
            task_manager=TaskManager(include_path=[folder], include_defaults=False),
            gen_kwargs={"max_gen_toks": cap} if cap else None,
        )


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", [request["name"] for request in SUITE_REQUESTS])
def test_every_benchmark_of_the_suites_equals_bare_lm_eval(
    name: str, shots: int, checkpoint: Path, suite_root: Path, tmp_path: Path
) -> None:
    request = next(request for request in SUITE_REQUESTS if request["name"] == name) | {"shots": shots}
    scores, rows = evaluate(checkpoint, suite_root, [request])
    hub = suite_root / "hub"
    if name == "pubmedqa":  # lm-eval cannot read the hub's conversion: it gets the same records with a header
        hub = tmp_path / "hub"
        splits = {split: read_split(suite_root, PUBMEDQA, split).to_pylist() for split in PUBMEDQA.splits}
        write_dataset(hub, PUBMEDQA.dataset, {(PUBMEDQA.config, split): rows for split, rows in splits.items()})
    bare = bare_lm_eval(checkpoint, hub, request, tmp_path / "cache", shots)
    assert_equal_items(rows, bare)
    assert len(rows) == scores["benchmarks"][name]["items"] >= 5
    for task, score in scores["benchmarks"][name]["tasks"].items():
        expected = {key: value for key, value in bare["results"][task].items() if "," in key}
        assert score["metrics"] == pytest.approx(expected, abs=0, nan_ok=True)


def test_every_benchmark_of_the_suites_has_targets_that_some_answer_hits(checkpoint: Path, suite_root: Path) -> None:
    _, rows = evaluate(checkpoint, suite_root, SUITE_REQUESTS)
    targets: dict[str, set[Any]] = {}
    for row in rows:
        targets.setdefault(row["benchmark"], set()).add(row["target"])
        if "log_likelihoods" in row:
            assert row["correct"] == (row["prediction"] == row["target"])
            assert len(row["log_likelihoods"]) > row["target"] >= 0
    assert {name: len(found) for name, found in targets.items()} == {
        **{"pubmedqa": 3, "boolq": 2, "piqa": 2, "social_iqa": 3, "hellaswag": 4},
        **{"arc_easy": 4, "arc_challenge": 4, "openbookqa": 4, "hendrycks_math": 4},
    }
    assert targets["hendrycks_math"] == {"1", "2", "3", "4"}


def assert_equal_items(rows: Rows, bare: dict[str, Any]) -> None:
    """Same prompts, log-likelihoods, texts and metrics for every item and filter, bit for bit."""
    ours = {(row["task"], row["item"]): row for row in rows}
    theirs = [(name, sample) for name, samples in bare["samples"].items() for sample in samples]
    assert {(name, sample["doc_id"]) for name, sample in theirs} == set(ours)
    for name, sample in theirs:
        row = ours[name, sample["doc_id"]]
        assert sample["prompt_hash"].startswith(row["prompt_sha256"])
        assert sample["doc_hash"].startswith(row["item_sha256"])
        if "log_likelihoods" in row:
            assert row["log_likelihoods"] == [answer[0] for answer in sample["filtered_resps"]]
        else:
            assert row["prediction"] == sample["resps"][0][0]
        for metric in sample["metrics"]:
            assert row["metrics"][f"{metric},{sample['filter']}"] == sample[metric]


def test_no_demonstrations_equal_bare_lm_eval_too(checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    request = {"name": "winogrande", "shots": 0}
    _, rows = evaluate(checkpoint, data_root, [request])
    assert_equal_items(rows, bare_lm_eval(checkpoint, data_root / "hub", request, tmp_path, shots=0))


def test_agievals_tasks_as_benchmarks_of_their_own_are_the_same_items(checkpoint: Path, shared_data: Path) -> None:
    requests = [
        {"name": "aqua", "limit": 2},
        {"name": "sat_math", "limit": 2},
        {"name": "agieval", "tasks": ["agieval_aqua_rat", "agieval_sat_math"], "limit": 2, "shots": 0},
        {"name": "mmlu_math", "limit": 1},
        {"name": "mmlu", "tasks": list(tasks_of("mmlu_math")), "limit": 1, "shots": 0},
    ]
    scores, rows = evaluate(checkpoint, shared_data, requests)
    items = {
        name: [{**row, "benchmark": None} for row in rows if row["benchmark"] == name] for name in scores["benchmarks"]
    }
    # the batches differ with the neighbours, and with them the last bits
    assert [row.pop("log_likelihoods") and row for row in items["agieval"]] == [
        row.pop("log_likelihoods") and row for row in items["aqua"] + items["sat_math"]
    ]
    assert items["mmlu_math"] == items["mmlu"]
    assert [entry["whole_benchmark"] for entry in scores["benchmarks"].values()] == [False] * 5


def test_real_agieval_runs_with_its_own_demonstrations(checkpoint: Path, shared_data: Path) -> None:
    request = {"name": "agieval", "tasks": ["agieval_aqua_rat", "agieval_math"], "limit": 1, "max_new_tokens": 4}
    scores, rows = evaluate(checkpoint, shared_data, [request])
    entry = scores["benchmarks"]["agieval"]
    assert (entry["shots"], entry["items"], len(rows)) == (3, 2, 2)
    assert entry["tasks"]["agieval_aqua_rat"]["available_items"] == 254


# --- what scores and rows hold


def test_every_item_of_every_benchmark_has_one_row(evaluation: tuple[Scores, Rows]) -> None:
    scores, rows = evaluation
    items = {name: entry["items"] for name, entry in scores["benchmarks"].items()}
    assert items == {"mmlu": 4 + 5, "agieval": 4 * 3, "winogrande": 9, "gsm8k": 8}
    assert len({(row["task"], row["item"]) for row in rows}) == len(rows) == sum(items.values())
    assert [entry["whole_benchmark"] for entry in scores["benchmarks"].values()] == [False, False, True, True]


def test_a_benchmark_is_the_mean_over_its_items(evaluation: tuple[Scores, Rows]) -> None:
    scores, rows = evaluation
    for name, entry in scores["benchmarks"].items():
        correct = [row["correct"] for row in rows if row["benchmark"] == name]
        assert entry["value"] == pytest.approx(sum(correct) / len(correct), abs=1e-12)
        for task, score in entry["tasks"].items():
            assert score["items"] == sum(row["task"] == task for row in rows)


def test_stderr_is_pooled_over_tasks_by_size(evaluation: tuple[Scores, Rows]) -> None:
    scores, _ = evaluation
    entry = scores["benchmarks"]["agieval"]
    parts = [(task["stderr"], task["items"]) for task in entry["tasks"].values()]
    total = sum(n for _, n in parts)
    variance = sum((n - 1) * n * stderr**2 for stderr, n in parts) / (total - len(parts))
    assert entry["stderr"] == pytest.approx(math.sqrt(variance / total))
    assert entry["stderr_origin"].startswith("pooled")


def test_one_item_a_task_still_has_a_stderr(checkpoint: Path, data_root: Path) -> None:
    request = {"name": "agieval", "limit": 1, "shots": 2, "tasks": REQUESTS[1]["tasks"], "max_new_tokens": 2}
    scores, rows = evaluate(checkpoint, data_root, [request])
    entry = scores["benchmarks"]["agieval"]
    assert [task["stderr"] for task in entry["tasks"].values()] == [None] * 4
    correct = [float(row["correct"]) for row in rows]
    assert entry["stderr"] == pytest.approx(statistics.stdev(correct) / 2)
    assert entry["stderr_origin"] == "over all items"


def test_scores_and_rows_are_plain_json(evaluation: tuple[Scores, Rows]) -> None:
    scores, rows = evaluation
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_conditions_are_recorded(evaluation: tuple[Scores, Rows]) -> None:
    scores, _ = evaluation
    assert scores["settings"]["batch_size"] == 8
    assert scores["settings"]["dtype"] == "float32"
    assert scores["settings"]["context_tokens"] == 3000
    assert scores["settings"]["lm_eval"].count(".") == 2
    gsm8k = scores["benchmarks"]["gsm8k"]
    assert (gsm8k["shots"], gsm8k["limit"], gsm8k["max_new_tokens"]) == (5, None, 4)
    assert gsm8k["tasks"]["gsm8k"]["version"] == 3.0
    assert set(MMLU_SIZES.values()) == {
        task["available_items"] for task in scores["benchmarks"]["mmlu"]["tasks"].values()
    }


def test_chosen_option_is_the_likeliest_and_target_its_number(evaluation: tuple[Scores, Rows]) -> None:
    _, rows = evaluation
    for row in rows:
        if "log_likelihoods" in row:
            assert row["prediction"] == row["log_likelihoods"].index(max(row["log_likelihoods"]))
            gold = row["target"] if isinstance(row["target"], list) else [row["target"]]
            assert row["correct"] == (row["prediction"] in gold)
    assert {row["target"] for row in rows if row["benchmark"] == "winogrande"} == {0, 1}
    assert {row["target"] for row in rows if row["task"] == "agieval_math"} == {"[0,5)", "[1,6)", "[2,7)"}


def test_gsm8k_keeps_strict_and_flexible_and_leads_with_strict(
    checkpoint: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval.language_model import CountingHFLM

    answers = ["0 + 2 = 2\n#### 2", "The answer is 3.", "no idea", "#### 99"]
    monkeypatch.setattr(CountingHFLM, "generate_until", lambda self, requests: answers)
    scores, rows = evaluate(checkpoint, data_root, [{"name": "gsm8k", "limit": 4}])
    entry = scores["benchmarks"]["gsm8k"]
    assert (entry["value"], entry["metrics"]["exact_match,flexible-extract"]) == (0.25, 0.5)
    assert [row["correct"] for row in rows] == [True, False, False, False]
    assert rows[1]["extracted"] == {"strict-match": "[invalid]", "flexible-extract": "3."}
    assert [row["prediction"] for row in rows] == answers


# --- the protocol and an item's name


def test_the_protocol_says_what_decides_a_score(evaluation: tuple[Scores, Rows]) -> None:
    scores, _ = evaluation
    version = scores["settings"]["lm_eval"]
    protocol = dict(scores["benchmarks"]["gsm8k"]["protocol"])
    digest = protocol.pop("prompts_sha256")
    assert protocol == {
        **{"harness": f"lm_eval {version}", "tasks": {"gsm8k": 3.0}, "shots": 5, "limit": None, "max_new_tokens": 4},
        **{"batch_size": 8, "backend": "hf", "dtype": "float32", "vllm": None},
        **{name: importlib.metadata.version(name) for name in ("transformers", "torch")},
    }
    assert list(protocol) == [key for key in FIELDS if key != "prompts_sha256"]
    assert scores["benchmarks"]["gsm8k"]["tasks"]["gsm8k"]["prompts_sha256"] == digest  # its only task
    assert scores["benchmarks"]["mmlu"]["protocol"]["tasks"] == {"mmlu_anatomy": 1.0, "mmlu_virology": 1.0}
    digests = [task["prompts_sha256"] for entry in scores["benchmarks"].values() for task in entry["tasks"].values()]
    assert len(set(digests)) == len(digests) == 8
    assert all(len(digest) == 64 for digest in digests)


def test_the_prompts_digest_is_of_the_questions_and_not_of_the_model(
    data_root: Path, tmp_path: Path, evaluation: tuple[Scores, Rows]
) -> None:
    def digest(root: Path, **changes: Any) -> str:
        scores, _ = evaluate(short, root, [{"name": "gsm8k", "max_new_tokens": 2, **changes}])
        return scores["benchmarks"]["gsm8k"]["protocol"]["prompts_sha256"]

    short = write_checkpoint(tmp_path / "short", context_tokens=100)  # cuts every prompt
    usual = evaluation[0]["benchmarks"]["gsm8k"]["protocol"]["prompts_sha256"]
    write_gsm8k(tmp_path / "hub", add=30)
    assert digest(data_root) == usual
    others = [digest(data_root, shots=4), digest(data_root, limit=7), digest(tmp_path)]
    assert len({usual, *others}) == 4


def test_options_are_part_of_the_prompts_digest() -> None:
    item = {"arguments": [("Q", " yes"), ("Q", " no")]}
    others = [{"arguments": [("Q", " yes"), ("Q", " No")]}, {"arguments": [("Q", " yes no")]}]
    digests = [prompts_sha256([sample]) for sample in (item, *others)]
    assert len(set(digests)) == 3
    assert prompts_sha256([item, others[0]]) != prompts_sha256([others[0], item])
    with_settings = {"arguments": [("Q", {"until": ["Q:"]})]}  # a generated answer's; the cap stands beside it
    assert prompts_sha256([with_settings]) == prompts_sha256([{"arguments": [("Q",)]}])


def test_an_items_name_says_what_it_is_and_not_where_it_stands(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"question": f"what is {i} + 1?", "answer": f"#### {i + 1}"} for i in (1, 2, 1, 3, 1)]

    def ids(order: list[int]) -> list[str]:
        test = [rows[i] for i in order]
        write_dataset(tmp_path / "hub", "openai/gsm8k", {("main", "test"): test, ("main", "train"): rows})
        _, found = evaluate(checkpoint, tmp_path, [{"name": "gsm8k", "shots": 0, "max_new_tokens": 2}])
        assert all(row["item_id"].startswith(f"gsm8k/{row['item_sha256']}") for row in found)
        return [row["item_id"] for row in found]

    first = ids([0, 1, 2, 3, 4])
    assert [name.partition("#")[2] for name in first] == ["", "", "2", "", "3"]
    assert first[2] == f"{first[0]}#2" and first[4] == f"{first[0]}#3"
    assert len(set(first)) == 5
    assert ids([3, 1, 0]) == [first[3], first[1], first[0]]


def test_an_exam_as_a_benchmark_of_its_own_has_agievals_demonstrations(checkpoint: Path, tmp_path: Path) -> None:
    write_sat_math(tmp_path)
    exam = {"name": "agieval", "tasks": ["agieval_sat_math"], "shots": 2}
    scores, _ = evaluate(checkpoint, tmp_path, [exam, {"name": "sat_math", "shots": 2}])
    digests = {entry["protocol"]["prompts_sha256"] for entry in scores["benchmarks"].values()}
    assert len(digests) == 1
    scores, _ = evaluate(checkpoint, tmp_path, [{"name": "sat_math"}])
    assert scores["benchmarks"]["sat_math"]["protocol"]["prompts_sha256"] not in digests


def test_a_task_of_two_benchmarks_counts_its_cuts_apart(tmp_path: Path) -> None:
    short = write_checkpoint(tmp_path / "short", context_tokens=300)  # of one item, not of its demonstrations too
    write_sat_math(tmp_path)
    exam = {"name": "agieval", "tasks": ["agieval_sat_math"], "shots": 3}
    scores, _ = evaluate(short, tmp_path, [exam, {"name": "sat_math"}])
    cut = {name: entry["truncated_items"] for name, entry in scores["benchmarks"].items()}
    assert cut == {"agieval": 3, "sat_math": 0}


# --- repeatable, and only of what was asked


def test_twice_gives_the_same_bits_from_a_folder_or_a_loaded_model(
    checkpoint: Path, data_root: Path, evaluation: tuple[Scores, Rows]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    scores, rows = evaluate(model, data_root, REQUESTS, tokenizer=tokenizer)
    assert rows == evaluation[1]
    assert {**scores, "evaluate_s": 0} == {**evaluation[0], "evaluate_s": 0}


def test_a_benchmarks_rows_do_not_depend_on_its_neighbours(
    checkpoint: Path, data_root: Path, evaluation: tuple[Scores, Rows]
) -> None:
    _, rows = evaluate(checkpoint, data_root, [REQUESTS[0]])
    assert rows == [row for row in evaluation[1] if row["benchmark"] == "mmlu"]


def test_each_data_root_gives_its_own_records(checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    write_gsm8k(tmp_path / "hub", add=30)
    request = {"name": "gsm8k", "limit": 2, "max_new_tokens": 2}
    targets = [[row["target"] for row in evaluate(checkpoint, root, [request])[1]] for root in (data_root, tmp_path)]
    assert targets == [["0 + 2 = 2\n#### 2", "1 + 2 = 3\n#### 3"], ["0 + 30 = 30\n#### 30", "1 + 30 = 31\n#### 31"]]


def test_generation_ends_at_the_cap(checkpoint: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.language_model import CountingHFLM

    lengths: list[int] = []
    decode = CountingHFLM.tok_decode

    def counting(self: Any, tokens: Any, **options: Any) -> str:
        if isinstance(tokens, list):
            lengths.append(len(tokens))
        return decode(self, tokens, **options)

    monkeypatch.setattr(CountingHFLM, "tok_decode", counting)
    evaluate(checkpoint, data_root, [{"name": "gsm8k", "max_new_tokens": 7}])
    assert len(lengths) == 8
    assert max(lengths) == 7


@pytest.mark.parametrize("shown", [True, False], ids=["bars shown", "bars off"])
def test_lm_eval_is_left_as_it_was_found(checkpoint: Path, data_root: Path, shown: bool) -> None:
    import datasets
    import lm_eval.api.task
    import lm_eval.utils
    import tqdm
    from transformers.utils import logging as transformers_logging

    def state() -> tuple[Any, ...]:
        records, weights = datasets.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()
        return records, weights, transformers_logging.get_verbosity(), logging.getLogger("lm_eval").level

    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()
    found = state()
    evaluate(checkpoint, data_root, [{"name": "winogrande", "limit": 1, "shots": 0}])
    assert state() == found
    assert lm_eval.api.task.tqdm is tqdm.tqdm
    assert "from_string" not in vars(lm_eval.utils.env)


# --- what does not fit


def test_prompts_longer_than_the_context_are_counted(data_root: Path, tmp_path: Path) -> None:
    short = write_checkpoint(tmp_path / "short", context_tokens=100)
    requests = [{"name": "winogrande", "limit": 3}, {"name": "gsm8k", "limit": 3, "max_new_tokens": 4}]
    scores, rows = evaluate(short, data_root, requests)
    assert [entry["truncated_items"] for entry in scores["benchmarks"].values()] == [3, 3]
    assert all(row["truncated_tokens"] > 0 for row in rows)
    scores, rows = evaluate(short, data_root, [{"name": "winogrande", "limit": 3, "shots": 0}])
    assert scores["benchmarks"]["winogrande"]["truncated_items"] == 0


def test_no_room_for_prompt_or_answer_is_an_error(data_root: Path, tmp_path: Path) -> None:
    short = write_checkpoint(tmp_path / "short", context_tokens=8)
    with pytest.raises(
        EvaluationError, match=r"gsm8k: 256 new tokens leave no room .* context of 8. Legal max_new_tokens: 1 to 7"
    ):
        evaluate(short, data_root, [{"name": "gsm8k", "limit": 1}])
    with pytest.raises(EvaluationError, match=r"agieval_lsat_ar, item 0: an answer of \d+ tokens does not fit"):
        evaluate(short, data_root, [{"name": "agieval", "tasks": ["agieval_lsat_ar"], "limit": 1}])


def test_a_missing_checkpoint_tokenizer_or_data_set_is_named(checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="No checkpoint in .*: it has no config.json"):
        evaluate(tmp_path, data_root, [{"name": "gsm8k"}])
    with pytest.raises(EvaluationError, match="needs its tokenizer"):
        evaluate(object(), data_root, [{"name": "gsm8k"}])
    with pytest.raises(EvaluationError, match="openai/gsm8k is missing"):
        evaluate(checkpoint, tmp_path, [{"name": "gsm8k"}])
    with pytest.raises(EvaluationError, match="agieval_math: 4 shots were asked for, but .* has 3"):
        evaluate(checkpoint, data_root, [{"name": "agieval", "tasks": ["agieval_math"], "shots": 4}])
