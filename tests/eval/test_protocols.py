"""Scores made in different ways never share a column, and no mean mixes them."""

from __future__ import annotations

import json

import pytest

from eval import present, tables
from eval.benchmarks import BENCHMARKS, SUITES
from eval.protocols import CUT_NOTE, described, slots
from eval.tasks_table import tasks, tasks_table
from eval.text import EMPTY, to_markdown
from eval.versus import versus
from tests.report import fixture_tree
from tests.report.fixture_tree import row_of, rows_of

OTHERS = [  # what of the protocol is changed, and what the column then says
    ("harness", "lm_eval 0.4.12", "lm_eval 0.4.12"),
    ("tasks", {"mmlu_anatomy": 1.0, "mmlu_astronomy": 1.0, "mmlu_virology": 2.0}, "task version 2"),
    ("max_new_tokens", 64, "at most 64 new tokens"),
    ("prompts_sha256", "abcdef0123456789", "prompts abcdef01"),
    ("batch_size", 16, "batch size 16"),
    ("backend", "vllm", "backend vllm"),
    ("dtype", "bfloat16", "dtype bfloat16"),
    ("transformers", "5.22.0", "transformers 5.22.0"),
    ("torch", "2.12.0", "torch 2.12.0"),
    ("vllm", "0.12.0", "vLLM 0.12.0"),
]


@pytest.fixture
def whole(plan, tree):
    fixture_tree.write_whole(tree, plan)
    return tree


def change(tree, run, **changes):
    """Change the protocol of a run's MMLU."""
    path = tree / run["path"] / "scores.json"
    content = json.loads(path.read_text())
    content["benchmarks"]["mmlu"]["protocol"] |= changes
    fixture_tree.write(path, content)


def value(method, seed):
    return 100 * (0.25 + 0.4 * fixture_tree.SKILL[method] + 0.01 * seed)


def compared(plan, tree):
    return tables.comparison(rows_of(plan, tree), plan)


def header(plan, tree):
    return present.comparison_table(compared(plan, tree), plan).header


def test_one_protocol_gives_one_column_whose_title_names_no_version(plan, whole):
    assert "mmlu_2_percent" not in compared(plan, whole)[0]
    assert [title for title in header(plan, whole) if "MMLU" in title] == [
        "MMLU (5-shot, 3 of 57 tasks, first 40 items of each)"
    ]


@pytest.mark.parametrize(("key", "other", "words"), OTHERS)
def test_every_part_of_a_protocol_makes_a_column_of_its_own_that_says_what_differs(plan, whole, key, other, words):
    for seed in (0, 1):
        change(whole, fixture_tree.run_of(plan, "lora", seed), **{key: other})
    table = compared(plan, whole)
    lora, full = row_of(table, "lora"), row_of(table, "full")
    assert (lora["mmlu_percent"], full["mmlu_2_percent"]) == (None, None)
    mean = {method: (value(method, 0) + value(method, 1)) / 2 for method in ("lora", "full")}
    assert (lora["mmlu_2_percent"], full["mmlu_percent"]) == (pytest.approx(mean["lora"]), pytest.approx(mean["full"]))
    first, second = (title for title in header(plan, whole) if title.startswith("MMLU"))
    assert words in second and words not in first and "MMLU" in first
    assert not any(words in title for title in header(plan, whole) if title.startswith("AGIEval"))


def test_a_row_whose_seeds_differ_has_each_seed_in_its_own_column_and_a_note(plan, whole):
    change(whole, fixture_tree.run_of(plan, "lora", 1), batch_size=16)
    lora = row_of(compared(plan, whole), "lora")
    assert lora["mmlu_percent"] == pytest.approx(value("lora", 0))
    assert lora["mmlu_2_percent"] == pytest.approx(value("lora", 1))
    assert (lora["mmlu_seeds"], lora["mmlu_2_seeds"], lora["agieval_seeds"]) == ("0", "1", "0 1")
    text = to_markdown(present.comparison_table(compared(plan, whole), plan))
    assert "lora r128: its seeds were scored on MMLU in several ways (seed 0 in column 1; seed 1 in column 2)." in text


