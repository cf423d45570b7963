"""`snakemake --report` after a finished experiment of either kind: every file with its caption, without network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.pipeline.mini import mini, snakemake
from tests.pipeline.test_memory import MEMORY
from tests.report.browser import Chromium, needed

# names that reStructuredText would take for references
TINY = {**MEMORY["models"][0], "name": "tiny_"}
PREDICTED = {**MEMORY, "name": "odd_", "models": [TINY, {"name": "gpt2-small", "published_as": "GPT2-Small"}]}
PUBLISHED = {**PREDICTED, "report": {"published": ["table1_memory"]}}


def finished(folder: Path, experiment: dict[str, Any]) -> Path:
    done = snakemake(folder, experiment)
    assert done.returncode == 0, done.stderr
    return folder / "results" / experiment["name"]


def reported(folder: Path, experiment: dict[str, Any], name: str) -> Path:
    done = snakemake(folder, experiment, "--report", str(folder / name))
    assert done.returncode == 0, done.stderr
    return folder / name


def island(page: str, name: str) -> Any:
    """What the report's script is given under this name."""
    found = re.search(rf'<script id="{name}">\s*var \w+ = (.*);\n', page)
    assert found, name
    return json.loads(found[1])


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".snakemake_timestamp")


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder and the results of a predicted experiment, published numbers beside it."""
    folder = tmp_path_factory.mktemp("memory")
    return folder, finished(folder, PUBLISHED)


def test_every_file_of_a_memory_experiment_is_in_the_report_with_a_caption(memory: tuple[Path, Path]) -> None:
    folder, results = memory
    page = reported(folder, PUBLISHED, "out.html").read_text()
    shown = island(page, "results")
    tables = [f"tables/{name}" for name in files(results / "tables")]
    figures = [f"figures/{name}" for name in files(results / "figures")]
    assert {f"tables/{name}.{kind}" for name in ("memory", "reproduction") for kind in ("csv", "md", "tex")} <= {
        *tables
    }
    assert "figures/memory-gpt2_small.svg" in figures
    assert sorted(shown) == sorted(f"results/odd_/{name}" for name in (*tables, *figures, "report.html"))
    described = island(page, "workflow-desc")
    assert "Peak memory of one optimizer step" in described and "tiny_" in described
    captions = [entry["caption"] for entry in shown.values()]
    assert all("odd_" in caption for caption in captions)
    assert not [text for text in (described, *captions) if "system-message" in text or "problematic" in text]
    assert {name: len(entries) for name, entries in island(page, "categories").items()} == dict.fromkeys(
        ("Tables", "Figures", "Report"), 1
    )


def test_the_report_opens_without_network_and_shows_captions(memory: tuple[Path, Path]) -> None:
    needed()
    page = reported(memory[0], PUBLISHED, "opened.html")
    with Chromium() as browser:
        opened = browser.open(page.as_uri())
        opened.wait_for("document.body.innerText.includes('lisa-bench: odd_')")
        opened.evaluate("[...document.querySelectorAll('a')].find(a => a.innerText.trim() === 'Figures').click()")
        opened.wait_for("document.body.innerText.includes('memory-gpt2_small')")
        opened.evaluate("document.querySelectorAll('table tr td:last-child a')[0].click()")
        opened.wait_for("[...document.querySelectorAll('img')].some(image => image.naturalWidth > 700)")
        opened.evaluate("document.querySelectorAll('table tr td:last-child a')[1].click()")
        opened.wait_for("document.body.innerText.includes('A method has one colour in all figures')")
        assert [url for url in opened.requests if not url.startswith("data:")] == [page.as_uri()]
        own = [error for error in opened.errors if "cdn.tailwindcss.com" not in str(error)]  # Snakemake's, about itself
        assert own == []


def test_a_table_that_is_not_asked_for_any_more_goes_and_nothing_is_simulated_again(memory: tuple[Path, Path]) -> None:
    folder, results = memory
    assert "reproduction.tex" in files(results / "tables")
    planned = snakemake(folder, PREDICTED, "--dry-run").stdout
    assert {name for name, _ in re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE)} == {
        "memory_report",
        "all",
        "total",
    }
    finished(folder, PREDICTED)
    names = ("ablation", "memory", "speed")
    assert files(results / "tables") == sorted(f"{name}.{kind}" for name in names for kind in ("csv", "md", "tex"))
    again = snakemake(folder, PREDICTED)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_an_archive_of_a_training_experiment_holds_pages_tables_and_figures(tmp_path: Path) -> None:
    evaluation = {"batch_size": 8, "benchmarks": [{"name": "winogrande", "limit": 2}]}
    experiment = mini(tmp_path / "prepared", methods=["lisa"], evaluation=evaluation)
    finished(tmp_path, experiment)
    with ZipFile(reported(tmp_path, experiment, "out.zip")) as archive:
        held = {name.rpartition("/")[2] for name in archive.namelist()}
        page = archive.read("out/report.html").decode()
    wanted = {"report.html", "mt_bench.html", "methods.tex", "tasks.csv", "speed.md", "memory.svg", "training-loss.svg"}
    assert wanted <= held and "pareto-mt_bench_against_peak_memory.svg" in held
    captions = {Path(path).name: entry["caption"] for path, entry in island(page, "results").items()}
    assert "rule-based" in captions["mt_bench.html"]
    assert all("embedded world" in captions[name] for name in ("methods.tex", "memory.svg"))
    described = island(page, "workflow-desc")
    assert "The numbers are about the embedded world" in described and "lisa" in described
