"""The tables of what an experiment may ask for: noise floor, forgetting, MT-Bench by category, pairs, overlap."""

from __future__ import annotations

import json
import math

import pytest

from eval import EvaluationError, present, tables
from eval.collect import collect
from eval.forgetting_table import forgetting, forgetting_table
from eval.mt_bench_tables import categories, categories_table
from eval.noise_table import noise, noise_table
from eval.overlap_table import overlap, overlap_table, read_leaks
from eval.pairwise_table import pairwise, pairwise_table
from eval.text import to_markdown
from tests.report import fixture_tree
from tests.report.fixture_tree import row_of, rows_of
from workflow.stages.report import report


@pytest.fixture
def whole(plan, tree):
    fixture_tree.write_whole(tree, plan)
    return tree


def change(file, **values):
    fixture_tree.write(file, json.loads(file.read_text()) | values)


def test_what_was_not_asked_for_has_no_table_even_where_files_of_a_former_experiment_lie(plan, whole):
    plan["evaluation"] |= {"noise_floor": None, "general_text": None}
    plan["mt_bench"]["pairwise_baseline"] = None
    rows = rows_of(plan, whole)
    assert noise(rows, plan) == pairwise(rows, plan) == []
    assert {run.general_text.get("status") for run in collect(plan, whole)} == {None}


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("tiny/noise_floor.json", "status"),
        ("tiny/general_text.json", "word_perplexity"),
        ("tiny/world-chat/lora/r128/seed0/pairwise.json", "win_rate"),
        ("leaks.json", "overlap"),
    ],
)
def test_a_file_without_its_field_is_one_clear_error(plan, whole, file, field):
    content = json.loads((whole / file).read_text())
    del content[field]
    fixture_tree.write(whole / file, content)
    with pytest.raises(EvaluationError, match=f"field '{field}' is missing") as error:
        report(plan, whole)
    assert file in str(error.value)


# --- noise floor


def test_the_noise_floor_has_a_line_for_every_benchmark_of_every_model(plan, whole):
    lines = noise(rows_of(plan, whole), plan)
    assert [line["benchmark"] for line in lines] == ["mmlu", "agieval", "winogrande", "gsm8k"]
    mmlu = lines[0]
    assert (mmlu["percent"], mmlu["again_percent"]) == (pytest.approx(61), pytest.approx(61))
    assert (mmlu["other_percent"], mmlu["floor_percent"]) == (pytest.approx(62.25), pytest.approx(1.25))
    assert (mmlu["again_changed_items"], mmlu["other_changed_items"]) == (0, 1)
    assert (mmlu["batch_size"], mmlu["other_batch_size"]) == (8, 16) and mmlu["device"] == "cpu (Imaginary CPU)"
    text = to_markdown(noise_table(lines, plan))
    assert "tiny/world-chat/full/default/seed0" in text and "ours is 8, the other is 16" in text


def test_a_noise_floor_that_could_not_be_measured_says_why(plan, whole):
    skipped = {"schema_version": "1.0", "status": "skipped", "reason": "no checkpoint: out of memory"}
    fixture_tree.write(whole / "tiny" / "noise_floor.json", skipped)
    lines = noise(rows_of(plan, whole), plan)
    assert [line["reason"] for line in lines] == ["no checkpoint: out of memory"]
    text = to_markdown(noise_table(lines, plan))
    assert "no checkpoint: out of memory" in text and "Not measured for tiny:" in text
    assert "three times" not in text and "three scores" not in text


def test_the_note_says_whose_floor_it_is(plan, whole):
    (note, *_) = noise_table(noise(rows_of(plan, whole), plan), plan).notes
    assert "tiny/world-chat/full/default/seed0" in note and "trained otherwise may differ" in note


# --- forgetting


def test_forgetting_is_after_over_before_mean_and_spread_over_seeds(plan, whole):
    lines = forgetting(rows_of(plan, whole), plan)
    full = row_of(lines, "full")
    before = math.exp(4.5)
    after = [math.exp(4.5 * (1 + 0.09 + 0.002 * seed)) for seed in (0, 1)]
    assert full["word_perplexity_before"] == pytest.approx(before)
    assert full["word_perplexity_after"] == pytest.approx(sum(after) / 2)
    assert full["word_perplexity_after_seed_deviation"] == pytest.approx((after[1] - after[0]) / 2**0.5)
    assert full["word_perplexity_ratio"] == pytest.approx(sum(after) / 2 / before)
    assert full["bits_per_byte_ratio"] == pytest.approx(1.091)
    vanilla = row_of(lines, "vanilla")
    assert [vanilla[f"{key}_ratio"] for key in ("word_perplexity", "token_perplexity", "bits_per_byte")] == [1, 1, 1]
    assert "12,000 characters from 0 on, windows of 512 tokens" in to_markdown(forgetting_table(lines, plan))


