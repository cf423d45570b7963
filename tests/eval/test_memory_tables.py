"""A memory experiment's tables put published, predicted and measured side by side, and say what follows from it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from eval import EvaluationError, memory_present, reproduction
from eval.memory_cells import MemoryCell, collect, devices
from eval.memory_tables import ablation, changed, memory, rounding, speed
from eval.reproduction import AS_GB, AS_GIB, BOTH, NEITHER, remarks, slopes
from eval.tables import COMPONENTS, write_csv
from eval.text import to_markdown
from tests.report import memory_tree
from tests.report.fixture_tree import write
from tests.report.memory_tree import DEVICE, GB, cell_of

FULL_7B = "llama-2-7b/full/default/default"
SLUG = "imaginary_gpu_80_gb"


@pytest.fixture
def plan(tmp_path):
    return memory_tree.write_tree(tmp_path / "results")


@pytest.fixture
def cells_of(tmp_path, plan):
    return lambda: collect(plan, tmp_path / "results", tmp_path / "reference")


def row_of(rows, model, method, variant="default", setting=None):
    return next(
        row
        for row in rows
        if (row["model"], row["method"], row["variant"]) == (model, method, variant)
        and setting in (None, row["setting"])
    )


def set_peak(folder, cell, peak_bytes):
    write(folder / cell["path"] / "simulated.json", memory_tree.simulated(cell) | {"peak_bytes": peak_bytes})


# --- reading


def test_every_cell_is_read_in_the_order_of_the_plan(plan, cells_of):
    assert [cell.path for cell in cells_of()] == [cell["path"] for cell in plan["cells"]]
    assert all(cell.simulated for cell in cells_of())


def test_a_missing_prediction_keeps_its_row(tmp_path, plan, cells_of):
    (tmp_path / "results" / FULL_7B / "simulated.json").unlink()
    row = row_of(memory(cells_of(), plan), "llama-2-7b", "full")
    assert (row["status"], row["predicted_peak_bytes"], row["published"]) == ("not simulated", None, "59")
    assert "log" in row["reason"]


def test_a_prediction_of_other_settings_is_not_used(tmp_path, plan, cells_of):
    cell = cell_of(plan, FULL_7B)
    other = memory_tree.simulated(cell) | {"conditions": cell["conditions"] | {"batch_size": 4}}
    write(tmp_path / "results" / FULL_7B / "simulated.json", other)
    found = next(cell for cell in cells_of() if cell.path == FULL_7B)
    assert not found.simulated and "batch_size: 4, planned 1" in found.reason


def test_a_prediction_without_its_peak_is_one_line(tmp_path, plan, cells_of):
    file = tmp_path / "results" / FULL_7B / "simulated.json"
    content = json.loads(file.read_text())
    del content["peak_bytes"]
    write(file, content)
    with pytest.raises(EvaluationError, match="'peak_bytes' is missing"):
        cells_of()


def test_measurements_come_from_the_results_and_from_references_of_several_devices(tmp_path, plan, cells_of):
    cell = cell_of(plan, FULL_7B)
    memory_tree.measure(tmp_path / "results", cell)
    memory_tree.measure(tmp_path / "reference" / "other" / plan["name"], cell, excess=0.05, device="Other GPU")
    found = next(cell for cell in cells_of() if cell.path == FULL_7B)
    assert devices(cells_of()) == [DEVICE, "Other GPU"]
    assert found.allocated_bytes("Other GPU") == round(1.05 * found.peak_bytes)
    row = row_of(memory(cells_of(), plan), "llama-2-7b", "full")
    assert row[f"measured_{SLUG}_over_predicted_percent"] == pytest.approx(2)
    assert row["measured_other_gpu_over_predicted_percent"] == pytest.approx(5)


def test_ones_own_measurement_comes_before_the_reference_of_the_same_device(tmp_path, plan, cells_of):
    cell = cell_of(plan, FULL_7B)
    memory_tree.measure(tmp_path / "reference" / "gpu" / plan["name"], cell, excess=0.5)
    memory_tree.measure(tmp_path / "results", cell, excess=0.01)
    row = row_of(memory(cells_of(), plan), "llama-2-7b", "full")
    assert row[f"measured_{SLUG}_over_predicted_percent"] == pytest.approx(1)


def test_a_measurement_of_other_settings_is_not_used_and_named(tmp_path, plan, cells_of):
    cell = cell_of(plan, FULL_7B)
    other = cell | {"conditions": cell["conditions"] | {"attention": "eager"}}
    memory_tree.measure(tmp_path / "results", other)
    found = next(cell for cell in cells_of() if cell.path == FULL_7B)
    assert not found.measured and "attention: eager, planned sdpa" in found.unused[0]


@pytest.mark.parametrize("status", ["oom", "failed"])
def test_a_measurement_that_stopped_is_an_outcome_and_no_number(tmp_path, plan, cells_of, status):
    memory_tree.measure(tmp_path / "results", cell_of(plan, FULL_7B), status=status)
    row = row_of(memory(cells_of(), plan), "llama-2-7b", "full")
    assert row[f"measured_{SLUG}_outcome"] == f"{status} (train)"
    assert row[f"measured_{SLUG}_allocated_bytes"] is None
    table = memory_present.memory_table(memory(cells_of(), plan), plan, [DEVICE])
    assert f"{status} (train)" in to_markdown(table) and "not measured here" in to_markdown(table)


def test_tuples_of_a_plan_are_the_lists_of_its_files(tmp_path, plan, cells_of):
    cell = cell_of(plan, FULL_7B)
    cell["hyperparameters"] = {"target_modules": ("q_proj", "v_proj")}
    write(tmp_path / "results" / FULL_7B / "simulated.json", memory_tree.simulated(cell))
    assert next(found for found in cells_of() if found.path == FULL_7B).simulated


def test_a_measurement_that_never_drew_every_layer_is_named(tmp_path, plan, cells_of):
    path = "llama-2-7b/lisa/eh-2l/default"
    record = memory_tree.measured(cell_of(plan, path), 0.02, DEVICE, "ok")
    record["settings"] |= {"drawn_units": 32, "visited_units": 20, "periodic_cost_seen": True}
    write(tmp_path / "results" / path / "run.json", record)
    text = to_markdown(memory_present.memory_table(memory(cells_of(), plan), plan, [DEVICE]))
    assert f"{path} on {DEVICE} (20 of 32 units drawn)" in text


# --- memory


def test_components_add_up_to_the_predicted_peak(plan, cells_of):
    for row in memory(cells_of(), plan):
        assert sum(row[f"{role}_bytes"] for role in COMPONENTS) == row["predicted_peak_bytes"]


def test_gb_and_gib_are_both_in_the_csv_and_differ_by_seven_percent(tmp_path, plan, cells_of):
    write_csv(memory(cells_of(), plan), tmp_path / "memory.csv")
    with (tmp_path / "memory.csv").open() as stream:
        for row in csv.DictReader(stream):
            ratio = float(row["predicted_peak_gb"]) / float(row["predicted_peak_gib"])
            assert ratio == pytest.approx(2**30 / 1e9)


def test_errors_are_against_the_published_figure_in_both_readings(plan, cells_of):
    row = row_of(memory(cells_of(), plan), "llama-2-7b", "full")
    assert row["predicted_over_published_percent"] == pytest.approx(100 * (54.0 / 59 - 1))
    assert row["predicted_over_published_if_gib_percent"] == pytest.approx(100 * (54e9 / 2**30 / 59 - 1))


def test_a_figure_per_card_and_an_oom_have_no_error_and_say_why(plan, cells_of):
    rows = memory(cells_of(), plan)
    per_card, oom = row_of(rows, "llama-2-70b", "lisa", "eh"), row_of(rows, "llama-2-70b", "full")
    assert per_card["published"] == "71" and "per card" in per_card["not_compared"]
    assert oom["published"] == "OOM" and oom["predicted_peak_gb"] == pytest.approx(556)
    assert per_card["predicted_over_published_percent"] is oom["predicted_over_published_percent"] is None


def test_without_published_tables_there_are_no_published_columns(plan, cells_of):
    plan["report"]["published"] = []
    rows = memory(cells_of(), plan)
    assert not [key for key in rows[0] if "published" in key]
    assert "ublished" not in to_markdown(memory_present.memory_table(rows, plan, []))
    assert remarks(cells_of(), plan) == reproduction.reproduction(cells_of(), plan) == []


def test_nothing_measured_is_said_in_every_row(plan, cells_of):
    table = memory_present.memory_table(memory(cells_of(), plan), plan, [])
    place = table.header.index("Measured")
    assert {cells[place] for cells in table.body} == {"not measured here"}


# --- settings


def test_a_setting_is_held_against_the_base_of_its_own_method(plan, cells_of):
    row = row_of(ablation(cells_of(), plan), "llama-2-7b", "lora", "r128", "foreach")
    assert row["change_gb"] == pytest.approx(1.34) and row["base_peak_bytes"] == round(21.5 * GB)
    assert row["changed"] == "adamw_implementation: foreach (fused)"
    assert sum(row[f"{role}_change_bytes"] for role in COMPONENTS) == row["change_bytes"]


def test_changed_names_hyperparameters_too_and_counts_lists(plan):
    plain = cell_of(plan, "llama-2-7b/lora/r128/default")
    more = plain | {"hyperparameters": {"rank": 128, "dropout": 0.1, "target_modules": ["a", "b", "c", "d"]}}
    base, cell = (MemoryCell(planned, Path()) for planned in (plain, more))
    assert changed(cell, base) == "dropout: 0.1 (none); target_modules: a list of 4 (none)"


def test_an_experiment_without_settings_has_an_empty_table_that_says_so(plan, cells_of):
    plan["cells"] = [cell for cell in plan["cells"] if cell["setting"] == "default"]
    rows = ablation(cells_of(), plan)
    assert rows == []
    assert "varies no setting" in to_markdown(memory_present.ablation_table(rows, plan, []))


# --- speed


def test_the_bound_is_the_flops_of_full_over_those_of_the_method(plan, cells_of):
    rows = speed(cells_of(), plan)
    full, lisa = row_of(rows, "llama-2-7b", "full"), row_of(rows, "llama-2-7b", "lisa", "eh-2l")
    assert lisa["speedup_bound"] == pytest.approx(full["flops_total"] / lisa["flops_total"])
    assert full["speedup_bound"] == 1


def test_a_published_ratio_above_the_bound_exceeds_it_and_rounding_is_granted(plan, cells_of):
    rows = speed(cells_of(), plan)
    assert row_of(rows, "llama-2-7b", "lisa", "eh-2l")["verdict"] == "exceeds the FLOP bound"
    assert row_of(rows, "llama-2-7b", "full")["verdict"] == "within the FLOP bound"
    assert row_of(rows, "tinyllama", "lisa", "eh-2l")["verdict"] is None


def test_a_measured_speed_up_is_against_full_on_the_same_device(tmp_path, plan, cells_of):
    lisa = cell_of(plan, "llama-2-7b/lisa/eh-2l/default")
    memory_tree.measure(tmp_path / "results", lisa)
    key = f"measured_{SLUG}_speedup_over_full"
    assert row_of(speed(cells_of(), plan), "llama-2-7b", "lisa", "eh-2l")[key] is None
    memory_tree.measure(tmp_path / "results", cell_of(plan, FULL_7B))
    assert row_of(speed(cells_of(), plan), "llama-2-7b", "lisa", "eh-2l")[key] == pytest.approx(1 / 0.69)


def test_at_a_setting_the_bound_is_against_full_under_the_same_conditions(tmp_path, plan, cells_of):
    path = "llama-2-7b/full/default/checkpointing"
    content = memory_tree.simulated(cell_of(plan, path))
    content["flops"]["total"] *= 2
    write(tmp_path / "results" / path / "simulated.json", content)
    rows = speed(cells_of(), plan)
    base, varied = (row_of(rows, "llama-2-7b", "lisa", "eh-2l", name) for name in ("default", "checkpointing"))
    assert varied["speedup_bound"] == pytest.approx(2 * base["speedup_bound"])
    assert varied["published_speedup_over_full"] is None


# --- what reproduces


@pytest.mark.parametrize(
    ("peak_gb", "verdict"), [(59.0, BOTH), (54.0, AS_GB), (66.0, AS_GIB), (40.0, NEITHER), (80.0, NEITHER)]
)
def test_the_verdict_names_the_reading_of_g_that_fits(tmp_path, plan, cells_of, peak_gb, verdict):
    set_peak(tmp_path / "results", cell_of(plan, FULL_7B), round(peak_gb * GB))
    rows = reproduction.reproduction(cells_of(), plan)
    assert next(row for row in rows if row["our_cell"] == FULL_7B)["verdict"] == verdict


def test_an_oom_agrees_only_where_the_whole_exceeds_all_cards(tmp_path, plan, cells_of):
    rows = reproduction.reproduction(cells_of(), plan)
    verdicts = {row["our_cell"]: row["verdict"] for row in rows}
    assert verdicts["llama-2-70b/full/default/default"] == "OOM agrees: more than 4 x 80 GB"
    assert verdicts["llama-2-70b/lora/r256/default"] == "OOM not explained: an even split would fit 4 x 80 GB"
    assert verdicts["llama-2-70b/lisa/eh/default"] == "not compared: per card"


def badam(tmp_path, **largest_gb):
    """A plan of BAdam's table: five methods on Llama-3-8B, each with so many GB of a component at most."""
    plan = memory_tree.experiment() | {"report": {"published": ["badam_memory"]}}
    plan |= {"card": "RTX 3090", "card_bytes": 25_300_000_000}
    cell = next(cell for cell in plan["cells"] if cell["path"] == "tinyllama/lora/r128/default")
    rows = (("full_fp32_master", {}), ("lomo", {}), ("lora", {"rank": 100}), ("lora", {"rank": 8}), ("badam", {}))
    plan["cells"] = [
        cell
        | {
            "path": f"{place}/m/v/default",
            "published_as": "Llama-3-8B",
            "method": name,
            "hyperparameters": hyperparameters,
        }
        for place, (name, hyperparameters) in enumerate(rows)
    ]
    largest = {role: round(size * GB) for role, size in largest_gb.items()}
    for cell in plan["cells"]:
        simulated = memory_tree.simulated(cell | {"method": "lora"}) | {"largest": largest}
        simulated["method"]["hyperparameters"] = cell["hyperparameters"]
        write(tmp_path / "badam" / cell["path"] / "simulated.json", simulated)
    return plan


