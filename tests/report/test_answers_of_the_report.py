"""The three answers before any table, and the figures that carry them: the trade, the differences, the cards."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.significance import significance
from eval.tested import UNTESTED, Column, Verdicts
from eval.values import Values
from eval.verdicts import compare
from eval.versus import versus
from tests.report import fixture_tree
from tests.report.fixture_tree import rows_of
from workflow.report.card_lines import card_lines, drawn_cards, fits_words
from workflow.report.drawing import styles
from workflow.report.figures import speed_figure
from workflow.report.forest import forest_figure, published_figure, reference_of
from workflow.report.page import parted, row_commands
from workflow.report.pareto import pareto_figure
from workflow.report.summary import three_answers


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    plan = fixture_tree.write_tree(folder, fixture_tree.experiment(seeds=(0, 1, 2)))
    fixture_tree.write_whole(folder, plan)
    fixture_tree.write_items(folder, plan)
    rows = rows_of(plan, folder)
    return folder, plan, rows, significance(rows, plan)


def answers_of(rows, verdicts, claims=()):
    return {answer.question: answer.sentences for answer in three_answers(rows, verdicts, claims)}


# --- words


def test_the_three_questions_are_answered_from_records_and_tests(tree):
    _, _, rows, verdicts = tree
    found = answers_of(rows, verdicts)
    assert list(found) == ["Will it fit?", "How fast is it?", "How good is the result?"]
    assert found["Will it fit?"][0] == "Peak while training: lowest 30.0 MB (lora r128), highest 68.0 MB (full)."
    assert found["How fast is it?"] == [
        "Shortest step: 153.0 ms (lisa gamma2); not distinguishable from it: lisa gamma4; full fine-tuning takes 1.40"
        " times as long."
    ]
    good = found["How good is the result?"]
    assert [sentence.split(":")[0] for sentence in good] == [
        *("MMLU", "AGIEval", "WinoGrande", "GSM8K", "MT-Bench", "Validation loss")
    ]
    column = verdicts.panels["tiny", "world-chat"]["gsm8k"].verdict
    best = column.order[0]
    assert good[3].startswith(f"GSM8K: {best}, {100 * column.means[best]:.1f} %; not distinguishable from it: ")
    assert not any("vanilla" in sentence for sentence in good)


def test_claims_are_answered_where_any_were_made(tree):
    _, _, rows, verdicts = tree
    about = {"model": rows[0].key[0], "data": rows[0].key[1], "claim": "full is best"}
    told = [("reversed", "GSM8K"), ("not seen", "MMLU"), ("reversed", "MT-Bench")]
    lines = [about | {"verdict": verdict, "score": score, "seeds": 2} for verdict, score in told]
    elsewhere = lines[0] | {"model": "another"}
    assert answers_of(rows, verdicts, [*lines, elsewhere])["What was claimed?"] == [
        "full is best: reversed in GSM8K and MT-Bench; not seen in MMLU."
    ]
    lines[0]["seeds"] = 1
    assert answers_of(rows, verdicts, lines)["What was claimed?"][1].startswith("One seed: said of the trained models")


def test_where_nothing_is_told_apart_no_row_is_called_the_winner(tree):
    _, _, rows, _ = tree
    items = np.random.default_rng(0).integers(0, 2, (3, 3, 80)).astype(float)
    verdict = compare({name: Values((items[place],)) for place, name in enumerate("abc")}, accuracy=True, bounds=(0, 1))
    column = Column("gsm8k", "GSM8K", "%", 100.0, 1, verdict, "")
    (told,) = answers_of(rows, Verdicts({rows[0].key[:2]: {"gsm8k": column}}))["How good is the result?"]
    assert told.startswith("GSM8K: no row is told apart from another with 3 pairs tested at once; ")
    assert told.endswith(f"{verdict.order[0]} has the best mean, {100 * verdict.means[verdict.order[0]]:.1f} %.")


def test_one_seed_is_said_where_scores_are_answered(tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment(seeds=(0,)))
    fixture_tree.write_items(tmp_path, plan)
    rows = rows_of(plan, tmp_path)
    good = answers_of(rows, significance(rows, plan))["How good is the result?"]
    assert good[-1] == "One seed: said of the trained models at hand, not of their methods."
    assert sum("One seed" in sentence for sentence in good) == 1


def test_out_of_memory_is_an_answer_and_so_is_nothing(tree, tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment())
    fixture_tree.write_stopped(tmp_path, fixture_tree.run_of(plan, "full", 0), "oom", "train", "too large")
    assert "Out of memory here: full." in answers_of(rows_of(plan, tmp_path), UNTESTED)["Will it fit?"]
    for run in plan["runs"]:
        for file in (tmp_path / run["path"]).iterdir():
            file.unlink()
    found = answers_of(rows_of(plan, tmp_path), UNTESTED)
    assert list(found.values()) == [
        ["No run has a metered peak."],
        ["No row has steady step times."],
        ["Nothing was scored."],
    ]


def test_rows_whose_seeds_were_timed_under_another_load_are_named_and_not_counted(tmp_path):
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment())
    file = tmp_path / fixture_tree.run_of(plan, "lora", 1)["path"] / "run.json"
    record = json.loads(file.read_text())
    record["time"]["step_median_s"] *= 2
    fixture_tree.write(file, record)
    rows = rows_of(plan, tmp_path)
    told = answers_of(rows, UNTESTED)["How fast is it?"]
    assert told[0].startswith("Shortest step of the 4 rows that count: ") and "lora r128" in told[1]
    trade = pareto_figure(rows, styles(rows), UNTESTED, plan)
    assert trade.caption.endswith("since their seeds differ by more than 20 %: lora r128.")
    against_time = next(choice for choice in trade.choices if choice["label"] == "GSM8K against step time")
    shown = dict(zip((trace["name"] for trace in trade.plot["data"]), against_time["traces"], strict=True))
    assert [name for name, trace in shown.items() if trace.get("showlegend") is False] == ["lora r128"]
    speed = speed_figure(rows, styles(rows))
    assert [text.endswith("(unsteady)") for text in speed.plot["data"][1]["text"]] == [
        row.label == "lora r128" for row in rows if row.first.method != "vanilla"
    ]


def test_peaks_are_grouped_by_the_smallest_card_that_has_room():
    assert fits_words({"lisa": 21e9, "lora": 25.2e9, "full": 60e9}) == "24 GB: lisa, lora; 80 GB: full"
    assert fits_words({"full": 100e9, "lisa": 41e9}) == "40 GB: lisa; more than 80 GB: full"
    assert fits_words({"lisa": 2e9}) == "all fit on a card of 24 GB"


# --- figures


def test_the_front_holds_what_no_other_row_beats_in_both(tree):
    _, plan, rows, verdicts = tree
    figure = pareto_figure(rows, styles(rows), verdicts, plan)
    choice = next(choice for choice in figure.choices if choice["label"] == "GSM8K against peak memory")
    *points, front, base = choice["traces"]
    places = {
        trace["name"]: (point["x"][0], point["y"][0]) for trace, point in zip(figure.plot["data"], points, strict=False)
    }
    beaten = {
        name
        for name, (cost, score) in places.items()
        if any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in places.values())
    }
    pale = {
        trace["name"]
        for trace, point in zip(figure.plot["data"], points, strict=False)
        if point["marker"]["opacity"] < 1
    }
    assert pale == beaten and "full" not in beaten
    assert front["x"][:-1] == sorted(front["x"][:-1]) and front["y"] == sorted(front["y"])
    assert base["y"] == [pytest.approx(100 * rows[0].estimate("gsm8k").value)] * 2


def test_for_a_loss_the_front_runs_down(tree):
    _, plan, rows, verdicts = tree
    choices = pareto_figure(rows, styles(rows), verdicts, plan).choices
    front = next(choice for choice in choices if choice["label"].startswith("Validation loss"))["traces"][-2]
    assert front["y"] == [pytest.approx(loss, abs=0.005) for loss in (1.31, 1.16, 1.16, 1.11, 1.11)]


def test_every_score_can_be_set_against_every_cost(tree):
    _, plan, rows, verdicts = tree
    figure = pareto_figure(rows, styles(rows), verdicts, plan)
    scores, costs = figure.selectors
    assert costs.options == ["peak memory", "step time"]
    assert [choice["label"] for choice in figure.choices] == [
        f"{s} against {c}" for s in scores.options for c in costs.options
    ]


def test_bars_of_the_trade_are_the_intervals_of_the_tables(tree):
    _, plan, rows, verdicts = tree
    figure = pareto_figure(rows, styles(rows), verdicts, plan)
    choice = next(choice for choice in figure.choices if choice["label"].startswith("GSM8K"))
    cell, point = verdicts.of(rows[1], "gsm8k"), choice["traces"][0]
    assert point["y"][0] + point["error_y"]["array"][0] == pytest.approx(cell.high)
    assert point["y"][0] - point["error_y"]["arrayminus"][0] == pytest.approx(cell.low)


def test_differences_stand_against_full_fine_tuning_or_the_row_that_is_asked_for(tree):
    _, plan, rows, verdicts = tree
    assert reference_of(rows, plan).label == "full"
    chosen = plan | {"report": {"reference": "lisa/gamma4"}}
    figure = forest_figure(rows, styles(rows), verdicts, chosen)
    assert figure.title == "Differences from lisa gamma4"
    assert reference_of([row for row in rows if row.first.method != "full"], plan).label == "lora r128"
    column = verdicts.panels["tiny", "world-chat"]["gsm8k"]
    points, texts = next(choice for choice in figure.choices if choice["label"] == "GSM8K")["traces"]
    for place, name in enumerate(points["y"]):
        pair = next(d for d in column.verdict.differences if {d.a, d.b} == {name, "lisa gamma4"})
        sign = 1 if pair.a == name else -1
        assert points["x"][place] == pytest.approx(100 * sign * pair.value)
        assert points["marker"]["symbol"][place] == ("circle" if pair.apart else "circle-open")
        assert texts["text"][place].strip().startswith(f"{100 * sign * pair.value:+.1f} [")


def test_nothing_tested_draws_no_differences(tree):
    _, plan, rows, _ = tree
    assert forest_figure(rows, styles(rows), UNTESTED, plan) is None


def test_published_numbers_stand_on_our_intervals(tree):
    folder, plan, rows, verdicts = tree
    real = plan | {"data_root": "real", "report": {"published": ["table2_accuracy"]}}
    lines = versus(rows, real, verdicts)
    assert published_figure(lines) is None, "no benchmark of the tree is whole"
    line = next(line for line in lines if line["ours_low"] is not None)
    figure = published_figure([line | {"difference": 1.0, "reproduces": "yes"}])
    ours, published = figure.plot["data"]
    assert published["x"] == [float(line["published"])] and ours["x"] == [line["ours"]]
    assert ours["marker"]["symbol"] == ["circle"]


def test_lines_of_cards_are_drawn_where_bars_come_near_them():
    assert list(drawn_cards(0.2)) == [] and card_lines(0.2) == {"shapes": [], "annotations": []}
    assert list(drawn_cards(20)) == ["24 GB"] and list(drawn_cards(60)) == ["24 GB", "40 GB", "80 GB"]
    lines = card_lines(60)
    assert [note["text"] for note in lines["annotations"]] == ["24 GB", "40 GB", "80 GB"]
    assert lines["shapes"][0]["x0"] == pytest.approx(23.52 * 2**30 / 1e9)


# --- the rest of the page


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("61.87 [55.1, 68.4] ab", ("61.87", "[55.1, 68.4]", "ab")),
        ("0.1395 [0.1375, 0.1415]", ("0.1395", "[0.1375, 0.1415]", "")),
        ("1,234 ± 5", ("1,234 ± 5", "", "")),
        ("a word [of] many", ("a word [of] many", "", "")),
    ],
)
def test_a_cell_is_parted_into_value_interval_and_letters(cell, parts):
    assert parted(cell) == parts


def test_every_row_has_the_command_that_makes_it_again(tree):
    _, plan, rows, _ = tree
    found = dict(row_commands(plan, rows))
    assert list(found) == [row.label for row in rows]
    path = "results/fixture/tiny/world-chat/lora/r128/seed{0,1,2}/{run,scores,mt_bench}.json"
    assert found["lora r128"] == f".venv/bin/snakemake --cores all --configfile reproduce.json -- {path}"