@pytest.mark.parametrize(
    ("value", "deviation", "shown"),
    [
        (177_685.02, 21_345.6, "177,700 ± 21,300"),
        (177_685.02, 4.0, "177,700 ± <100"),
        (12_345.6, None, "12,350"),
        (123.456, 0.777, "123.5 ± 0.8"),
        (20.0855, 0.0, "20.09 ± 0.00"),
        (1.23456, 0.0001, "1.235 ± <0.001"),
    ],
)
def test_perplexities_have_four_significant_digits_whatever_their_size(plan, whole, value, deviation, shown):
    line = row_of(forgetting(rows_of(plan, whole), plan), "full")
    line |= {"word_perplexity_before": value, "word_perplexity_after": value}
    table = forgetting_table([line | {"word_perplexity_after_seed_deviation": deviation}], plan)
    before, after = (table.header.index(f"Word perplexity, {when}") for when in ("before", "after"))
    assert (table.body[0][before], table.body[0][after]) == (shown.split(" ± ")[0], shown)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file_sha256": "0" * 64}, f"another file_sha256: {'7' * 64}, before {'0' * 64}"),
        ({"sequence_length": 256}, "another sequence_length: 512, before 256"),
        ({"backend": "vllm"}, "another backend: hf, before vllm"),
        ({"dtype": "bfloat16"}, "another dtype: float32, before bfloat16"),
        ({"status": "skipped", "reason": "out of memory"}, "base model not measured: out of memory"),
    ],
)
def test_perplexities_of_different_texts_are_not_compared(plan, whole, changes, reason):
    change(whole / "tiny" / "general_text.json", **changes)
    line = row_of(forgetting(rows_of(plan, whole), plan), "full")
    assert (line["word_perplexity_ratio"], line["word_perplexity_before"]) == (None, None)
    assert line["not_compared"] == reason
    assert reason in to_markdown(forgetting_table([line], plan))


def test_a_perplexity_that_is_no_finite_number_leaves_its_cells_empty_and_the_others_not(plan, whole):
    run = fixture_tree.run_of(plan, "full", 1)
    content = fixture_tree.scores_1_1(run)
    content["general_text"]["word_perplexity"] = None
    fixture_tree.write(whole / run["path"] / "scores.json", content)
    line = row_of(forgetting(rows_of(plan, whole), plan), "full")
    assert (line["word_perplexity_after"], line["word_perplexity_ratio"]) == (None, None)
    assert line["bits_per_byte_ratio"] == pytest.approx(1.091)
    report(plan, whole)


# --- MT-Bench


def test_mt_bench_stands_with_its_interval_its_judges_dates_and_what_they_cost(plan, whole):
    row = row_of(tables.comparison(rows_of(plan, whole), plan), "full")
    mean = 1.5 + 6 * 0.9 + 0.05
    assert row["mt_bench_low_points"] == pytest.approx(mean - 0.5)
    assert row["mt_bench_high_points"] == row["mt_bench_without_coding_high_points"] == pytest.approx(mean + 0.6)
    assert (row["mt_bench_first_judged"], row["mt_bench_last_judged"]) == ("2030-01-02", "2030-01-04")
    assert (row["mt_bench_repeats"], row["mt_bench_prompt_tokens"], row["mt_bench_cost_usd"]) == ("3", 100_000, 0.5)
    text = to_markdown(present.comparison_table(tables.comparison(rows_of(plan, whole), plan), plan))
    assert "| 6.95 [6.45, 7.55] |" in text
    assert "every answer judged 3 times and the median taken, asked 2030-01-02 to 2030-01-04" in text
    assert "The judge read 600,000 and wrote 108,000 tokens for 3.00 USD." in text


def test_a_cost_that_is_not_known_is_not_shown_as_none_at_all(plan, whole):
    for run in plan["runs"]:
        content = fixture_tree.mt_bench_1_1(run)
        content["usage"]["cost_usd"] = None
        fixture_tree.write(whole / run["path"] / "mt_bench.json", content)
    compared = tables.comparison(rows_of(plan, whole), plan)
    text = to_markdown(present.comparison_table(compared, plan))
    assert "wrote 108,000 tokens." in text and "USD" not in text


