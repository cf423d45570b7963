"""The sweep curves: every finished trial is on its row's line, the chosen one ringed, a stopped one at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report import fixture_tree, tuned_tree
from tests.report.reader import HOSTILE, Reader
from workflow.report.drawing import KNOWN_COLOURS, Figure, styles
from workflow.report.tuning_figure import tuning_figure
from workflow.stages.report import report


@pytest.fixture
def plan() -> dict[str, Any]:
    return tuned_tree.experiment()


@pytest.fixture
def tree(tmp_path: Path, plan: dict[str, Any]) -> Path:
    tuned_tree.write_tree(tmp_path, plan)
    return tmp_path


def figure_of(plan: dict[str, Any], tree: Path) -> Figure:
    rows = fixture_tree.rows_of(plan, tree)
    figure = tuning_figure(rows, styles(rows), plan)
    assert figure is not None
    return figure


def lines_of(figure: Figure) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in figure.plot["data"] if trace["mode"] == "lines+markers"}


def test_a_rows_line_goes_through_its_finished_trials_on_log_axes(plan: dict[str, Any], tree: Path) -> None:
    figure = figure_of(plan, tree)
    lines = lines_of(figure)
    assert list(lines) == ["full", "lora r128", "galore", "lisa gamma2", "lisa gamma4"]
    assert list(lines["lora r128"]["x"]) == [1e-4, 1e-3, 1e-2]
    assert list(lines["lora r128"]["y"]) == pytest.approx([1.405, 1.105, 1.305])
    assert list(lines["galore"]["x"]) == [1e-4, 1e-3]
    assert {figure.plot["layout"][axis]["type"] for axis in ("xaxis", "yaxis")} == {"log"}
    assert lines["galore"]["line"]["color"] == KNOWN_COLOURS["galore"]


def test_the_chosen_trials_are_ringed_in_their_rows_colours(plan: dict[str, Any], tree: Path) -> None:
    (rings,) = [trace for trace in figure_of(plan, tree).plot["data"] if trace.get("name") == "chosen"]
    assert list(rings["x"]) == [1e-2, 1e-3, 1e-3, 1e-3, 1e-3]
    assert list(rings["y"]) == pytest.approx([1.205, 1.105, 1.205, 1.255, 1.255])
    methods = ("full", "lora", "galore", "lisa", "lisa")
    assert list(rings["marker"]["color"]) == [KNOWN_COLOURS[method] for method in methods]


def test_stopped_trials_stand_above_every_loss_with_their_status(plan: dict[str, Any], tree: Path) -> None:
    for trial in tuned_tree.trials_of(plan, "full")[-1:]:
        tuned_tree.write_trial(tree, trial, None)
    figure = figure_of(plan, tree)
    full, galore = (trace for trace in figure.plot["data"] if trace["mode"] == "markers+text")
    assert (list(full["text"]), list(galore["text"])) == (["ok 1 of 2, diverged 1 of 2 "], ["diverged "])
    assert list(full["x"]) == list(galore["x"]) == [1e-2]
    highest = max(loss for line in lines_of(figure).values() for loss in line["y"])
    top = 10 ** figure.plot["layout"]["yaxis"]["range"][1]
    assert highest < full["y"][0] < galore["y"][0] < top
    assert "Crosses at the top" in figure.caption


def test_without_a_stopped_trial_no_cross_is_spoken_of(plan: dict[str, Any], tree: Path) -> None:
    for trial in tuned_tree.trials_of(plan, "galore"):
        tuned_tree.write_trial(tree, trial, 1.4)
    figure = figure_of(plan, tree)
    assert "Crosses" not in figure.caption
    assert {trace["mode"] for trace in figure.plot["data"]} == {"lines+markers", "markers"}


def test_swept_values_have_lines_of_their_own_that_look_different(tmp_path: Path) -> None:
    plan = tuned_tree.write_tree(tmp_path, tuned_tree.experiment(rank=(64, 128, 256)))
    figure = figure_of(plan, tmp_path)
    mine = [line for name, line in lines_of(figure).items() if name.startswith("lora")]
    assert [line["name"] for line in mine] == [f"lora r128, rank {rank}" for rank in (64, 128, 256)]
    assert len({line["line"]["dash"] for line in mine}) == len({line["marker"]["symbol"] for line in mine}) == 3
    assert {line["line"]["color"] for line in mine} == {KNOWN_COLOURS["lora"]}


def test_trials_that_all_stopped_make_a_figure_too(plan: dict[str, Any], tree: Path) -> None:
    for trial in plan["trials"]:
        tuned_tree.write_trial(tree, trial, None)
    traces = figure_of(plan, tree).plot["data"]
    assert sum(len(trace["x"]) for trace in traces if trace["mode"] == "markers+text") == 15


def test_a_loss_of_nothing_at_all_makes_a_figure_too(plan: dict[str, Any], tree: Path) -> None:
    for trial in tuned_tree.trials_of(plan, "full")[:2]:
        fixture_tree.write(tree / trial["path"] / "run.json", tuned_tree.record_of(trial) | {"tuning_loss": 0.0})
    lowest, highest = figure_of(plan, tree).plot["layout"]["yaxis"]["range"]
    assert -7 < lowest < -5 and highest > 0


@pytest.mark.parametrize(
    ("lowest", "highest", "shown"),
    [
        (5e-4, 2e-2, {"0.0005", "0.001", "0.002", "0.005", "0.01", "0.02"}),
        (1e-6, 1e-1, {"1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1"}),
    ],
)
def test_learning_rates_stand_in_whole_at_the_axis(
    plan: dict[str, Any], tree: Path, lowest: float, highest: float, shown: set[str]
) -> None:
    for trial in plan["trials"]:
        trial["learning_rate"] = (lowest, (lowest * highest) ** 0.5, highest)[trial["trial"]]
    ticks = figure_of(plan, tree).plot["layout"]["xaxis"]
    within = [text for text, x in zip(ticks["ticktext"], ticks["tickvals"], strict=True) if lowest <= x <= highest]
    assert set(within) == shown


def test_without_tuning_there_is_no_figure(tmp_path: Path) -> None:
    plan = fixture_tree.write_tree(tmp_path)
    rows = fixture_tree.rows_of(plan, tmp_path)
    assert tuning_figure(rows, styles(rows), plan) is None


def test_the_figure_is_on_the_page_and_its_texts_are_escaped(tmp_path: Path, plan: dict[str, Any]) -> None:
    hostile = HOSTILE.replace("/", "")  # a variant is a folder
    for run in [*plan["runs"], *plan["trials"]]:
        if run["method"] == "galore":
            run["variant"] = hostile
            run["path"] = run["path"].replace("galore/default", f"galore/{hostile}")
    tuned_tree.write_tree(tmp_path, plan)
    assert report(plan, tmp_path) == []
    page = (tmp_path / "report.html").read_text()
    assert hostile not in page
    names = [trace["name"] for trace in Reader(page).plots["figure-1-tuning"]["plot"]["data"] if "name" in trace]
    assert any("&lt;script" in name for name in names) and not any("<" in name for name in names)
