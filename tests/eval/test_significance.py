"""Verdicts of a whole experiment: items of all rows and seeds aligned, in tables, sentences and differences.csv."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from eval import EvaluationError, present, tables
from eval.differences_table import differences, differences_table
from eval.forgetting_table import forgetting
from eval.item_values import Store
from eval.mt_bench_tables import categories, categories_table
from eval.pairwise_table import pairwise, pairwise_table
from eval.protocols import slots
from eval.significance import significance
from eval.versus import versus
from tests.report import fixture_tree
from tests.report.fixture_tree import row_of, rows_of


@pytest.fixture
def plan(tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment(seeds=(0, 1, 2)))
    fixture_tree.write_whole(tmp_path, plan)
    fixture_tree.write_items(tmp_path, plan)
    return plan


def values_of(rows, metric):
    (slot,) = slots(rows, metric)
    return Store().aligned(rows, slot)


def test_rows_are_aligned_item_by_item_and_seed_by_seed(tmp_path, plan):
    rows = rows_of(plan, tmp_path)
    aligned = values_of(rows, "gsm8k")
    assert (aligned.items, aligned.left_out) == (80, 0)
    for row in rows:
        values = aligned.values[row.key]
        assert values.strata[0].shape == (3, 80)
        assert values.seed_means == pytest.approx([run.benchmarks["gsm8k"]["value"] for run in row.runs])


def test_items_that_a_row_lacks_or_was_asked_otherwise_are_left_out_of_all(tmp_path, plan):
    rows = rows_of(plan, tmp_path)
    file = rows[1].runs[0].folder / "samples.jsonl.gz"
    lines = [json.loads(line) for line in gzip.open(file, "rt")]
    lines = [line for line in lines if (line["benchmark"], line["item"]) != ("gsm8k", 7)]
    other = next(line for line in lines if (line["benchmark"], line["item"]) == ("gsm8k", 9))
    other["prompt_sha256"] = "another"
    with gzip.open(file, "wt") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    aligned = values_of(rows, "gsm8k")
    assert (aligned.items, aligned.left_out) == (78, 2)
    (told,) = significance(rows, plan).sentences(["gsm8k"])
    assert told.endswith("2 items that not all rows have are left out.")


def rewrite(run, change):
    """A run's rows of samples.jsonl.gz changed."""
    file = run.folder / "samples.jsonl.gz"
    lines = change([json.loads(line) for line in gzip.open(file, "rt")])
    with gzip.open(file, "wt") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_rows_own_interval_is_over_all_items_of_its_own(tmp_path, plan):
    """One seed of galore lacks the items that full has right."""
    rows = rows_of(plan, tmp_path)
    whole = significance(rows, plan).of(row_of_rows(rows, "full"), "gsm8k")
    right = {
        line["item"]
        for line in map(json.loads, gzip.open(rows[1].runs[0].folder / "samples.jsonl.gz", "rt"))
        if line["benchmark"] == "gsm8k" and line["correct"]
    }
    rewrite(
        row_of_rows(rows, "galore").runs[0],
        lambda lines: [one for one in lines if one["benchmark"] != "gsm8k" or one["item"] not in right],
    )
    rows = rows_of(plan, tmp_path)
    verdicts = significance(rows, plan)
    full = row_of_rows(rows, "full")
    assert verdicts.of(full, "gsm8k").low == whole.low < 100 * full.estimate("gsm8k").value < whole.high
    assert verdicts.panels[full.key[:2]]["gsm8k"].verdict.means["full"] == pytest.approx(full.estimate("gsm8k").value)
    (told,) = verdicts.sentences(["gsm8k"])
    assert f"{len(right)} items that not all rows have are left out." in told


def test_a_row_of_which_a_seed_left_no_items_is_named(tmp_path, plan):
    rows = rows_of(plan, tmp_path)
    (row_of_rows(rows, "galore").runs[1].folder / "samples.jsonl.gz").unlink()
    (told,) = significance(rows_of(plan, tmp_path), plan).sentences(["gsm8k"])
    assert told.endswith(" Not compared, without the items of every seed: galore.")


