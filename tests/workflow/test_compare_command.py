"""`lisa-bench compare`: two results folders from words to answer, and one line for every mistake."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.memory_cells import REFERENCE
from eval.side_by_side import side_by_side
from eval.sides import read_side
from tests.eval.test_collect import change
from tests.report import fixture_tree, memory_tree
from workflow import cli
from workflow.commands import compare, compare_text

ROOT = Path(__file__).parents[2]
Answer = Callable[..., str]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 100 columns, whoever runs the tests."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """results/here and results/there (other torch, other code and data of lora, GSM8K 0-shot, one seed out of memory)
    and a memory experiment.
    """
    fixture_tree.write_tree(tmp_path / "here", fixture_tree.experiment("here"))
    plan = fixture_tree.write_tree(tmp_path / "there", fixture_tree.experiment("there", models=2))
    for run in plan["runs"]:
        change(tmp_path / "there", run, "environment", "packages", "torch", value="2.14.0")
        change(tmp_path / "there", run, "benchmarks", "gsm8k", "shots", value=0, name="scores.json")
        if run["method"] == "lora":
            change(tmp_path / "there", run, "environment", "code_sha256", value="9" * 64)
            change(tmp_path / "there", run, "data", "sha256", value="a" * 64)
    stopped = fixture_tree.run_of(plan, "galore", 1)
    fixture_tree.write_stopped(tmp_path / "there", stopped, "oom", "train", "CUDA out of memory")
    change(tmp_path / "there", stopped, "environment", "packages", "torch", value="2.14.0")
    memory_tree.write_tree(tmp_path / "memory", memory_tree.experiment("memory", ("llama-2-7b", "tinyllama")))
    return tmp_path


@pytest.fixture
def answer(results: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """What stands on stdout after the command with these words."""

    def ask(*words: str) -> str:
        assert cli.main(["compare", str(results / "here"), str(results / "there"), *words]) == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        return shown.out

    return ask


def row_of(found: dict[str, Any], method: str) -> dict[str, Any]:
    return next(row for row in found["rows"] if row["method"] == method)


def lines_of(text: str, row: str) -> list[str]:
    """The lines below a row's name."""
    after = text.splitlines()[text.splitlines().index(f"  {row}") + 1 :]
    return [line.strip() for line in after[: next(i for i, line in enumerate(after) if not line.startswith("    "))]]


def test_the_first_line_counts(answer: Answer) -> None:
    expected = "6 rows side by side, 6 of them with something that does not compare; 0 only in a, 6 only in b."
    assert answer().splitlines()[0] == expected
    assert json.loads(answer("--json"))["counts"] == {
        "rows": 6,
        "not_comparable": 6,
        "one_sided": 0,
        "only_a": 0,
        "only_b": 6,
    }


def test_what_may_differ_stands_at_the_top_in_two_columns(answer: Answer) -> None:
    top = answer().split("tiny on world-chat")[0].splitlines()
    assert ["packages", "torch", "2.13.0", "torch", "2.14.0"] in [line.split() for line in top]
    same = top[top.index("  the same in both:") :]
    assert any(line.split() == ["device", "cpu", "(Imaginary", "CPU)"] for line in same)
    assert any("transformers 5.23.0" in line and "torch" not in line for line in same)
    assert "Code of lora changed between a and b." in top


def test_a_metric_shows_both_values_and_the_change_or_the_reason(answer: Answer) -> None:
    full = [" ".join(line.split()) for line in lines_of(answer(), "full")]
    assert "validation loss 1.1050 ± 0.0050 1.1050 ± 0.0050 +0.0000" in full
    assert "peak memory (MB) 68.0 68.0 × 1.000" in full
    assert "GSM8K (%) 38.50 ± 5.46 38.50 ± 5.46 does not compare [1]" in full
    assert full[-1] == "[1] protocol: 5-shot in a; 0-shot in b"


def test_reasons_are_numbered_within_a_row_and_each_stands_once(answer: Answer) -> None:
    lora = lines_of(answer(), "lora/r128")
    marks = {line.split("  ")[0]: re.findall(r"\[\d\]", line) for line in lora if "does not compare" in line}
    assert marks["GSM8K (%)"] == ["[1]", "[2]"] and marks["step (ms)"] == ["[1]"]
    assert lora[-2:] == [
        "[1] training data: 11111111... in a, aaaaaaaa... in b",
        "[2] protocol: 5-shot in a; 0-shot in b",
    ]


def test_a_seed_that_stopped_is_told_and_the_other_is_compared(answer: Answer) -> None:
    galore = lines_of(answer(), "galore")
    assert galore[-1] == "b: ok 1 of 2, oom 1 of 2: seed 1: train: CUDA out of memory"
    assert any(line.startswith("validation loss, seed 0 ") and line.endswith("+0.0000") for line in galore)


def test_the_text_fits_a_terminal_of_100_columns(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, answer().splitlines())) <= 100


