"""The page of a memory experiment: complete, escaped, self-contained, and plain about what was not measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.memory_cells import collect
from eval.tables import COMPONENTS
from tests.report import memory_tree
from tests.report.fixture_tree import write
from tests.report.memory_tree import DEVICE, GB, cell_of
from tests.report.reader import HOSTILE, SIX_MB, Reader
from workflow.report.memory_figures import read_timeline, timeline_figure
from workflow.stages.memory_report import write_page

ROOT = Path(__file__).parents[2]
FULL_7B = "llama-2-7b/full/default/default"


@pytest.fixture
def plan(tmp_path):
    return memory_tree.write_tree(tmp_path)


def page_of(plan, folder):
    write_page(plan, collect(plan, folder, folder / "no-reference"), folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def read(plan, folder):
    return Reader(page_of(plan, folder))


def traces_of(reader, figure):
    return {trace.get("name"): trace for trace in reader.plots[f"figure-{figure}"]["plot"]["data"]}


# --- the page


def test_the_page_asks_for_no_other_file_and_is_small(tmp_path, plan):
    for cell in plan["cells"]:
        memory_tree.measure(tmp_path, cell)
    page = page_of(plan, tmp_path)
    addresses = [value for _, name, value in Reader(page).attributes if name in ("src", "href", "action")]
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses), addresses
    assert len(page.encode()) < SIX_MB


def test_the_header_says_the_conditions_the_packages_and_that_nothing_was_measured(tmp_path, plan):
    header = page_of(plan, tmp_path).split("<main>")[0]
    for words in ("batch 1, 1024 tokens", "bf16", "no gradient checkpointing", "fused AdamW", "torch 2.13.0"):
        assert words in header
    assert "Nothing was measured here" in header


def test_the_header_names_the_device_and_how_many_cells_it_measured(tmp_path, plan):
    memory_tree.measure(tmp_path, cell_of(plan, FULL_7B))
    header = page_of(plan, tmp_path).split("<main>")[0]
    assert f"Measured on {DEVICE} (1 of {len(plan['cells'])} cells)" in header


def test_text_from_records_is_escaped_everywhere(tmp_path):
    plan = memory_tree.experiment()
    plan["cells"] = [cell | {"variant": f"v{HOSTILE}", "model": HOSTILE} for cell in plan["cells"][:9]]
    for number, cell in enumerate(plan["cells"]):
        cell["path"] = f"cell{number}"
    plan["cells"][-1] |= {"setting": HOSTILE}
    plan["name"] = HOSTILE
    for cell in plan["cells"]:
        write(tmp_path / cell["path"] / "simulated.json", simulated_as(cell))
        memory_tree.write_timeline(tmp_path / cell["path"] / "simulated_timeline.csv", 10 * GB)
        write(tmp_path / cell["path"] / "run.json", measured_as(cell))
    page = page_of(plan, tmp_path)
    assert HOSTILE not in page and "<script>alert" not in page
    reader = Reader(page)
    assert HOSTILE in reader.text
    assert reader.tags.count("script") == 2 + len(reader.plots)
    shown = json.dumps([plot["plot"] for plot in reader.plots.values()])
    assert "&lt;script" in shown and "<script" not in shown


def simulated_as(cell):
    """The prediction of the first cell under another cell's name, with a hostile operator."""
    first = memory_tree.experiment()["cells"][0]
    about = {key: cell[key] for key in ("variant", "hyperparameters")}
    method = {"name": cell["method"], **about}
    return memory_tree.simulated(first) | {"method": method, "conditions": cell["conditions"], "operator": HOSTILE}


def measured_as(cell):
    first = memory_tree.experiment()["cells"][0]
    record = memory_tree.measured(first, 0.02, f"GPU {HOSTILE}", "ok")
    return record | {"method": {**record["method"], "hyperparameters": cell["hyperparameters"]}}


def test_the_commands_to_simulate_and_to_measure_stand_on_the_page(tmp_path, plan):
    text = read(plan, tmp_path).text
    file, one = "--experiment results/memory-fixture/experiment.json", plan["cells"][0]["path"]
    assert f"-m workflow.stages.measure {file}" in text
    assert f"-m workflow.stages.simulate {file} --cell {one}" in text
    assert ".venv/bin/snakemake --cores all --configfile reproduce.json" in text
    assert '"cells"' not in text and '"settings"' in text


def test_what_reproduces_is_a_section_only_where_something_is_published(tmp_path, plan):
    assert "What reproduces and what does not" in read(plan, tmp_path).text
    plan["report"]["published"] = []
    reader = read(plan, tmp_path)
    assert "What reproduces" not in reader.text and "ublished" not in reader.text.split("Reproduce")[0]
    assert "published (G)" not in traces_of(reader, "memory-llama_2_7b")


def test_notes_of_published_cells_are_footnotes(tmp_path, plan):
    text = read(plan, tmp_path).text
    assert "[1]" in text and "0.5 G parameters" in text


def test_files_of_other_settings_are_named(tmp_path, plan):
    cell = cell_of(plan, FULL_7B)
    memory_tree.measure(tmp_path, cell | {"conditions": cell["conditions"] | {"precision": "fp32"}})
    text = read(plan, tmp_path).text
    assert "precision: fp32, planned bf16" in text.split("Files not used")[-1]