def test_rows_that_share_no_items_are_not_tested_and_it_is_said(tmp_path, plan):
    run = row_of_rows(rows_of(plan, tmp_path), "galore").runs[1]
    rewrite(run, lambda lines: [one | {"prompt_sha256": f"{one['item']:016x}"[::-1] + "x"} for one in lines])
    rows = rows_of(plan, tmp_path)
    verdicts = significance(rows, plan)
    (told,) = verdicts.sentences(["gsm8k"])
    assert told == "GSM8K: not tested, since the rows have no items in common."
    assert verdicts.of(row_of_rows(rows, "full"), "gsm8k").group is None


def test_scores_by_two_judges_have_names_of_their_own(tmp_path, plan):
    for run in rows_of(plan, tmp_path)[2].runs:
        file = run.folder / "mt_bench.json"
        content = json.loads(file.read_text())
        content["judge"]["model"] = "another"
        file.write_text(json.dumps(content))
    columns = significance(rows_of(plan, tmp_path), plan).panels["tiny", "world-chat"]
    names = [column.label for key, column in columns.items() if key in ("mt_bench", "mt_bench_2")]
    assert names == ["MT-Bench, judge rule-based-judge", "MT-Bench, judge another"]


def test_a_loss_that_is_no_number_is_refused(tmp_path, plan):
    file = tmp_path / plan["runs"][-1]["path"] / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"validation_loss": float("nan")}))
    with pytest.raises(EvaluationError, match="run.json: nan is no number to compare"):
        significance(rows_of(plan, tmp_path), plan)


def row_of_rows(rows, label):
    return next(row for row in rows if row.label == label)


def test_a_question_of_mt_bench_is_an_item_with_the_mean_of_its_turns(tmp_path, plan):
    rows = rows_of(plan, tmp_path)
    aligned = values_of(rows, "mt_bench")
    judged = [json.loads(line) for line in (rows[2].runs[1].folder / "judgments.jsonl").read_text().splitlines()]
    first = [row["rating"] for row in judged if row["question_id"] == 0]
    assert aligned.items == 16 and aligned.values[rows[2].key].strata[0][1, 0] == np.mean(first)
    assert aligned.values[rows[2].key].mean == pytest.approx(rows[2].estimate("mt_bench").value)


def test_a_row_without_item_level_results_is_not_tested_and_keeps_its_standard_error(tmp_path, plan):
    (tmp_path / fixture_tree.run_of(plan, "lora", 1)["path"] / "samples.jsonl.gz").unlink()
    rows = rows_of(plan, tmp_path)
    verdicts = significance(rows, plan)
    compared = tables.comparison(rows, plan, verdicts)
    lora, full = row_of(compared, "lora"), row_of(compared, "full")
    assert lora["gsm8k_low_percent"] is None and lora["gsm8k_group"] is None and full["gsm8k_group"]
    table = present.comparison_table(compared, plan, verdicts)
    place = next(place for place, title in enumerate(table.header) if title.startswith("GSM8K"))
    cells = {line[0]: line[place] for line in table.body}
    assert " ± " in cells["lora"] and " [" in cells["full"] and cells["full"].endswith(full["gsm8k_group"])
    assert any("± is one standard error" in note for note in table.notes)