def test_rows_of_one_side_are_listed(answer: Answer) -> None:
    expected = "Only in b, tiny1 on world-chat: vanilla, full, lora/r128, galore, lisa/gamma2, lisa/gamma4."
    assert expected in answer().splitlines()
    found = json.loads(answer("--json"))
    assert found["only_a"] == [] and {row["model"] for row in found["only_b"]} == {"tiny1"}


def test_filters_leave_what_they_name(answer: Answer) -> None:
    found = json.loads(answer("--method", "lora", "--data", "world-chat", "--model", "tiny", "--json"))
    assert [(row["method"], row["variant"]) for row in found["rows"]] == [("lora", "r128")]
    assert found["only_b"] == []


def test_json_says_the_same_as_the_text(answer: Answer) -> None:
    found = json.loads(answer("--json"))
    assert (found["kind"], found["a"]["conditions"]["packages"]["torch"]) == ("training", "2.13.0")
    lora, full = row_of(found, "lora"), row_of(found, "full")
    assert (lora["seeds"], lora["compares"], lora["code_changed"]) == ([0, 1], False, True)
    metrics = {metric["name"]: metric for metric in full["metrics"]}
    assert metrics["gsm8k"]["reasons"] == ["protocol: 5-shot in a; 0-shot in b"]
    assert (metrics["gsm8k"]["a_value"], metrics["gsm8k"]["difference"]) == (pytest.approx(0.385), None)
    assert (metrics["peak_memory_bytes"]["a_value"], metrics["peak_memory_bytes"]["ratio"]) == (68_001_000, 1.0)
    assert metrics["mt_bench"]["difference"] == 0.0 and metrics["mt_bench"]["made"] == "rule-based-judge"


def keys_of(value: Any) -> Iterator[str]:
    """All keys in a JSON document but names of packages."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner if key != "packages" else None)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


def test_json_explains_itself(answer: Answer, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every key and every name of a metric of either kind stands in the docstring."""
    found = json.loads(answer("--json"))
    cells = memory_answer(results, capsys, "--json")
    names = {metric["name"] for row in [*found["rows"], *json.loads(cells)["rows"]] for metric in row["metrics"]}
    told = set(re.findall(r"\w+", compare.__doc__))
    unexplained = {
        *keys_of(found),
        *keys_of(json.loads(cells)),
        *names - {"mmlu", "agieval", "winogrande", "gsm8k"},
    } - told
    assert unexplained == set()