def test_published_components_stand_beside_the_most_of_ours_in_a_step(tmp_path):
    plan = badam(tmp_path, weights=16.0, gradients=0.144, optimizer_state=90.0)
    rows = reproduction.parts(collect(plan, tmp_path / "badam", tmp_path / "none"), plan)
    found = {(row["method"], row["variant"], row["component"]): row for row in rows}
    assert len(rows) == 18 - 5  # all but the peaks
    adam = found["full_fp32_master", "Adam", "weights"]
    assert (adam["published"], adam["predicted_gb"], adam["verdict"]) == ("16.1", 16.0, BOTH)
    assert adam["error_percent"] == pytest.approx(100 * (16.0 / 16.1 - 1))
    assert found["full_fp32_master", "Adam", "optimizer_state"]["verdict"] == AS_GB
    assert found["lora", "r8", "gradients"]["verdict"] == BOTH  # 0.1 is 0.05 to 0.15
    assert found["lora", "r100", "gradients"]["verdict"] == NEITHER
    assert ("badam", "", "weights") not in found  # the table leaves it empty


def test_components_without_a_cell_or_a_prediction_keep_their_lines(tmp_path):
    plan = badam(tmp_path, weights=16.0)
    plan["cells"] = plan["cells"][:2]
    content = memory_tree.simulated(plan["cells"][0] | {"method": "lora"})  # of before `largest`
    content["method"]["hyperparameters"] = {}
    write(tmp_path / "badam" / plan["cells"][0]["path"] / "simulated.json", content)
    rows = reproduction.parts(collect(plan, tmp_path / "badam", tmp_path / "none"), plan)
    verdicts = {(row["method"], row["variant"]): row["verdict"] for row in rows if row["component"] == "weights"}
    assert verdicts["full_fp32_master", "Adam"] == "not simulated"
    assert verdicts["lora", "r8"] == "no cell of ours"
    table = to_markdown(memory_present.parts_table(rows, plan))
    assert "Optimizer state" in table and "as reprinted in K. Yuan's lecture" in table