# --- figures


def test_bars_of_components_add_up_to_the_prediction_and_marks_stand_where_they_were_measured(tmp_path, plan):
    memory_tree.measure(tmp_path, cell_of(plan, FULL_7B), excess=0.1)
    traces = traces_of(read(plan, tmp_path), "memory-llama_2_7b")
    bars = [traces[role.replace("_", " ")] for role in COMPONENTS]
    assert sum(bar["x"][0] for bar in bars) == pytest.approx(54.0)
    assert traces["measured"]["x"] == [pytest.approx(59.4)] and traces["measured"]["y"] == ["full"]
    assert traces["published (G)"]["x"][0] == 59


def test_figures_per_card_are_no_marks(tmp_path, plan):
    assert "published (G)" not in traces_of(read(plan, tmp_path), "memory-llama_2_70b")


def test_settings_are_drawn_for_each_method_where_they_vary(tmp_path, plan):
    reader = read(plan, tmp_path)
    traces = traces_of(reader, "settings-llama_2_7b")
    assert set(traces) == {"full", "lora r128", "lisa eh-2l"}
    assert traces["full"]["y"] == ["foreach", "eager", "checkpointing"]
    assert traces["full"]["x"] == pytest.approx([13.4, 6.4, -2.3])
    assert "figure-settings-tinyllama" not in reader.plots and "figure-range-tinyllama" not in reader.plots


def test_the_speed_figure_opens_at_the_model_with_published_times(tmp_path, plan):
    plot = read(plan, tmp_path).plots["figure-speed"]
    assert plot["choices"][0]["label"] == "llama-2-7b" and len(plot["choices"]) == 4
    traces = {trace["name"]: dict(zip(trace["y"], trace["x"], strict=True)) for trace in plot["plot"]["data"]}
    assert traces["published"]["lisa eh-2l"] == 2.9 and traces["allowed by FLOPs"]["lisa eh-2l"] < 1.5
    assert "full" not in traces["published"]


def test_a_thinned_timeline_keeps_its_peak_and_its_parts(tmp_path, plan):
    file = tmp_path / FULL_7B / "simulated_timeline.csv"
    whole, thin = read_timeline(file, 10_000), read_timeline(file, 40)
    assert len(whole) == 300 and len(thin) <= 40
    assert max(sum(roles) for *_, roles in whole) == max(sum(roles) for *_, roles in thin)
    assert list(dict.fromkeys(part for _, part, _ in thin)) == ["forward", "backward", "step"]


def test_the_timeline_marks_parts_and_peak_and_offers_measured_ones(tmp_path, plan):
    memory_tree.measure(tmp_path, cell_of(plan, FULL_7B))
    figure = timeline_figure(collect(plan, tmp_path, tmp_path / "no-reference"))
    labels = [choice["label"] for choice in figure.choices]
    assert labels[:2] == ["llama-2-7b, full, simulated", f"llama-2-7b, full, measured on {DEVICE}"]
    layout = figure.choices[0]["layout"]
    assert [note["text"] for note in layout["annotations"][:3]] == ["forward", "backward", "step"]
    peak = layout["annotations"][-1]
    assert peak["text"].startswith("peak 54.00 GB in step") and peak["y"] == pytest.approx(54.0)
    assert len(layout["shapes"]) == 3


# --- the stage


def stage(folder, *arguments):
    command = [sys.executable, "-m", "workflow.stages.memory_report", "--experiment", str(folder / "experiment.json")]
    return subprocess.run([*command, "--results", str(folder), *arguments], cwd=ROOT, capture_output=True, text=True)


def test_a_simulated_experiment_gives_all_tables_and_the_page(tmp_path, plan):
    done = stage(tmp_path)
    assert done.returncode == 0, done.stderr
    names = ("ablation", "memory", "reproduction", "slopes", "speed")
    wanted = sorted(f"{name}.{kind}" for name in names for kind in ("csv", "md", "tex"))
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == wanted
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")


def test_a_missing_prediction_is_named_and_everything_is_written_all_the_same(tmp_path, plan):
    (tmp_path / FULL_7B / "simulated.json").unlink()
    done = stage(tmp_path)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: 1 of 41 cells of memory-fixture are not simulated: " + FULL_7B)
    assert "not simulated" in (tmp_path / "report.html").read_text()
    assert stage(tmp_path, "--partial").returncode == 0


def test_a_page_is_made_even_when_nothing_was_simulated(tmp_path):
    plan = memory_tree.experiment()
    reader = read(plan, tmp_path)
    assert "41 of 41 cells are not simulated" in reader.text and not reader.plots


def test_measurements_that_ran_out_of_memory_are_results(tmp_path, plan):
    memory_tree.measure(tmp_path, cell_of(plan, FULL_7B), status="oom")
    assert stage(tmp_path).returncode == 0
    assert "oom (train)" in (tmp_path / "tables" / "memory.md").read_text()


def test_the_fixture_has_the_form_of_real_records(plan):
    from workflow.engine.records import check_record

    for cell in plan["cells"]:
        check_record(memory_tree.measured(cell, 0.02, DEVICE, "ok"))
