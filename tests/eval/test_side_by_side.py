"""Two results folders side by side: rows matched by what they are, runs by seed, scores by how they were made."""

from __future__ import annotations

import shutil

import pytest

from eval import EvaluationError, benchmarks
from eval.collect import collect, group
from eval.side_by_side import Metric, side_by_side, table
from eval.sides import read_side
from eval.statistics import Estimate
from tests.eval.test_collect import change
from tests.eval.test_recorded import COMMITTED
from tests.report import fixture_tree, memory_tree

ACCURACIES = {"mmlu", "agieval", "winogrande", "gsm8k"}
SCORES = {*ACCURACIES, "mt_bench"}
COST = {"peak_memory_bytes", "tokens_per_s", "step_median_s"}
EVERY = {*SCORES, "validation_loss", *COST}
LORA = ("tiny", "world-chat", "lora", "r128")


@pytest.fixture
def a(tmp_path):
    """The first tree, as it is."""
    plan = fixture_tree.write_tree(tmp_path / "a")
    return read_side(tmp_path / "a", plan)


@pytest.fixture
def beside(tmp_path, a):
    """The rows of both sides, the second tree being that of a plan with files that `edit` changed."""

    def compared(edit=lambda plan, tree: None, plan=None):
        plan, tree = fixture_tree.write_tree(tmp_path / "b", plan or fixture_tree.experiment("b")), tmp_path / "b"
        edit(plan, tree)
        return side_by_side(a, read_side(tree, plan))

    return compared


def every_seed(method, *keys, value, name="run.json"):
    """An edit of all runs of a method."""

    def edit(plan, tree):
        for run in plan["runs"]:
            if run["method"] == method:
                change(tree, run, *keys, value=value, name=name)

    return edit


def pair_of(found, method="lora"):
    return next(pair for pair in found.pairs if pair.a.first.method == method)


def metric_of(pair, name):
    (metric,) = [metric for metric in pair.metrics if metric.name == name]
    return metric


def flagged(pair):
    return {metric.name: metric.reasons for metric in pair.metrics if metric.reasons}


# --- rows


def test_a_renamed_copy_compares_whole_and_nothing_differs(beside):
    found = beside()
    assert found.counts == {"rows": 6, "not_comparable": 0, "one_sided": 0, "only_a": 0, "only_b": 0}
    assert {metric.name for metric in pair_of(found).metrics} == EVERY
    assert {metric.name for metric in pair_of(found, "vanilla").metrics} == SCORES
    metrics = [metric for pair in found.pairs for metric in pair.metrics]
    assert {metric.difference for metric in metrics} == {0.0, None}
    assert {metric.ratio for metric in metrics} == {1.0, None}
    assert all((metric.difference is None) == (metric.name in COST) for metric in metrics)


def test_values_are_those_of_the_tables_and_changes_are_of_b_from_a(beside):
    def edit(plan, tree):
        every_seed("lora", "validation_loss", value=1.5)(plan, tree)
        every_seed("lora", "time", "step_median_s", value=0.34)(plan, tree)
        change(tree, fixture_tree.run_of(plan, "lora", 1), "memory", "phases", "train", value=60_000_000)

    found = beside(edit)
    pair = pair_of(found)
    loss, peak, step = (metric_of(pair, name) for name in ("validation_loss", "peak_memory_bytes", "step_median_s"))
    assert (loss.a, loss.b.value) == (pair.a.estimate("validation_loss"), 1.5)
    assert loss.difference == pytest.approx(1.5 - 1.305)
    assert (peak.a.value, peak.b, peak.ratio) == (30_001_000, Estimate(60_000_000, None, 2), 60_000_000 / 30_001_000)
    assert step.ratio == pytest.approx(0.34 / (0.17 * 1.01)) and step.a.stderr > 0
    assert metric_of(pair, "mmlu").a == pair.a.estimate("mmlu")


def test_rows_of_one_side_are_listed_and_models_are_not_mixed(beside):
    plan = fixture_tree.experiment("b", models=2)
    plan["runs"] = [run for run in plan["runs"] if run["method"] != "lora"]
    found = beside(plan=plan)
    assert found.only_a == (LORA,)
    assert {key[0] for key in found.only_b} == {"tiny1"} and len(found.only_b) == 5
    assert {pair.key[0] for pair in found.pairs} == {"tiny"}