@pytest.mark.parametrize(
    ("peak_gb", "verdict", "fits"),
    [
        (22.9, "OOM not explained: it would fit RTX 3090 (25.3 GB)", True),
        (25.4, "OOM agrees: more than RTX 3090 (25.3 GB)", False),
    ],
)
def test_an_oom_on_one_card_is_held_against_the_experiments_card(tmp_path, peak_gb, verdict, fits):
    plan = badam(tmp_path)
    for cell in plan["cells"]:
        file = tmp_path / "badam" / cell["path"] / "simulated.json"
        write(file, json.loads(file.read_text()) | {"peak_bytes": round(peak_gb * GB)})
    cells = collect(plan, tmp_path / "badam", tmp_path / "none")
    verdicts = {row["variant"]: row["verdict"] for row in reproduction.reproduction(cells, plan)}
    assert (verdicts["r100"], verdicts["Adam"]) == (verdict, "published 144.8+")
    rows = memory(cells, plan)
    assert {row["fits_card"] for row in rows} == {fits}
    text = to_markdown(memory_present.memory_table(rows, plan, []))
    assert "Fits RTX 3090 (25.3 GB for a process)" in text


def test_without_a_card_no_table_asks_whether_a_peak_fits(plan, cells_of):
    rows = memory(cells_of(), plan)
    assert "fits_card" not in rows[0]
    assert "Fits" not in to_markdown(memory_present.memory_table(rows, plan, []))