def test_the_protocol_of_most_rows_comes_first(plan, whole):
    for method in ("vanilla", "lora", "galore", "lisa"):
        for run in plan["runs"]:
            if run["method"] == method:
                change(whole, run, batch_size=16)
    found = slots(rows_of(plan, whole), "mmlu")
    assert [(slot.key, slot.differs) for slot in found] == [("mmlu", "batch size 16"), ("mmlu_2", "batch size 8")]


def test_a_mean_over_seeds_of_several_protocols_is_refused(plan, whole):
    change(whole, fixture_tree.run_of(plan, "lora", 1), backend="vllm")
    row = next(row for row in rows_of(plan, whole) if row.first.method == "lora")
    with pytest.raises(AssertionError, match="several protocols of mmlu"):
        row.estimate("mmlu")


def test_files_that_do_not_record_their_protocol_share_no_column_with_those_that_do(plan, whole):
    for seed in (0, 1):
        run = fixture_tree.run_of(plan, "galore", seed)
        fixture_tree.write(whole / run["path"] / "scores.json", fixture_tree.scores(run))
    row = row_of(compared(plan, whole), "galore")
    assert (row["mmlu_percent"], row["mmlu_2_percent"] is None) == (None, False)
    second = [title for title in header(plan, whole) if title.startswith("MMLU")][1]
    assert "prompts not recorded" in second and "backend not recorded" in second


def test_published_differences_are_of_one_protocol_each(plan, whole):
    plan["report"]["published"] = ["table2_accuracy"]
    plan["data_root"] = "real"
    for run in plan["runs"]:
        path = whole / run["path"] / "scores.json"
        content = json.loads(path.read_text())
        content["benchmarks"]["mmlu"] |= {"whole_benchmark": True, "limit": None}
        fixture_tree.write(path, content)
    change(whole, fixture_tree.run_of(plan, "full", 1), batch_size=16)
    row = row_of(compared(plan, whole), "full")
    assert row["mmlu_difference_percent"] == pytest.approx(value("full", 0) - 25.62)
    assert row["mmlu_2_difference_percent"] == pytest.approx(value("full", 1) - 25.62)
    lines = [line for line in versus(rows_of(plan, whole), plan) if line["method"] == "full" and line["our_model"]]
    ours = [(line["ours"], line["our_protocol"]) for line in lines if line["metric"] == "mmlu"]
    assert ours == [
        (pytest.approx(value("full", 0)), "batch size 8"),
        (pytest.approx(value("full", 1)), "batch size 16"),
    ]


def test_another_judge_has_a_column_of_its_own(plan, whole):
    for seed in (0, 1):
        run = fixture_tree.run_of(plan, "lisa", seed, "gamma2")
        content = fixture_tree.mt_bench_1_1(run)
        content["judge"]["prompts_sha256"] = "fedcba9876543210"
        fixture_tree.write(whole / run["path"] / "mt_bench.json", content)
    row, other = (row_of(compared(plan, whole), "lisa", variant) for variant in ("gamma2", "gamma4"))
    assert row["mt_bench_points"] is None and other["mt_bench_2_points"] is None
    assert row["mt_bench_2_points"] == other["mt_bench_points"] == pytest.approx(1.5 + 6 * 0.85 + 0.05)
    assert "MT-Bench (rule-based judge, prompts fedcba98)" in header(plan, whole)


JUDGINGS = [  # where mt_bench.json says it, another value, what the column then says
    (("judge", "kind"), "llm", "judge rule-based-judge"),
    (("judge", "server"), "http://h:8000/v1", "judge at http://h:8000/v1"),
    (("judge", "prompts_sha256"), "fedcba9876543210", "prompts fedcba98"),
    (("repeats",), 1, "judged once"),
    (("limit",), 2, "first 2 of each category"),
    (("answers", "max_new_tokens"), 64, "answers' cap 64 tokens"),
    (("questions_sha256",), "bcdefa9876543210", "questions bcdefa98"),
]