def test_tables_have_intervals_letters_and_verdicts(tmp_path, plan):
    rows = rows_of(plan, tmp_path)
    verdicts = significance(rows, plan)
    full = row_of(tables.comparison(rows, plan, verdicts), "full")
    for key, unit in (("gsm8k", "_percent"), ("mt_bench", "_points"), ("validation_loss", "")):
        assert full[f"{key}_low{unit}"] < full[f"{key}{unit}"] < full[f"{key}_high{unit}"], key
        assert full[f"{key}_group"]
    table = present.methods_table(tables.methods(rows, plan, verdicts), plan, verdicts)
    starts = [sentence.split(":")[0] for sentence in table.verdicts]
    assert (
        starts[:5] == ["Validation loss (nats per token)", "MMLU", "AGIEval", "WinoGrande", "GSM8K"]
        and "MT-Bench" in starts
    )
    assert "full" in table.verdicts[4] and "vanilla" in table.verdicts[4]
    speed = tables.speed(rows, plan, verdicts)
    assert row_of(speed, "lora")["step_median_low_ms"] < row_of(speed, "lora")["step_median_ms"]
    assert present.speed_table(speed, plan, verdicts).verdicts[0].startswith("Step time (ms): lisa gamma2")
    assert row_of(forgetting(rows, plan, verdicts), "full")["bits_per_byte_after_group"]
    found = categories(rows, plan, verdicts)
    assert row_of(found, "full")["math_low_points"] < row_of(found, "full")["math_high_points"]
    assert row_of(found, "full")["math_group"] is None, "two questions can tell nothing apart"
    notes = " ".join(categories_table(found, plan, verdicts).notes)
    assert "reasoning, math, coding" in notes and "2 questions are too few to tell any two rows apart." in notes


def test_answers_compared_in_pairs_are_tested_against_the_baseline_that_wins_half_the_time(tmp_path, plan):
    rows = rows_of(plan, tmp_path)
    verdicts = significance(rows, plan)
    line = row_of(pairwise(rows, plan, verdicts), "full")
    outcomes = [json.loads(row)["outcome"] for run in rows[1].runs for row in open(run.folder / "comparisons.jsonl")]
    rate = 100 * (outcomes.count("win") + outcomes.count("tie") / 2) / len(outcomes)
    assert 50 < line["win_rate_low_percent"] < rate < line["win_rate_high_percent"]
    (told,) = pairwise_table(pairwise(rows, plan, verdicts), plan, verdicts).verdicts
    assert told.startswith("Win rate against vanilla: ") and "vanilla by" in told


def test_win_rates_by_two_judges_are_not_tested_and_it_is_said(tmp_path, plan):
    file = tmp_path / fixture_tree.run_of(plan, "lora", 1)["path"] / "pairwise.json"
    content = json.loads(file.read_text())
    fixture_tree.write(file, content | {"judge": content["judge"] | {"kind": "llm", "model": "another-judge"}})
    rows = rows_of(plan, tmp_path)
    verdicts = significance(rows, plan)
    lines = pairwise(rows, plan, verdicts)
    assert not verdicts.have(["win_rate"]) and {line["win_rate_group"] for line in lines} == {None}
    assert [line["judge"] for line in lines if line["method"] == "lora"] == ["rule-based", "llm: another-judge"]
    table = pairwise_table(lines, plan, verdicts)
    assert "Compared by more than one judge, set of prompts or limit: nothing is tested." in table.notes
    assert not table.verdicts


def test_a_difference_within_the_measured_noise_floor_is_not_told_apart(tmp_path, plan):
    def apart():
        columns = significance(rows_of(plan, tmp_path), plan).panels["tiny", "world-chat"]
        return [pair.apart for pair in columns["gsm8k"].verdict.differences]

    assert any(apart())
    floor = fixture_tree.noise_floor(plan, "tiny")
    floor["benchmarks"]["gsm8k"]["floor"] = 0.9
    fixture_tree.write(tmp_path / "tiny/noise_floor.json", floor)
    assert not any(apart())