def memory_answer(results: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The memory experiment beside one in which a cell was measured."""
    plan = memory_tree.write_tree(results / "measured", memory_tree.experiment("measured", ("llama-2-7b",)))
    for folder in ("memory", "measured"):
        memory_tree.measure(results / folder, memory_tree.cell_of(plan, "llama-2-7b/full/default/eager"))
    assert cli.main(["compare", str(results / "memory"), str(results / "measured"), *words]) == 0
    return capsys.readouterr().out


def test_cells_stand_side_by_side_by_setting(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = memory_answer(results, capsys)
    assert text.startswith(
        "17 cells side by side, 0 of them with something that does not compare; 8 only in a, 0 only in b."
    )
    eager = lines_of(text, "full (eager)")
    assert [line.split()[0] for line in eager] == ["predicted", "peak", "tokens/s", "step"]
    assert eager[0].split()[2:] == ["(GB)", "60.40", "60.40", "×", "1.000"]


def test_markdown_is_one_table_with_conditions_below(answer: Answer) -> None:
    text = answer("--markdown")
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    assert rows[0] == ["Row", "Metric", "a", "b", "b - a, b / a", "Notes"] and {len(row) for row in rows} == {6}
    assert ["tiny on world-chat: full", "validation loss", "1.1050 ± 0.0050", "1.1050 ± 0.0050", "+0.0000", "–"] in rows
    assert "protocol: 5-shot in a; 0-shot in b" in text and "- packages: torch 2.13.0 (a), torch 2.14.0 (b)" in text
    assert "- device: cpu (Imaginary CPU) in both" in text and "- 6 rows side by side" in text


def test_sides_without_a_common_seed_show_none_and_leave_none_out(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = fixture_tree.write_tree(results / "later", fixture_tree.experiment("later", seeds=(5, 6)))
    fixture_tree.write(results / "later" / "experiment.json", plan)
    assert cli.main(["compare", str(results / "here"), str(results / "later"), "--method", "full"]) == 0
    text = capsys.readouterr().out
    assert "no seed in common: 0, 1 in a, 5, 6 in b" in text
    assert "validation loss, seed" not in text and "left out" not in text


def test_a_row_without_any_metric_keeps_its_line_and_its_notes(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("here", "there"):
        plan = fixture_tree.experiment(name)
        for seed in (0, 1):
            fixture_tree.write_killed(results / name, fixture_tree.run_of(plan, "full", seed))
    words = ["compare", str(results / "here"), str(results / "there"), "--method", "full", "--model", "tiny"]
    assert cli.main(words) == 0 and "  full: nothing measured\n    a: missing: seed 0, 1" in capsys.readouterr().out
    assert cli.main([*words, "--markdown"]) == 0 and "nothing measured | a: missing" in capsys.readouterr().out


def test_csv_has_a_row_for_each_metric(answer: Answer, tmp_path: Path) -> None:
    answer("--csv", str(tmp_path / "compare.csv"))
    with (tmp_path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 + 5 * 9  # vanilla has scores only
    (loss,) = [row for row in rows if (row["method"], row["metric"]) == ("lora", "validation_loss")]
    assert (loss["difference"], loss["code_changed"]) == ("", "true") and loss["not_compared"].startswith(
        "training data"
    )


def test_committed_records_stand_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(REFERENCE / "cpu" / name) for name in ("lisa_variants", "weight_norms")]
    assert cli.main(["compare", *folders]) == 0
    text = capsys.readouterr().out
    assert "1 row side by side, 1 of them with something that does not compare; 13 only in a, 1 only in b." in text
    assert "steps: 120 in a, 60 in b" in text and "seeds 1, 2 stand in a only and are left out" in text


def test_where_no_row_is_in_both_there_is_no_table(results: Path) -> None:
    plan = json.loads((results / "here/experiment.json").read_text())
    side = read_side(results / "here", plan)
    text = compare_text.markdown(side_by_side(side.part({"method": "full"}), side.part({"method": "lora"})))
    assert "|" not in text and "- 0 rows side by side" in text and "Only in a, tiny on world-chat: full" in text


def test_a_side_without_scores_is_said_to_have_run_records_only(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = results / "records"
    for file in (results / "here").rglob("run.json"):
        (records / file.relative_to(results / "here")).parent.mkdir(parents=True)
        shutil.copy(file, records / file.relative_to(results / "here"))
    for form in ((), ("--markdown",)):
        assert cli.main(["compare", str(results / "here"), str(records), *form]) == 0
        text = capsys.readouterr().out
        assert "b has no scores, run records only: no score compares." in text and "a has no scores" not in text
        assert "6 rows side by side, 0 of them with something that does not compare, 6 with something that one" in text
    assert cli.main(["compare", str(records), str(results / "there")]) == 0
    assert "a has no scores, run records only" in capsys.readouterr().out


def test_the_page_on_it_shows_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    (command,) = re.findall(r"^\$ lisa-bench (compare .*)$", (ROOT / "docs/compare.md").read_text(), re.MULTILINE)
    assert cli.main(command.split()) == 0
    assert capsys.readouterr().out in (ROOT / "docs/compare.md").read_text()


# --- mistakes

MISTAKES = {
    "the same folder": (["here", "here/../here"], "here and .*here are the same folder"),
    "another kind": (
        ["here", "memory"],
        "here is of kind 'training', .*memory of kind 'memory'; .*Legal: two folders of one",
    ),
    "no folder": (["her", "there"], r"No results in '.*her'.*Known: .*here, .*memory, .*there\."),
    "a folder of experiments": (["", "there"], r"holds several experiments.*Known: .*here, .*memory, .*there\."),
    "no folder to write into": (["here", "there", "--csv", "no/c.csv"], "--csv: 'no' is no folder that exists"),
    "a folder to write into": (["here", "there", "--csv", "."], "--csv: . cannot be written: Is a directory"),
    "model": (["here", "there", "--model", "tini"], "--model: unknown model 'tini'. Did you mean 'tiny'.* tiny1"),
    "data": (["here", "there", "--data", "x"], "--data: unknown data 'x'. Known: world-chat."),
    "method": (["here", "there", "--method", "lsia"], "--method: unknown method 'lsia'. Did you mean 'lisa'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (a, b, *words), expected = MISTAKES[name]
    assert_one_line([f"{results}/{a}", f"{results}/{b}", *words], expected, capsys)


def test_cells_have_no_data(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory_tree.write_tree(results / "other", memory_tree.experiment("other", ("tinyllama",)))
    words = [str(results / "memory"), str(results / "other"), "--data", "x"]
    assert_one_line(words, "--data: the cells of memory experiments have none. Legal: --model, --method.", capsys)


@pytest.mark.parametrize("bare", [False, True])
def test_a_damaged_record_is_named(results: Path, bare: bool, capsys: pytest.CaptureFixture[str]) -> None:
    run = fixture_tree.run_of(fixture_tree.experiment(), "lora", 1)
    file = results / "there" / run["path"] / "run.json"
    file.write_text(file.read_text()[:100])
    if bare:
        (results / "there/experiment.json").unlink()
    assert_one_line([str(results / "here"), str(results / "there")], "lora/r128/seed1/run.json is not JSON", capsys)


def test_a_damaged_experiment_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "there/experiment.json").write_text("{")
    assert_one_line([str(results / "here"), str(results / "there")], "there/experiment.json cannot be read", capsys)


def assert_one_line(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert re.search(expected, shown.err), shown.err