def rejudge(tree, run, keys, value):
    """Change how a run was judged."""
    content = part = fixture_tree.mt_bench_1_1(run)
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    fixture_tree.write(tree / run["path"] / "mt_bench.json", content)


@pytest.mark.parametrize(("keys", "value", "words"), JUDGINGS)
def test_every_part_of_a_judging_makes_a_column_of_its_own_that_says_what_differs(plan, whole, keys, value, words):
    rejudge(whole, fixture_tree.run_of(plan, "full", 1), keys, value)
    row = row_of(compared(plan, whole), "full")
    assert (row["mt_bench_seeds"], row["mt_bench_2_seeds"]) == ("0", "1")
    assert row["mt_bench_2_points"] == pytest.approx(1.5 + 6 * 0.9 + 0.1)
    first, second = [title for title in header(plan, whole) if title.startswith("MT-Bench (")]
    assert words in second and words not in first


def test_dtype_and_versions_that_only_the_settings_say_are_those_of_the_protocol(plan, whole):
    for run in plan["runs"]:
        path = whole / run["path"] / "scores.json"
        content = json.loads(path.read_text())
        for entry in content["benchmarks"].values():
            for key in ("dtype", "transformers", "torch", "vllm"):
                del entry["protocol"][key]
        content["settings"] |= {"dtype": "bfloat16" if run["method"] == "lora" else "float32"}
        fixture_tree.write(path, content)
    second = [title for title in header(plan, whole) if title.startswith("MMLU")][1]
    assert "dtype bfloat16" in second and "not recorded" not in second


# --- which columns there are


def test_columns_are_the_experiments_benchmarks_in_the_registrys_order(plan, tmp_path):
    plan["evaluation"]["benchmarks"] = [{"name": name} for name in reversed(BENCHMARKS)]
    keys = list(tables.comparison(rows_of(plan, tmp_path), plan)[0])
    shown = [key.removesuffix("_percent") for key in keys if key.endswith("_percent")]
    scores = [name for name in shown if not name.endswith(("_stderr", "_noise_floor", "_low", "_high"))]
    assert scores == [*BENCHMARKS, *SUITES] and len(scores) > 10


def with_suite(plan, tree, left_out=None):
    """Every member of the suite `commonsense` scored, 0.5 and up."""
    members = [name for name in SUITES["commonsense"].members if name != left_out]
    plan["evaluation"]["benchmarks"] = [{"name": name} for name in members]
    for run in plan["runs"]:
        content = fixture_tree.scores_1_1(run)
        entry = content["benchmarks"]["winogrande"]
        content["benchmarks"] = {
            name: entry | {"value": 0.5 + 0.01 * place, "stderr": 0.08} for place, name in enumerate(members)
        }
        fixture_tree.write(tree / run["path"] / "scores.json", content)


def test_a_suite_has_the_plain_mean_of_its_members_with_their_error(plan, whole):
    with_suite(plan, whole)
    row = row_of(compared(plan, whole), "full")
    assert row["commonsense_percent"] == pytest.approx(100 * (0.5 + 0.01 * 3.5))
    assert row["commonsense_stderr_percent"] == pytest.approx(100 * 0.08 / 8**0.5)
    (title,) = [title for title in header(plan, whole) if SUITES["commonsense"].label in title]
    assert title.endswith("(mean of 8 benchmarks, 8 of them in part)")


def test_a_suite_of_which_a_member_is_missing_has_no_mean(plan, whole):
    with_suite(plan, whole, left_out="piqa")
    assert "commonsense_percent" not in compared(plan, whole)[0]


