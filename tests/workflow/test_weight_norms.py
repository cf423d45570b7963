"""The stage that compares weight norms: means, ratios, figure, and one line for what is missing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.conftest import ROOT
from tests.models import tiny_llama
from tests.report import fixture_tree
from workflow.engine.errors import InputError
from workflow.engine.weight_norms import FILE, append_norms, part_norms
from workflow.report.static.svg import to_svg
from workflow.report.weight_norms import draw, labels
from workflow.stages.weight_norms import compare, recorded

MODEL, DATA = "tiny", "world-chat"
PARTS = ("embeddings", "layer 0", "layer 1", "norm", "head")
# norms at steps 0, 20 and 40 of seed 0; seed 1 has 0.2 more of each
FULL = {part: (10.0 + place, 11.0 + place, 15.0 + place) for place, part in enumerate(PARTS)}
ADAPTER = {part: (3.0, 3.5, 4.0 + place) for place, part in enumerate(PARTS) if part != "norm"}


def write_norms(run: Path, seed: int, kinds: dict[str, dict[str, tuple[float, ...]]]) -> None:
    """weight_norms.csv as the training loop writes it."""
    lines = [
        f"{20 * place},{part},{kind},{steps[place] + 0.2 * seed}"
        for place in range(3)
        for kind, norms in kinds.items()
        for part, steps in norms.items()
    ]
    run.joinpath("weight_norms.csv").write_text("\n".join(["step,part,kind,norm", *lines, ""]))


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, Any]:
    plan = fixture_tree.experiment()
    plan["training"]["weight_norms_every_steps"] = 20
    fixture_tree.write_tree(tmp_path, plan)
    for seed in (0, 1):
        full, lora = (tmp_path / fixture_tree.run_of(plan, method, seed)["path"] for method in ("full", "lora"))
        write_norms(full, seed, {"weights": FULL})
        write_norms(lora, seed, {"adapter": ADAPTER, "merged": FULL})
    return plan


def table(folder: Path, name: str) -> dict[str, dict[str, str]]:
    file = folder / MODEL / DATA / "weight_norms" / name
    return {row["part"]: row for row in csv.DictReader(file.read_text().splitlines())}


def test_means_are_over_steps_and_seeds_and_the_ends_over_seeds(tmp_path: Path, plan: dict[str, Any]) -> None:
    compare(plan, tmp_path, MODEL, DATA)
    rows = table(tmp_path, "weight_norms.csv")
    assert list(rows) == list(PARTS)
    row = {key: float(value) for key, value in rows["layer 1"].items() if key.startswith(("full", "adapter", "merged"))}
    assert row == pytest.approx(
        {
            **{"full_mean": 14.1, "full_first": 12.1, "full_last": 17.1},
            **{"adapter_mean": 12.5 / 3 + 0.1, "adapter_first": 3.1, "adapter_last": 6.1},
            **{"merged_mean": 14.1, "merged_first": 12.1, "merged_last": 17.1},
        }
    )


def test_the_ratio_is_the_papers_and_empty_where_lora_adapts_nothing(tmp_path: Path, plan: dict[str, Any]) -> None:
    compare(plan, tmp_path, MODEL, DATA)
    rows = table(tmp_path, "weights.csv")
    assert float(rows["layer 1"]["adapter_over_full"]) == pytest.approx((12.5 / 3 + 0.1) / 14.1)
    assert float(rows["layer 1"]["merged_over_full"]) == pytest.approx(1)
    assert (rows["norm"]["adapter_over_full"], float(rows["norm"]["merged_over_full"])) == ("", 1)


def test_the_line_of_yaml_has_a_weight_for_every_decoder_layer(tmp_path: Path, plan: dict[str, Any]) -> None:
    line = compare(plan, tmp_path, MODEL, DATA)
    ratios = table(tmp_path, "weights.csv")
    layers = [float(ratios[part]["adapter_over_full"]) for part in ("layer 0", "layer 1")]
    assert yaml.safe_load(line) == {"weights": pytest.approx(layers, rel=1e-3)}


def test_a_seed_that_diverged_is_left_out_and_named(
    tmp_path: Path, plan: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fixture_tree.run_of(plan, "lora", 1)
    fixture_tree.write_stopped(tmp_path, run, "diverged", "train", "loss is nan")
    compare(plan, tmp_path, MODEL, DATA)
    assert capsys.readouterr().err == f"left out: {run['path']} is diverged: loss is nan\n"
    assert float(table(tmp_path, "weight_norms.csv")["layer 0"]["adapter_first"]) == 3.0


def test_of_several_variants_the_first_counts_and_the_others_are_named(
    tmp_path: Path, plan: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fixture_tree.run_of(plan, "lora", 0)
    other = {**run, "variant": "r8", "path": run["path"].replace("r128", "r8")}
    line = compare({**plan, "runs": [*plan["runs"], other]}, tmp_path, MODEL, DATA)
    assert capsys.readouterr().err == f"left out: {other['path']} is not of the first variant\n"
    assert line == compare(plan, tmp_path, MODEL, DATA)


def test_the_stage_reads_what_the_training_loop_writes(tmp_path: Path) -> None:
    model = tiny_llama()
    for step in (0, 5):
        append_norms(model, step, tmp_path / FILE)
    run = SimpleNamespace(folder=tmp_path)
    assert recorded(run, "weights") == {part: [norm, norm] for part, _, norm in part_norms(model)}  # type: ignore[arg-type]


def test_without_a_finished_run_the_reasons_are_given(tmp_path: Path, plan: dict[str, Any]) -> None:
    fixture_tree.write_stopped(tmp_path, fixture_tree.run_of(plan, "full", 0), "oom", "train", "too large")
    fixture_tree.write_killed(tmp_path, fixture_tree.run_of(plan, "full", 1))
    with pytest.raises(InputError, match=r"a finished run of tiny/world-chat/full; .*oom: too large; .*seed1 is miss"):
        compare(plan, tmp_path, MODEL, DATA)


@pytest.mark.parametrize("content", [None, "", "step,part,kind,norm\n"])
def test_norms_that_were_not_recorded_name_the_file_and_the_setting(
    tmp_path: Path, plan: dict[str, Any], content: str | None
) -> None:
    file = tmp_path / fixture_tree.run_of(plan, "lora", 0)["path"] / "weight_norms.csv"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(InputError, match=r"lora/r128/seed0/weight_norms.csv\. Set training\.weight_norms_every_steps"):
        compare(plan, tmp_path, MODEL, DATA)


def test_a_layer_without_adapter_is_named(tmp_path: Path, plan: dict[str, Any]) -> None:
    adapter = {part: norms for part, norms in ADAPTER.items() if part != "layer 1"}
    for seed in (0, 1):
        folder = tmp_path / fixture_tree.run_of(plan, "lora", seed)["path"]
        write_norms(folder, seed, {"adapter": adapter, "merged": FULL})
    with pytest.raises(InputError, match="adapts nothing in layer 1; target_modules"):
        compare(plan, tmp_path, MODEL, DATA)


def test_the_stage_ends_in_one_line_for_an_unknown_model(tmp_path: Path, plan: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "workflow.stages.weight_norms", "--experiment", str(tmp_path / "experiment.json")]
    command += ["--results", str(tmp_path), "--data", DATA, "--model"]
    done = subprocess.run([*command, "tinny"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Weight norms need tinny/world-chat/full, which fixture does not have.")
    assert len(done.stderr.strip().splitlines()) == 1
    done = subprocess.run([*command, MODEL], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.startswith("weights: [")) == (0, True)


# --- the figure


def rows_of(parts: int) -> list[dict[str, Any]]:
    names = ["embeddings", *(f"layer {index}" for index in range(parts)), "norm", "head"]
    norms = {"full_mean": 200.0, "merged_mean": 201.0, "adapter_mean": 17.3, "adapter_first": 17.0}
    bare = {"adapter_mean": None, "adapter_first": None}
    return [{"part": name, **norms, **(bare if name == "norm" else {})} for name in names]


def test_the_figure_has_a_line_a_reading_and_a_point_a_part() -> None:
    figure = draw("a < b", "c & d", rows_of(32))
    assert [len(trace["y"]) for trace in figure.plot["data"]] == [34] * 4  # the final norm is left out
    assert figure.plot["layout"]["yaxis"]["type"] == "log"
    said = "".join(ElementTree.fromstring(to_svg(figure)).itertext())
    assert all(words in said for words in ("a < b", "c & d", "adapters before training", "embeddings", "head"))


def test_a_line_breaks_where_lora_left_a_part_alone() -> None:
    rows = rows_of(4)
    rows[2] |= {"adapter_mean": None, "adapter_first": None}
    assert [None in trace["y"] for trace in draw("", "", rows).plot["data"]] == [False, False, True, True]


@pytest.mark.parametrize(("layers", "shown"), [(6, 8), (32, 18), (80, 18)])
def test_labels_of_many_layers_are_thinned_and_those_of_the_ends_stay(layers: int, shown: int) -> None:
    found = labels([row["part"] for row in rows_of(layers) if row["part"] != "norm"])
    assert sum(map(bool, found)) == shown
    assert (found[0], found[1], found[-1]) == ("<br>embeddings", "0", "<br>head")


def test_the_experiment_in_config_adapts_every_part_of_the_figure() -> None:
    config = yaml.safe_load((ROOT / "config/weight_norms.yaml").read_text())
    smoke = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    targets = config["method_settings"]["lora"]["hyperparameters"]["target_modules"]
    assert {"embed_tokens", "lm_head"} < set(targets)
    assert json.dumps([config[key] for key in ("world", "models", "data")]) == json.dumps(
        [smoke[key] for key in ("world", "models", "data")]
    )