def test_a_part_holds_the_rows_asked_for(beside):
    found = beside(plan=fixture_tree.experiment("b", models=2))
    assert list(found.b.part({"method": "lora", "model": "tiny1"}).rows) == [("tiny1", *LORA[1:])]
    assert side_by_side(found.a.part({"method": "lora"}), found.b.part({"method": "lora"})).only_b == (
        ("tiny1", *LORA[1:]),
    )


# --- what does not compare


@pytest.mark.parametrize(
    ("keys", "value", "metrics", "reason"),
    [
        (("schema_version",), "1.0.0", EVERY, "records 1.1 and 1.0"),
        (("data", "sha256"), "a" * 64, EVERY, "training data: 11111111... in a, aaaaaaaa... in b"),
        (("model", "sha256"), "a" * 64, EVERY - COST, "base model: 00000000... in a, aaaaaaaa... in b"),
        (("data", "validation_items"), 7, {"validation_loss"}, "validation records: 64 in a, 7 in b"),
        (("memory", "meter"), "m", {"peak_memory_bytes"}, "meter: cpu-live-storage in a, m in b"),
    ],
)
def test_records_that_do_not_compare_say_why_in_place_of_a_difference(beside, keys, value, metrics, reason):
    found = beside(every_seed("lora", *keys, value=value))
    assert flagged(pair_of(found)) == dict.fromkeys(metrics, (reason,))
    assert found.counts["not_comparable"] == 1
    for metric in pair_of(found).metrics:
        assert metric.a.value is not None and metric.b.value is not None
        assert (metric.difference is None and metric.ratio is None) == (metric.name in metrics)


def test_another_setting_of_the_experiment_spoils_what_was_trained(beside):
    plan = fixture_tree.experiment("b")
    plan["training"]["steps"] = 120

    def edit(plan, tree):
        for run in plan["runs"]:
            change(tree, run, "settings", "steps", value=120)
            if run["method"] != "vanilla":
                change(tree, run, "steps", value=120)

    found = beside(edit, plan)
    assert flagged(pair_of(found)) == dict.fromkeys(EVERY, ("steps: 60 in a, 120 in b",))
    assert pair_of(found, "vanilla").compares and found.counts["not_comparable"] == 5


def test_another_learning_rate_spoils_scores_but_not_cost(beside):
    plan = fixture_tree.experiment("b")
    for run in plan["runs"]:
        run["learning_rate"] = 0.5 if run["method"] == "lora" else run["learning_rate"]
    found = beside(plan=plan)
    assert flagged(pair_of(found)) == dict.fromkeys(EVERY - COST, ("learning rate: 0.002 in a, 0.5 in b",))


def test_other_code_of_a_method_is_flagged_and_compared(beside):
    found = beside(every_seed("lora", "environment", "code_sha256", value="9" * 64))
    assert [pair.a.first.method for pair in found.pairs if pair.code_changed] == ["lora"]
    assert pair_of(found).compares


def test_conditions_stand_side_by_side_and_forbid_nothing(beside):
    def edit(plan, tree):
        for run in plan["runs"]:
            change(tree, run, "environment", "device", value="Imaginary GPU")
            change(tree, run, "environment", "packages", "torch", value="2.14.0")

    found = beside(edit)
    a, b = found.a.conditions, found.b.conditions
    assert (a["device"], b["device"]) == ("cpu (Imaginary CPU)", "Imaginary GPU")
    assert (a["packages"]["torch"], b["packages"]["torch"]) == ("2.13.0", "2.14.0")
    assert a["packages"]["peft"] == b["packages"]["peft"] == "0.21.2"
    assert found.counts["not_comparable"] == 0


# --- protocols


def edit_protocol(key, value):
    """Another protocol of MMLU in all runs of lora; all other scores stay."""

    def edit(plan, tree):
        for run in plan["runs"]:
            content = fixture_tree.scores_1_1(run)
            if run["method"] == "lora":
                content["benchmarks"]["mmlu"]["protocol"][key] = value
            fixture_tree.write(tree / run["path"] / "scores.json", content)

    return edit