def test_published_cells_that_none_of_ours_answers_to_are_listed(plan, cells_of):
    rows = reproduction.reproduction(cells_of(), plan)
    assert len(rows) == 42
    assert {row["verdict"] for row in rows if row["model"] == "Phi-2"} == {"no cell of ours"}


def test_the_closest_setting_is_the_one_whose_prediction_is_nearest(plan, cells_of):
    rows = reproduction.reproduction(cells_of(), plan)
    assert next(row for row in rows if row["our_cell"] == FULL_7B)["closest_setting"] == "eager"
    assert next(row for row in rows if row["model"] == "TinyLlama")["closest_setting"] is None


def test_a_slope_holds_within_the_rounding_of_both_figures(plan, cells_of):
    found = {(row["model"], row["from_variant"], row["to_variant"]): row for row in slopes(cells_of(), plan)}
    assert found["LLaMA-2-7B", "r128", "r256"]["verdict"] == "within rounding"  # 3 +- 1, ours 2.0
    assert found["LLaMA-2-7B", "r256", "r512"]["verdict"] == "outside rounding"  # 2 +- 1, ours 3.9
    assert found["TinyLlama", "r256", "r512"]["rounding"] == pytest.approx(0.55)  # 8.6 and 10
    assert not [key for key in found if key[0] == "LLaMA-2-70B"]


