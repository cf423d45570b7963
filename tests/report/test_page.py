"""The page is whole: self-contained, escaped, small, and it says what was run and what did not come out."""

from __future__ import annotations

import json
import math
import re
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest

from tests.report import fixture_tree
from tests.report.reader import HOSTILE, SIX_MB, Reader
from workflow.report import page as page_module
from workflow.report.drawing import KNOWN_COLOURS, colours, styles
from workflow.stages.report import write_pages


@pytest.fixture
def plan():
    return fixture_tree.experiment()


def page_of(plan, folder):
    write_pages(plan, fixture_tree.rows_of(plan, folder), folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_asks_for_no_other_file_and_is_small(tmp_path, plan):
    page = page_of(fixture_tree.write_tree(tmp_path, plan), tmp_path)
    addresses = [value for _, name, value in Reader(page).attributes if name in ("src", "href", "action")]
    links = ("#", "data:", "mt_bench.html")  # the last is the page of answers, which only a click opens
    assert addresses and all(address.startswith(links) for address in addresses), addresses
    assert len(page.encode()) < SIX_MB


def test_forty_methods_with_five_seeds_stay_small(tmp_path, monkeypatch):
    methods = [(f"method{index}", "default", {}, 1e-3) for index in range(39)] + [("full", "default", {}, 1e-3)]
    for name in ("SKILL", "MEMORY_MB", "STEP_S"):
        table = getattr(fixture_tree, name)
        monkeypatch.setattr(fixture_tree, name, {method: table["full"] for method, *_ in methods})
    monkeypatch.setattr(fixture_tree, "METHODS", tuple(methods))
    monkeypatch.setattr(fixture_tree, "STEPS", 300)
    plan = fixture_tree.write_tree(tmp_path, fixture_tree.experiment(seeds=(0, 1, 2, 3, 4)))
    page = page_of(plan, tmp_path)
    assert len(page.encode()) < SIX_MB


def test_text_from_records_is_escaped_everywhere(tmp_path, plan):
    plan["runs"] = [run | {"variant": f"v{HOSTILE}"} for run in plan["runs"] if run["method"] in ("full", "lora")]
    for number, run in enumerate(plan["runs"]):
        run["path"] = f"run{number}"
    plan["name"] = plan["models"][0]["name"] = HOSTILE
    plan["runs"] = [run | {"model": HOSTILE} for run in plan["runs"]]
    for run in plan["runs"]:
        fixture_tree.write_ok(tmp_path, run)
    fixture_tree.write_stopped(tmp_path, plan["runs"][0], "failed", "train", HOSTILE)
    page = page_of(plan, tmp_path)
    assert HOSTILE not in page and "<script>alert" not in page
    reader = Reader(page)
    assert HOSTILE in reader.text
    assert reader.tags.count("script") == 2 + len(reader.plots)
    traces = [trace for plot in reader.plots.values() for trace in plot["plot"]["data"]]
    labels = [label for trace in traces for label in (trace.get("name", ""), *trace.get("y", []))]
    assert any("&lt;script" in str(label) for label in labels) and not any("<" in str(label) for label in labels)


def test_world_and_rule_based_judge_are_said_before_any_number(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    header = page_of(plan, tmp_path).split("<main>")[0]
    assert "about the embedded world" in header and "rule-based judge" in header
    plan["data_root"] = "elsewhere"
    for run in plan["runs"]:
        content = fixture_tree.mt_bench(run) | {"judge": {"kind": "llm", "model": "judge-7b"}}
        fixture_tree.write(tmp_path / run["path"] / "mt_bench.json", content)
    header = page_of(plan, tmp_path).split("<main>")[0]
    assert "embedded world" not in header and "rule-based" not in header


def test_all_methods_stand_in_one_table_before_everything_else(tmp_path, plan):
    page = page_of(fixture_tree.write_tree(tmp_path, plan), tmp_path)
    sections = re.findall(r'<section id="([^"]+)">', page)
    assert sections[:5] == ["methods", "figures", "comparison", "memory", "speed"]
    assert sections[5:10] == ["mt_bench_categories", "differences", "seeds", "tasks", "limits"]


def test_what_an_experiment_asks_for_has_its_section_a_link_to_it_and_conditions(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    fixture_tree.write_whole(tmp_path, plan)
    page = page_of(plan, tmp_path)
    sections = re.findall(r'<section id="([^"]+)">', page)
    asked = [
        "mt_bench_categories",
        "pairwise",
        "forgetting",
        "noise",
        "overlap",
        "differences",
        "seeds",
        "tasks",
        "limits",
    ]
    assert sections[5:14] == asked
    links = {value for tag, name, value in Reader(page).attributes if (tag, name) == ("a", "href")}
    assert {f"#{name}" for name in sections} | {"mt_bench.html"} == links
    for name in ("pairwise", "forgetting", "noise"):
        section = page.split(f'<section id="{name}">')[1].split("</section>")[0]
        assert "Imaginary CPU" in section and "embedded world" in section
    assert "is &lt;b&gt;not&lt;/b&gt; a virus" in page


def test_the_page_of_answers_is_linked_only_where_mt_bench_was_asked(tmp_path, plan):
    plan["mt_bench"] = None
    fixture_tree.write_tree(tmp_path, plan)
    for run in plan["runs"]:
        (tmp_path / run["path"] / "mt_bench.json").unlink()
    assert "mt_bench.html" not in page_of(plan, tmp_path)


def test_scores_by_task_are_folded_and_all_there(tmp_path, plan):
    page = page_of(fixture_tree.write_tree(tmp_path, plan), tmp_path)
    section = page.split('<section id="tasks">')[1].split("</section>")[0]
    assert "<details>" in section.split("<table>")[0] and "<details open" not in section
    assert section.count("<tr>") == 1 + 6 * 7


def test_scores_of_too_many_tasks_are_left_to_the_files_and_this_is_said(tmp_path, plan, monkeypatch):
    fixture_tree.write_tree(tmp_path, plan)
    monkeypatch.setattr(page_module, "MOST_FOLDED_ROWS", 6 * 7 - 1)
    section = page_of(plan, tmp_path).split('<section id="tasks">')[1].split("</section>")[0]
    assert "42 rows, too many for this page: see tables/tasks.csv" in section and "<table>" not in section
    assert len((tmp_path / "tables/tasks.csv").read_text().splitlines()) == 43


def test_the_figure_of_forgetting_goes_from_the_base_model_to_each_row(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    fixture_tree.write_whole(tmp_path, plan)
    reader = Reader(page_of(plan, tmp_path))
    lines = reader.plots["figure-1-forgetting"]["plot"]["data"]
    assert [line["y"][0] for line in lines][:3] == ["vanilla", "full", "lora r128"]
    assert {round(line["x"][0], 6) for line in lines} == {round(math.exp(4.5), 6)}
    assert lines[1]["x"][1] == pytest.approx((math.exp(4.5 * 1.09) + math.exp(4.5 * 1.092)) / 2)
    assert lines[1]["line"]["color"] == KNOWN_COLOURS["full"]
    ratios = [math.exp(4.5 * more) for more in (0.09, 0.092)]
    expected = f"  x {fmean(ratios):#.4g} ± {stdev(ratios):#.3g}"
    assert lines[1]["text"] == ["", expected]
    assert ("div", "aria-label", "Forgetting: tiny on world-chat") in reader.attributes


def test_a_score_of_two_protocols_is_two_choices_of_the_figure(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    fixture_tree.write_whole(tmp_path, plan)
    file = tmp_path / fixture_tree.run_of(plan, "lora", 1)["path"] / "scores.json"
    content = json.loads(file.read_text())
    content["benchmarks"]["gsm8k"]["protocol"]["batch_size"] = 16
    fixture_tree.write(file, content)
    choices = Reader(page_of(plan, tmp_path)).plots["figure-1-pareto"]["choices"]
    by_label = {choice["label"]: choice["traces"] for choice in choices}
    own, other = (by_label[f"GSM8K, batch size {size} against peak memory"] for size in (8, 16))
    assert (own[1]["y"], other[1]["y"]) == ([pytest.approx(30.0)], [pytest.approx(31.0)])
    assert other[0]["y"] == [None] and own[0]["y"] == [pytest.approx(38.5)]


def test_declared_limits_have_a_section_and_none_where_nothing_is_declared(tmp_path, plan):
    page = page_of(fixture_tree.write_tree(tmp_path, plan), tmp_path)
    section = Reader(page).text.split("What methods declare they cannot do")[-1]
    assert "clip gradients by their common norm" in section and "it trains nothing" in section
    plan["runs"] = [run for run in plan["runs"] if run["method"] in ("full", "lora", "lisa")]
    (tmp_path / "tables/limits.md").unlink()
    assert "cannot do" not in page_of(plan, tmp_path)
    assert not (tmp_path / "tables/limits.md").exists()


def test_every_stopped_run_is_listed_with_its_reason(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    stops = {"oom": "CUDA out of memory", "diverged": "loss is nan at step 12", "failed": "disk full"}
    for (status, error), method in zip(stops.items(), ("galore", "lisa", "lora"), strict=True):
        fixture_tree.write_stopped(tmp_path, fixture_tree.run_of(plan, method, 1), status, "train", error)
    fixture_tree.write_killed(tmp_path, fixture_tree.run_of(plan, "full", 1))
    text = Reader(page_of(plan, tmp_path)).text
    listed = text.split("Runs without a result")[-1]
    for method, words in (("galore", "oom"), ("lisa", "loss is nan"), ("lora", "disk full"), ("full", "missing")):
        assert fixture_tree.run_of(plan, method, 1)["path"] in listed
        assert words in listed
    assert "4 of 12 runs have no complete result" in text


def test_bars_of_memory_reach_the_peak_also_for_records_without_temporaries(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    old_note = "Records of version 1.0 know no temporaries"
    assert old_note not in Reader(page_of(plan, tmp_path)).text
    for seed in (0, 1):
        fixture_tree.write_old(tmp_path, fixture_tree.run_of(plan, "lora", seed))
    reader = Reader(page_of(plan, tmp_path))
    assert old_note in reader.text
    *parts, _ = reader.plots["figure-1-memory"]["plot"]["data"]
    bars = {trace["name"]: dict(zip(trace["y"], trace["x"], strict=True)) for trace in parts}
    assert list(bars) == ["weights", "gradients", "optimizer state", "activations", "temporaries", "other"]
    labels = {method: next(label for label in bars["other"] if label.startswith(method)) for method in ("lora", "full")}
    assert bars["temporaries"][labels["lora"]] == 0 < bars["temporaries"][labels["full"]]
    for method, label in labels.items():
        peak_mb = sum(fixture_tree.MEMORY_MB[method]) + 0.001
        assert sum(bar[label] for bar in bars.values()) == pytest.approx(peak_mb)


def test_a_page_is_made_even_when_nothing_ran(tmp_path, plan):
    reader = Reader(page_of(plan, tmp_path))
    assert "12 of 12 runs have no complete result" in reader.text
    assert "No run of this model and data has anything to draw" in reader.text and not reader.plots


def test_a_method_has_one_colour_in_all_figures(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    plots = Reader(page_of(plan, tmp_path)).plots
    speed = plots["figure-1-speed"]["plot"]["data"][0]
    shown = dict(zip(speed["y"], speed["marker"]["color"], strict=True))
    for name in ("pareto", "training-loss", "validation-loss"):
        for trace in plots[f"figure-1-{name}"]["plot"]["data"]:
            label = trace.get("name")
            if label in shown:
                assert trace["marker"]["color"] == shown[label]
    assert shown["lisa gamma2"] == shown["lisa gamma4"] == KNOWN_COLOURS["lisa"]


def test_colours_of_many_methods_differ():
    names = [f"method{index}" for index in range(40)]
    assert len(set(colours([*KNOWN_COLOURS, *names]).values())) == 45


def test_losses_that_are_no_numbers_are_left_out(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    file = tmp_path / fixture_tree.run_of(plan, "full", 0)["path"] / "log.jsonl"
    file.write_text(file.read_text() + '{"step": 60, "loss": NaN}\n{"step": 61, "lo')
    page = page_of(plan, tmp_path)
    assert "NaN" not in "".join(re.findall(r'data-plot="[^"]+">(.*?)</script>', page))
    traces = Reader(page).plots["figure-1-training-loss"]["plot"]["data"]
    assert max(trace["x"][-1] for trace in traces) == fixture_tree.STEPS


def test_figures_say_their_units(tmp_path, plan):
    plots = Reader(page_of(fixture_tree.write_tree(tmp_path, plan), tmp_path)).plots
    axes = {name: plot["plot"]["layout"]["xaxis"]["title"]["text"] for name, plot in plots.items()}
    assert axes["figure-1-memory"] == "peak allocated while training (MB)"
    assert axes["figure-1-speed"] == "milliseconds an optimizer step"
    choices = [c["layout"]["yaxis"]["title"]["text"] for c in plots["figure-1-pareto"]["choices"]]
    assert choices[0] == "MT-Bench (1 to 10)" and "MMLU (%)" in choices and choices[-1].startswith("validation loss")


def test_memory_bars_add_up_to_the_peak(tmp_path, plan):
    plots = Reader(page_of(fixture_tree.write_tree(tmp_path, plan), tmp_path)).plots
    *parts, ends = plots["figure-1-memory"]["plot"]["data"]
    for place, label in enumerate(ends["y"]):
        assert sum(part["x"][place] for part in parts) == pytest.approx(ends["x"][place]), label


def test_the_commands_and_the_experiment_stand_on_the_page(tmp_path, plan):
    text = Reader(page_of(fixture_tree.write_tree(tmp_path, plan), tmp_path)).text
    assert f"git checkout {fixture_tree.environment()['git_commit']}" in text
    assert ".venv/bin/snakemake --cores all --configfile reproduce.json" in text
    assert f"results/fixture/{plan['runs'][0]['path']}/run.json" in text
    assert json.dumps(plan["evaluation"]["benchmarks"][0]["name"]) in text and '"runs"' not in text
    assert "2.13.0" in text.split("Environment")[-1]


def test_published_tables_appear_when_named(tmp_path, plan):
    fixture_tree.write_tree(tmp_path, plan)
    assert "Published" not in Reader(page_of(plan, tmp_path)).text
    plan["report"]["published"] = ["table2_accuracy"]
    text = Reader(page_of(plan, tmp_path)).text
    assert "LISA (arXiv 2403.17919) v3, Table 2" in text and "not run" in text


def test_twelve_variants_of_a_method_look_different():
    rows = [SimpleNamespace(first=SimpleNamespace(method="lisa", variant=f"variant {index}")) for index in range(12)]
    assert len(set(styles(rows).values())) == 12
    assert len({style.symbol for style in styles(rows).values()}) == 12, "the memory figure has no lines to tell by"
