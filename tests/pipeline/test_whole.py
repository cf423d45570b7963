"""The whole pipeline on the mini experiment: every file, every row; a failing run leaves the others alone; a second
run does what is missing.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.pipeline.mini import mini, snakemake

RUN = "results/mini/tiny/world"
METHODS = [
    "vanilla",
    "lisa",
    {"method": "full", "variant": "hot", "learning_rate": 1e30},
    {"method": "lora", "variant": "broken", "hyperparameters": {"target_modules": ["input_layernorm"]}},
]
JUDGED = mini(Path())["mt_bench"] | {"repeats": 2, "pairwise_baseline": "vanilla"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of four variants: untrained, LISA, one that diverges and one that fails."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, snakemake(folder, mini(folder / "prepared", methods=METHODS, mt_bench=JUDGED))


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_a_failed_run_ends_the_pipeline_non_zero_and_is_named(first: tuple[Path, Any]) -> None:
    folder, done = first
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "lora/broken/seed0" in output
    assert "LlamaRMSNorm" in output  # the log with the reason is shown
    failure = read(folder, f"{RUN}/lora/broken/seed0/failure.json")
    assert (failure["status"], failure["phase"]) == ("failed", "train")
    assert not (folder / f"{RUN}/lora/broken/seed0/run.json").exists()


def test_the_other_runs_are_whole(first: tuple[Path, Any]) -> None:
    folder, _ = first
    for variant in ("vanilla/default", "lisa/default"):
        run = folder / f"{RUN}/{variant}/seed0"
        assert read(run, "run.json")["status"] == "ok"
        assert set(read(run, "scores.json")["benchmarks"]) == {"mmlu", "agieval", "winogrande", "gsm8k"}
        judged = read(run, "mt_bench.json")
        assert (judged["judge"]["kind"], judged["judge"]["model"]) == ("rule-based", "rule-based-judge")
        assert (judged["ratings"], judged["repeats"]) == (16, 2)
        with gzip.open(run / "samples.jsonl.gz", "rt") as samples:
            assert len(samples.readlines()) == 8


def test_every_run_but_the_baselines_is_compared_with_it(first: tuple[Path, Any]) -> None:
    folder, _ = first
    compared = read(folder, f"{RUN}/lisa/default/seed0/pairwise.json")
    assert (compared["status"], compared["baseline"]) == ("ok", "tiny/world/vanilla/default/seed0")
    assert compared["comparisons"] == 16
    skipped = read(folder, f"{RUN}/full/hot/seed0/pairwise.json")
    assert skipped["status"] == "skipped" and "full/hot/seed0 left no checkpoint" in skipped["reason"]
    assert not (folder / f"{RUN}/vanilla/default/seed0/pairwise.json").exists()


def test_a_divergence_is_a_row_and_not_a_failure(first: tuple[Path, Any]) -> None:
    folder, _ = first
    run = folder / f"{RUN}/full/hot/seed0"
    assert read(run, "run.json")["status"] == "diverged"
    assert read(run, "scores.json")["status"] == "skipped"
    assert read(run, "mt_bench.json")["status"] == "skipped"


def test_tables_and_page_have_a_row_for_every_variant_failed_ones_too(first: tuple[Path, Any]) -> None:
    folder, _ = first
    table = pandas.read_csv(folder / "results/mini/tables/comparison.csv")
    statuses = dict(zip(table["method"], table["status"], strict=True))
    assert statuses == {"vanilla": "ok", "lisa": "ok", "full": "diverged", "lora": "failed"}
    page = (folder / "results/mini/report.html").read_text()
    assert "LlamaRMSNorm" in page
    assert "rule-based" in page


def test_answers_and_judgments_can_be_read_and_runs_without_any_are_named(first: tuple[Path, Any]) -> None:
    folder, _ = first
    page = (folder / "results/mini/mt_bench.html").read_text()
    shown = {
        path: json.loads(island)
        for path, island in re.findall(r'<script type="application/json" data-run="([^"]*)">(.*?)</script>', page)
    }
    assert set(shown) == {f"tiny/world/{variant}/seed0" for variant in ("vanilla/default", "lisa/default")}
    for path, entries in shown.items():
        run = folder / "results/mini" / path
        answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().split("\n") if line]
        judgments = [json.loads(line) for line in (run / "judgments.jsonl").read_text().split("\n") if line]
        assert [entry["turns"] for entry in entries] == [answer["turns"] for answer in answers]
        kept = [judged["replies"] for entry in entries for judged in entry["judgments"]]
        assert kept == [judgment["replies"] for judgment in judgments] and len(kept) == 16
    for path in ("full/hot/seed0", "lora/broken/seed0"):
        assert path in page.split("Reason</th>")[-1]


def test_a_page_of_an_unfinished_experiment_does_not_pass_for_a_finished_one(first: tuple[Path, Any]) -> None:
    folder, _ = first
    planned = snakemake(folder, mini(folder / "prepared", methods=METHODS, mt_bench=JUDGED), "--dry-run")
    jobs = re.findall(r"^(train|evaluate|judge|report|prepare_\w+) +(\d+)$", planned.stdout, re.MULTILINE)
    assert dict(jobs) == {"train": "1", "evaluate": "1", "judge": "1", "report": "1"}


def test_a_new_experiment_uses_what_is_prepared(first: tuple[Path, Any]) -> None:
    folder, _ = first
    planned = snakemake(folder, mini(folder / "prepared", name="other", methods=["full"], seeds=[3]), "--dry-run")
    assert "train" in planned.stdout
    assert "prepare_model" not in planned.stdout


def test_the_second_run_does_only_what_is_missing(first: tuple[Path, Any]) -> None:
    folder, _ = first
    before = (folder / f"{RUN}/lisa/default/seed0/run.json").stat().st_mtime_ns
    mended = [*METHODS[:3], {"method": "lora", "variant": "broken", "hyperparameters": {"rank": 2}}]
    done = snakemake(folder, mini(folder / "prepared", methods=mended, mt_bench=JUDGED))
    assert done.returncode == 0, done.stderr
    assert (folder / f"{RUN}/lisa/default/seed0/run.json").stat().st_mtime_ns == before
    assert not (folder / f"{RUN}/lora/broken/seed0/failure.json").exists()
    assert 'data-run="tiny/world/lora/broken/seed0"' in (folder / "results/mini/mt_bench.html").read_text()
    again = snakemake(folder, mini(folder / "prepared", methods=mended, mt_bench=JUDGED))
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_another_judge_evaluates_nothing_again_and_another_part_of_the_text_checks_no_leaks_again(
    first: tuple[Path, Any],
) -> None:
    folder, _ = first
    finished = mini(folder / "prepared", name="switched", methods=["vanilla"])
    done = snakemake(folder, finished)
    assert done.returncode == 0, done.stderr

    def planned(**changes: Any) -> set[str]:
        done = snakemake(folder, finished | changes, "--dry-run")
        assert done.returncode == 0, done.stderr
        return {name for name, _ in re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE)} - {"all", "total"}

    judged = finished["mt_bench"]
    assert planned(mt_bench=judged | {"judge": "openai"}) == {"judge", "report"}
    text = finished["evaluation"]["general_text"]
    window = finished["evaluation"] | {"general_text": text | {"first_character": 5}}
    # the judge's stage follows the answers, and finds its replies in its store
    assert planned(evaluation=window) == {"general_text", "evaluate", "judge", "report"}


def losses(run: Path) -> list[float]:
    """Of training and validation, as the log has them."""
    rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [row.get("loss", row.get("validation_loss")) for row in rows]


def test_same_seed_gives_the_same_numbers_bit_for_bit(first: tuple[Path, Any]) -> None:
    folder, _ = first
    twin = mini(folder / "prepared-again", name="twin", methods=["lisa"])
    done = snakemake(folder, twin)
    assert done.returncode == 0, done.stderr
    one, two = folder / f"{RUN}/lisa/default/seed0", folder / "results/twin/tiny/world/lisa/default/seed0"

    assert losses(one) == losses(two)
    assert (one / "samples.jsonl.gz").read_bytes() == (two / "samples.jsonl.gz").read_bytes()
    assert (one / "answers.jsonl").read_text() == (two / "answers.jsonl").read_text()
    assert read(one, "scores.json")["benchmarks"] == read(two, "scores.json")["benchmarks"]


def test_a_part_that_is_held_fixed_does_not_follow_the_seed(first: tuple[Path, Any]) -> None:
    folder, _ = first
    whole = losses(folder / f"{RUN}/lisa/default/seed0")
    found = {}
    for name, held in (("held", ("data_order", "initialisation", "draws")), ("drawn", ("data_order",))):
        change = {"training": mini(folder)["training"] | {"fixed_seeds": dict.fromkeys(held, 0)}}
        bare = {"evaluation": {"benchmarks": []}, "mt_bench": None, "methods": ["lisa"], "seeds": [1]}
        done = snakemake(folder, mini(folder / "prepared", name=name, **bare, **change))
        assert done.returncode == 0, done.stderr
        found[name] = losses(folder / f"results/{name}/tiny/world/lisa/default/seed1")
    assert found["held"] == whole
    assert found["drawn"][0] == whole[0] and found["drawn"] != whole


def test_a_changed_setting_and_a_changed_benchmark_list_take_one_call(first: tuple[Path, Any]) -> None:
    folder, _ = first
    benchmarks = {"batch_size": 8, "benchmarks": [{"name": "winogrande", "limit": 2}]}
    for steps in (4, 5):
        training = mini(folder)["training"] | {"steps": steps}
        change = {"methods": ["full"], "training": training, "evaluation": benchmarks}
        done = snakemake(folder, mini(folder / "prepared", name="changed", **change))
        assert done.returncode == 0, done.stderr
        run = folder / "results/changed/tiny/world/full/default/seed0"
        assert read(run, "run.json")["steps"] == steps
        assert set(read(run, "scores.json")["benchmarks"]) == {"winogrande"}
        assert (folder / "results/changed/report.html").exists()