def test_every_pair_of_every_column_has_its_line(tmp_path, plan):
    rows = rows_of(plan, tmp_path)
    lines = differences(significance(rows, plan), plan)
    of_gsm8k = [line for line in lines if line["column"] == "gsm8k"]
    assert len(of_gsm8k) == 6 * 5 // 2
    line = next(line for line in of_gsm8k if (line["a"], line["b"]) == ("vanilla", "full"))
    compared = tables.comparison(rows, plan)
    expected = row_of(compared, "vanilla")["gsm8k_percent"] - row_of(compared, "full")["gsm8k_percent"]
    assert line["value"] == pytest.approx(expected) and line["low"] < line["value"] < line["high"] < 0
    assert line["better"] == "full" and line["p_holm"] <= 0.05 and line["unit"] == "%"
    loss = next(line for line in lines if (line["column"], line["a"]) == ("validation_loss", "full"))
    assert loss["p_items"] is None and loss["better"] == "full"
    assert len(differences_table(lines, plan).body) == len(lines)


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((-3.6, -12.4, 5.75), "-3.60 [-12.40, +5.75]"),
        ((0.0123456, 0.001, 0.0236), "+0.01235 [+0.00100, +0.02360]"),
        ((0.0, -1.2e-8, 1.2e-8), "+0.000000 [+0.000000, +0.000000]"),
        ((0.0, None, None), "+0"),
        ((1234.5, 1200.0, 1300.0), "+1234 [+1200, +1300]"),
    ],
)
def test_a_difference_and_its_interval_have_one_number_of_decimals(numbers, shown):
    line = {"label": "X", "unit": "%", "a": "a", "b": "b", "better": None, "model": "m", "data": "d"}
    line |= dict.fromkeys(("p_items", "p_seeds_and_items", "p_holm"))
    line |= dict(zip(("value", "low", "high"), numbers, strict=True))
    table = differences_table([line], {"name": "x"})
    assert shown in table.body[0]


def test_published_cells_are_reproduced_or_not_by_our_interval(tmp_path, plan, monkeypatch):
    plan["report"]["published"], plan["data_root"] = ["table2_accuracy"], "real"
    for run in plan["runs"]:
        file = tmp_path / run["path"] / "scores.json"
        content = json.loads(file.read_text())
        for entry in content["benchmarks"].values():
            entry |= {"whole_benchmark": True, "limit": None}
        fixture_tree.write(file, content)
    rows = rows_of(plan, tmp_path)
    found = [line for line in versus(rows, plan, significance(rows, plan)) if line["model"] == "TinyLlama"]
    by_cell = {(line["method"], line["metric"]): line for line in found}
    for line in found:
        within = line["ours_low"] - 0.005 <= float(line["published"]) <= line["ours_high"] + 0.005
        assert line["reproduces"] == ("yes" if within else "no"), line
    assert {line["reproduces"] for line in found} == {"yes", "no"}
    assert by_cell["vanilla", "mmlu"]["difference"] is not None
    assert all(line["reproduces"] == "no interval" for line in versus(rows, plan) if line["model"] == "TinyLlama")
    others = [line for line in versus(rows, plan) if line["model"] == "LLaMA-2-7B"]
    assert {line["reproduces"] for line in others} == {"not run"}


def test_panels_are_tested_apart(tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment(models=2))
    fixture_tree.write_items(tmp_path, plan)
    verdicts = significance(rows_of(plan, tmp_path), plan)
    first, second = verdicts.sentences(["gsm8k"])
    assert first.startswith("tiny on world-chat, GSM8K: ") and second.startswith("tiny1 on world-chat, GSM8K: ")
    assert {(pair.a, pair.b) for panel, column, pair in verdicts.differences() if column.key == "gsm8k"}
    assert len(list(verdicts.differences())) == 2 * sum(panel[0] == "tiny" for panel, _, _ in verdicts.differences())


def test_a_damaged_file_of_items_is_named(tmp_path, plan):
    file = tmp_path / plan["runs"][3]["path"] / "samples.jsonl.gz"
    file.write_bytes(b"no gzip")
    with pytest.raises(EvaluationError, match=rf"{file} cannot be read"):
        significance(rows_of(plan, tmp_path), plan)
    with gzip.open(file, "wt") as stream:
        stream.write('{"benchmark": "gsm8k", "item_id": "gsm8k/1", "prompt_sha256": "1"}\n')
    with pytest.raises(EvaluationError, match=r"samples.jsonl.gz, row 1: field 'correct' is missing"):
        significance(rows_of(plan, tmp_path), plan)
