"""axe-core finds nothing serious on any page, in either colour scheme, folded or unfolded."""

from __future__ import annotations

from importlib import resources

import pytest

from eval.memory_cells import collect
from tests.report import answers_tree, fixture_tree, memory_tree
from tests.report.browser import DRAWN
from workflow.stages.memory_report import write_page
from workflow.stages.report import write_pages

SERIOUS = ("serious", "critical")
RUN = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(violation =>
 [violation.impact, violation.id, violation.nodes.slice(0, 3).map(node => node.html.slice(0, 200))]))"""
UNFOLD = "document.querySelectorAll('details').forEach(part => { part.open = true; })"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of one page of each kind, with all that they may hold."""
    folder = tmp_path_factory.mktemp("pages")
    plan = fixture_tree.experiment(seeds=(0, 1))
    claim = {"claim": "full is better", "source": None, "scores": ["gsm8k"], "pairs": [["full", "lora/r128"]]}
    plan["report"] |= {"published": ["table2_accuracy"], "claims": [claim]}
    fixture_tree.write_tree(folder, plan)
    fixture_tree.write_whole(folder, plan)
    fixture_tree.write_items(folder, plan)
    fixture_tree.write_stopped(folder, fixture_tree.run_of(plan, "galore", 1), "oom", "train", "too large")
    write_pages(plan, fixture_tree.rows_of(plan, folder), folder)
    asked = fixture_tree.experiment(seeds=(0, 1))
    fixture_tree.write_tree(folder / "asked", asked)
    answers_tree.write_answers(folder / "asked", asked)
    write_pages(asked, fixture_tree.rows_of(asked, folder / "asked"), folder / "asked")
    cells = memory_tree.write_tree(folder / "memory")
    memory_tree.measure(folder / "memory", cells["cells"][0])
    write_page(cells, collect(cells, folder / "memory", folder / "no-reference"), folder / "memory")
    files = {"report": "report.html", "answers": "asked/mt_bench.html", "memory": "memory/report.html"}
    return {kind: (folder / file).as_uri() for kind, file in files.items()}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["report", "answers", "memory"])
def test_nothing_serious(browser, pages, kind, dark):
    page = browser.open(pages[kind], dark=dark)
    page.wait_for(DRAWN)
    page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    page.evaluate(UNFOLD)
    found = page.evaluate(RUN)
    assert [violation for violation in found if violation[0] in SERIOUS] == []