@pytest.fixture
def a_1_1(tmp_path, a):
    """The first tree, with protocols."""
    for run in a.experiment["runs"]:
        fixture_tree.write(tmp_path / "a" / run["path"] / "scores.json", fixture_tree.scores_1_1(run))
    return read_side(tmp_path / "a", a.experiment)


@pytest.fixture
def beside_1_1(tmp_path, a_1_1):
    def compared(edit):
        plan = fixture_tree.write_tree(tmp_path / "b")
        edit(plan, tmp_path / "b")
        return side_by_side(a_1_1, read_side(tmp_path / "b", plan))

    return compared


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("shots", 0, "5-shot in a; 0-shot in b"),
        ("limit", None, "first 40 in a; all items in b"),
        ("batch_size", 9, "batch size 8 in a; batch size 9 in b"),
        ("backend", "vllm", "backend hf in a; backend vllm in b"),
        ("dtype", "bfloat16", "dtype float32 in a; dtype bfloat16 in b"),
        ("harness", "lm_eval 0.5", "lm_eval 0.4.13 in a; lm_eval 0.5 in b"),
        ("prompts_sha256", "6" * 64, "prompts 55555555 in a; prompts 66666666 in b"),
        ("max_new_tokens", 9, "the task's own cap in a; at most 9 new tokens in b"),
    ],
)
def test_a_score_of_another_protocol_does_not_compare(beside_1_1, key, value, words):
    found = beside_1_1(edit_protocol(key, value))
    assert flagged(pair_of(found)) == {"mmlu": (f"protocol: {words}",)}


@pytest.mark.parametrize(("key", "value"), [("torch", "9"), ("transformers", "9"), ("vllm", "9")])
def test_a_score_under_other_versions_of_libraries_compares(beside_1_1, key, value):
    assert beside_1_1(edit_protocol(key, value)).counts["not_comparable"] == 0


def test_seeds_scored_under_several_versions_of_a_library_have_one_mean(beside_1_1):
    def edit(plan, tree):
        edit_protocol("shots", 5)(plan, tree)
        run = fixture_tree.run_of(plan, "lora", 1)
        change(tree, run, "benchmarks", "mmlu", "protocol", "torch", value="9", name="scores.json")

    assert metric_of(pair_of(beside_1_1(edit)), "mmlu").seeds == (0, 1)


def test_a_protocol_that_is_not_recorded_is_no_match(beside_1_1):
    found = beside_1_1(lambda plan, tree: None)
    assert set(flagged(pair_of(found))) == ACCURACIES
    assert "prompts 55555555" in flagged(pair_of(found))["mmlu"][0]
    assert "prompts not recorded" in flagged(pair_of(found))["mmlu"][0]


def test_seeds_of_two_protocols_stand_apart_and_only_like_meets_like(beside):
    def edit(plan, tree):
        run = fixture_tree.run_of(plan, "lora", 1)
        change(tree, run, "benchmarks", "mmlu", "shots", value=0, name="scores.json")

    like, rest = [metric for metric in pair_of(beside(edit)).metrics if metric.name == "mmlu"]
    assert (like.seeds, like.reasons, like.difference) == ((0,), (), 0.0)
    assert (rest.seeds, rest.reasons, rest.a.value) == ((1,), ("no seed of a was scored this way",), None)


def test_another_judge_spoils_mt_bench_only(beside):
    judge = {"kind": "llm", "model": "judge-7b"}
    found = beside(every_seed("lora", "judge", value=judge, name="mt_bench.json"))
    assert flagged(pair_of(found)) == {"mt_bench": ("protocol: judge rule-based-judge in a; judge judge-7b in b",)}
    assert metric_of(pair_of(found), "mt_bench").made == "rule-based-judge / judge-7b"


def test_a_suite_has_a_line_of_its_own_once_all_its_members_have(beside_1_1, monkeypatch):
    suite = benchmarks.Suite("both", "Both", ("mmlu", "gsm8k"), 5)
    monkeypatch.setitem(benchmarks.SUITES, "both", suite)
    pair = pair_of(beside_1_1(edit_protocol("shots", 0)))
    assert flagged(pair)["both"] == ("protocol: MMLU: 5-shot in a; MMLU: 0-shot in b",)


# --- seeds