def test_a_suites_mean_is_made_within_one_protocol(plan, whole):
    with_suite(plan, whole)
    run = fixture_tree.run_of(plan, "full", 1)
    path = whole / run["path"] / "scores.json"
    content = json.loads(path.read_text())
    content["benchmarks"]["boolq"]["protocol"] = content["benchmarks"]["boolq"]["protocol"] | {"prompts_sha256": "0ff"}
    fixture_tree.write(path, content)
    row = row_of(compared(plan, whole), "full")
    assert (row["commonsense_seeds"], row["commonsense_2_seeds"]) == ("0", "1")
    second = [title for title in header(plan, whole) if SUITES["commonsense"].label in title][1]
    assert "BoolQ: prompts 0ff" in second
    content["benchmarks"]["boolq"]["protocol"] |= {"backend": "vllm"}  # no mean over two backends
    fixture_tree.write(path, content)
    row = row_of(compared(plan, whole), "full")
    assert row["commonsense_seeds"] == "0" and "commonsense_2_seeds" not in row


# --- every task with its record


def test_every_task_of_every_row_stands_with_all_that_tells_how_it_was_made(plan, whole):
    lines = tasks(rows_of(plan, whole), plan)
    assert len(lines) == 6 * (3 + 2 + 1 + 1)
    line = next(line for line in lines if (line["method"], line["task"]) == ("full", "mmlu_virology"))
    wanted = {"harness": "lm_eval 0.4.13", "task_version": 1.0, "shots": 5, "limit": 40, "batch_size": 8}
    wanted |= {"backend": "hf", "prompts_sha256": "6" * 64, "seeds": "0 1", "benchmark": "mmlu", "items": "40"}
    assert {key: line[key] for key in wanted} == wanted
    assert line["percent"] == pytest.approx((value("full", 0) + value("full", 1)) / 2)
    change(whole, fixture_tree.run_of(plan, "full", 1), batch_size=16)
    lines = [line for line in tasks(rows_of(plan, whole), plan) if line["method"] == "full"]
    both = [line for line in lines if line["task"] == "mmlu_virology"]
    assert [(line["seeds"], line["batch_size"]) for line in both] == [("0", 8), ("1", 16)]


def test_cut_prompts_stand_in_the_title_and_are_no_protocol(plan, whole):
    run = fixture_tree.run_of(plan, "full", 0)
    path = whole / run["path"] / "scores.json"
    content = json.loads(path.read_text())
    content["benchmarks"]["gsm8k"]["truncated_items"] = 7
    fixture_tree.write(path, content)
    rows = rows_of(plan, whole)
    assert len(slots(rows, "gsm8k")) == 1
    assert described(rows[1].runs, "gsm8k") == "5-shot, 7 of 80 prompts cut / 5-shot"
    table = present.comparison_table(tables.comparison(rows, plan), plan)
    assert CUT_NOTE in table.notes and any("7 of 80 prompts cut" in title for title in table.header)
    content["benchmarks"]["gsm8k"]["truncated_items"] = 0
    fixture_tree.write(path, content)
    assert CUT_NOTE not in present.comparison_table(compared(plan, whole), plan).notes


def test_a_cap_on_answers_stands_in_the_title_once_and_with_every_task(plan, whole):
    def set_cap(run):
        content = fixture_tree.scores_1_1(run)
        content["benchmarks"]["gsm8k"] |= {"max_new_tokens": 64}
        content["benchmarks"]["gsm8k"]["protocol"] |= {"max_new_tokens": 64}
        fixture_tree.write(whole / run["path"] / "scores.json", content)

    def titles():
        return [title for title in header(plan, whole) if title.startswith("GSM8K")]

    for seed in (0, 1):
        set_cap(fixture_tree.run_of(plan, "full", seed))
    assert titles() == ["GSM8K (5-shot, the task's own cap)", "GSM8K (5-shot, at most 64 new tokens)"]
    table = tasks_table(tasks(rows_of(plan, whole), plan), plan)
    task, cap = table.header.index("Task"), table.header.index("Cap on answers (new tokens)")
    capped = [(cells[0], cells[task], cells[cap]) for cells in table.body if cells[cap] != EMPTY]
    assert capped == [("full", "gsm8k", "64")]
    for run in plan["runs"]:
        set_cap(run)
    assert titles() == ["GSM8K (5-shot, at most 64 new tokens)"]  # nothing differs: it says so all the same