def test_categories_have_their_means_intervals_and_unparsable_counts(plan, whole):
    run = fixture_tree.run_of(plan, "full", 0)
    content = fixture_tree.mt_bench_1_1(run)
    content["categories"]["math"] = {"mean": 2.0, "ratings": 3, "unparsable": 1, "interval": None}
    fixture_tree.write(whole / run["path"] / "mt_bench.json", content)
    lines = categories(rows_of(plan, whole), plan)
    assert len(lines) == 6
    full = row_of(lines, "full")
    assert full["math_points"] == pytest.approx((2.0 + 7.0) / 2) and full["math_low_points"] is None
    assert (full["math_unparsable"], full["coding_unparsable"]) == (1, 0)
    assert full["coding_low_points"] == pytest.approx(1.5 + 6 * 0.9 + 0.05 - 1)
    table = categories_table(lines, plan)
    assert table.header[3:6] == ("Reasoning", "Math", "Coding") and "STEM" in table.header
    assert "Unparsable ratings: 1." in to_markdown(table)


def test_pairs_are_summed_over_seeds_and_the_baseline_has_no_line(plan, whole):
    lines = pairwise(rows_of(plan, whole), plan)
    assert [line["row"] for line in lines] == ["full", "lora r128", "galore", "lisa gamma2", "lisa gamma4"]
    full = lines[0]
    outcomes = ("wins", "losses", "ties", "inconsistent", "unparsable")
    assert [full[name] for name in outcomes] == [38, 12, 4, 8, 2]
    assert sum(full[name] for name in outcomes) == full["comparisons"] == 64
    assert full["win_rate_percent"] == pytest.approx(100 * (19 + 3) / 31)
    text = to_markdown(pairwise_table(lines, plan))
    assert "| full | 71.0 [61.0, 81.0] | 64 |" in text
    assert "The judge read 10,000 and wrote 2,000 tokens for 5.00 USD." in text and "first" not in text.split("\n- ")[0]


def test_comparisons_of_other_questions_are_not_summed(plan, whole):
    file = whole / fixture_tree.run_of(plan, "full", 1)["path"] / "pairwise.json"
    change(file, limit=1)
    lines = [line for line in pairwise(rows_of(plan, whole), plan) if line["method"] == "full"]
    assert [(line["seeds"], line["limit"], line["wins"]) for line in lines] == [("0", None, 19), ("1", "1", 19)]
    assert "| first 1 |" in to_markdown(pairwise_table(lines, plan))


def test_a_run_that_was_not_compared_is_missing_it_and_one_that_could_not_be_says_why(plan, whole):
    lora, full = fixture_tree.run_of(plan, "lora", 0), fixture_tree.run_of(plan, "full", 0)
    (whole / lora["path"] / "pairwise.json").unlink()
    skipped = {"status": "skipped", "reason": "the baseline left no answers", "baseline": "tiny/x"}
    fixture_tree.write(whole / full["path"] / "pairwise.json", skipped)
    runs = {run.path: run for run in collect(plan, whole)}
    assert (runs[lora["path"]].status, runs[lora["path"]].phase) == ("missing", "pairwise")
    assert runs[full["path"]].status == "ok"
    lines = [line for line in pairwise(rows_of(plan, whole), plan) if line["method"] == "full"]
    assert {line["reason"] for line in lines} == {None, "the baseline left no answers"}


# --- overlap


def test_overlap_has_a_line_for_every_data_set_and_benchmark_and_says_what_was_checked(plan, whole):
    leaks = read_leaks(whole)
    lines = overlap(leaks, plan)
    assert [(line["data"], line["benchmark"], line["overlapping"]) for line in lines] == [
        ("world-chat", "mmlu", 2),
        ("world-chat", "mt_bench", 0),
    ]
    assert lines[0]["overlapping_percent"] == pytest.approx(100 * 2 / 200)
    text = to_markdown(overlap_table(lines, leaks, plan))
    assert "| 240 | 200 | 2 | 1.00 | 3 |" in text
    assert "7 of 240 items of mmlu_virology share 13 words in a row or more of their passage" in text
    assert "any 13 of them in a row" in text and "all 240 items of the one task were checked" in text
    assert overlap(read_leaks(whole / "nowhere"), plan) == []