def test_only_seeds_that_both_have_count_and_others_are_named(beside):
    pair = pair_of(beside(plan=fixture_tree.experiment("b", seeds=(1, 2))))
    assert pair.seeds == (1,) and pair.compares
    assert {metric.seeds for metric in pair.metrics} == {(1,)}
    assert pair.notes == ("seed 0 stands in a only and is left out", "seed 2 stands in b only and is left out")
    assert metric_of(pair, "validation_loss").difference == 0.0


def test_without_a_common_seed_nothing_compares(beside):
    pair = pair_of(beside(plan=fixture_tree.experiment("b", seeds=(2, 3))))
    assert flagged(pair) == dict.fromkeys(EVERY, ("no seed in common: 0, 1 in a, 2, 3 in b",))


def test_a_reason_of_one_seed_names_it(beside):
    def edit(plan, tree):
        change(tree, fixture_tree.run_of(plan, "lora", 1), "data", "sha256", value="a" * 64)

    reasons = {"seed 1: training data: 11111111... in a, aaaaaaaa... in b"}
    assert {reason for why in flagged(pair_of(beside(edit))).values() for reason in why} == reasons


def test_a_seed_that_stopped_leaves_the_others_to_compare(beside):
    def edit(plan, tree):
        fixture_tree.write_stopped(tree, fixture_tree.run_of(plan, "lora", 1), "oom", "train", "too large")

    pair = pair_of(beside(edit))
    assert {metric.seeds for metric in pair.metrics} == {(0,)} and pair.compares
    assert pair.notes == ("b: ok 1 of 2, oom 1 of 2: seed 1: train: too large",)


def test_a_row_that_stopped_on_one_side_does_not_compare(beside):
    def edit(plan, tree):
        for seed in (0, 1):
            fixture_tree.write_stopped(tree, fixture_tree.run_of(plan, "lora", seed), "oom", "train", "too large")

    pair = pair_of(beside(edit))
    assert flagged(pair) == dict.fromkeys(EVERY, ("b is oom",))
    assert all(metric.b.value is None and metric.a.value is not None for metric in pair.metrics)


def test_a_metric_that_one_side_never_asked_for_is_no_reason(beside):
    plan = fixture_tree.experiment("b") | {"mt_bench": None}

    def edit(plan, tree):
        for run in plan["runs"]:
            (tree / run["path"] / "mt_bench.json").unlink()

    pair = pair_of(beside(edit, plan))
    metric = metric_of(pair, "mt_bench")
    assert pair.compares and metric.b.value is None and metric.difference is None


def test_runs_of_other_settings_than_planned_are_no_values(beside):
    pair = pair_of(beside(every_seed("lora", "settings", "steps", value=7)))
    assert flagged(pair) == dict.fromkeys(EVERY, ("b is missing",))
    assert "run.json is of other settings" in pair.notes[0]


# --- cells


@pytest.fixture
def cells(tmp_path):
    """Two memory experiments of one model, all cells predicted; `edit` gets the second."""

    def compared(edit=lambda plan, folder: None):
        plans = {
            name: memory_tree.write_tree(tmp_path / name, memory_tree.experiment(name, ("llama-2-7b",)))
            for name in ("a", "b")
        }
        edit(plans["b"], tmp_path / "b")
        return side_by_side(*(read_side(tmp_path / name, plan) for name, plan in plans.items()))

    return compared


def cell_pair(found, *key):
    return next(pair for pair in found.pairs if pair.key == key)


FULL = ("llama-2-7b", "full", "default", "default")


def test_cells_are_matched_by_their_setting_too(cells):
    found = cells()
    assert len(found.pairs) == 17 and found.counts["not_comparable"] == 0
    assert [metric.name for metric in cell_pair(found, *FULL).metrics] == ["predicted_peak_bytes"]
    assert metric_of(cell_pair(found, *FULL), "predicted_peak_bytes").ratio == 1.0


def test_a_measured_cell_has_peak_and_speed_beside_its_prediction(cells, tmp_path):
    def edit(plan, folder):
        cell = memory_tree.cell_of(plan, "/".join(FULL))
        memory_tree.measure(tmp_path / "a", cell, excess=0.0)
        memory_tree.measure(folder, cell, excess=0.5, device="Another GPU")

    pair = cell_pair(cells(edit), *FULL)
    ratios = {metric.name: metric.ratio for metric in pair.metrics}
    assert ratios == {"predicted_peak_bytes": 1.0, "peak_memory_bytes": 1.5, "tokens_per_s": 1.0, "step_median_s": 1.0}