def test_rounding_is_half_a_unit_of_the_last_digit():
    assert [rounding(printed) for printed in ("59", "7.9", "0.63")] == [0.5, pytest.approx(0.05), pytest.approx(0.005)]


def test_remarks_find_the_identical_figures_of_two_models(plan, cells_of):
    said = " ".join(remarks(cells_of(), plan))
    assert "Mistral-7B and LLaMA-2-7B: the published figures are identical in all 7 cells" in said
    assert "TinyLlama and" not in said


def test_remarks_name_the_pairs_out_of_order(tmp_path, plan, cells_of):
    assert "LLaMA-2-7B: of 7 cells " in " ".join(remarks(cells_of(), plan))
    set_peak(tmp_path / "results", cell_of(plan, "llama-2-7b/lisa/eh/default"), round(24.0 * GB))
    said = next(text for text in remarks(cells_of(), plan) if text.startswith("LLaMA-2-7B"))
    assert "not lora r128 and lisa E+H" in said and "lisa E+H and lisa E+H+2L" in said


def test_remarks_hold_the_published_speed_up_and_forward_times_against_flops(plan, cells_of):
    said = " ".join(remarks(cells_of(), plan))
    assert "at most 1.50x over full" in said
    assert "lisa eh-2l, lisa eh-4l: published 2.9x over full; FLOPs allow 1.45x: skipped work alone cannot" in said
    assert "0.63 s and full's 1.79 s, 2.8x as long; by FLOPs it is 1.00x" in said