def test_a_folder_speaks_for_itself_and_not_for_the_references(tmp_path):
    """Else a machine's own records would be compared with themselves."""
    folder = next(folder for folder in COMMITTED if folder.name == "memory_cpu")
    record = next(folder.rglob("run.json"))
    plan = read_side(folder, None).experiment
    shutil.copytree(record.parent, tmp_path / "b" / record.parent.relative_to(folder))
    side = read_side(tmp_path / "b", {**plan, "name": "memory_cpu"})
    assert [bool(row.first.record) for row in side.rows.values()].count(True) == 1


def test_a_cell_that_ran_out_of_memory_on_one_side_does_not_compare(cells, tmp_path):
    def edit(plan, folder):
        cell = memory_tree.cell_of(plan, "/".join(FULL))
        memory_tree.measure(tmp_path / "a", cell)
        memory_tree.measure(folder, cell, status="oom")

    pair = cell_pair(cells(edit), *FULL)
    assert flagged(pair) == dict.fromkeys(COST, ("b is oom",))
    assert pair.notes == ("b: oom: seed 0: train: CUDA out of memory",)


def test_other_conditions_spoil_a_prediction(cells):
    def edit(plan, folder):
        for cell in plan["cells"]:
            cell["conditions"]["attention"] = "eager"
        memory_tree.write_tree(folder, plan)

    pair = cell_pair(cells(edit), *FULL)
    assert flagged(pair) == {"predicted_peak_bytes": ("attention: sdpa in a, eager in b",)}


def test_layers_that_were_never_drawn_are_told(cells):
    def edit(plan, folder):
        cell = memory_tree.cell_of(plan, "llama-2-7b/lisa/eh-2l/default")
        memory_tree.measure(folder, cell)
        change(folder, cell, "settings", "drawn_units", value=32)
        change(folder, cell, "settings", "visited_units", value=30)

    pair = cell_pair(cells(edit), "llama-2-7b", "lisa", "eh-2l", "default")
    assert pair.notes == ("b: 30 of 32 units drawn",)


# --- folders


def test_with_and_without_experiment_json_the_same_metrics_come_out(a, tmp_path):
    bare = read_side(tmp_path / "a", None)
    found = side_by_side(a, bare)
    assert found.counts == {"rows": 6, "not_comparable": 0, "one_sided": 0, "only_a": 0, "only_b": 0}
    assert all(metric.a == metric.b for pair in found.pairs for metric in pair.metrics)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_references_compare_whole_with_themselves(folder):
    found = side_by_side(read_side(folder, None), read_side(folder, None))
    metrics = [metric for pair in found.pairs for metric in pair.metrics]
    assert found.counts["not_comparable"] == 0 and metrics
    assert all(metric.ratio == 1 or metric.difference == 0 for metric in metrics)
    expected = {*COST} if found.a.kind == "memory" else {"validation_loss", *COST}
    assert {metric.name for metric in metrics} == expected


def test_what_no_pipeline_wrote_is_named(tmp_path):
    for content in ({}, {"name": "x"}, {"runs": []}):
        with pytest.raises(EvaluationError, match="experiment.json lists neither runs nor cells"):
            read_side(tmp_path, content)
    assert read_side(tmp_path, None) is None


def test_the_table_has_a_row_for_each_metric(beside):
    found = beside(every_seed("lora", "data", "sha256", value="a" * 64))
    rows = [row for row in table(found) if row["method"] == "lora"]
    assert {row["metric"] for row in rows} == EVERY
    assert {row["not_compared"] for row in rows} == {"training data: 11111111... in a, aaaaaaaa... in b"}
    assert {tuple(row) for row in table(found)} == {tuple(rows[0])}


def test_nothing_over_nothing_is_no_ratio():
    zero = Estimate(0.0, None, 1)
    assert Metric("tokens_per_s", zero, zero, (0,)).ratio is None


def test_rows_are_those_of_the_reader_of_tables(a, tmp_path):
    rows = group(collect(a.experiment, tmp_path / "a"), a.experiment)
    assert list(a.rows.values()) == rows
