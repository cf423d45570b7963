"""The page of a memory experiment in a real browser: it draws, asks for nothing, and its selectors work."""

from __future__ import annotations

import pytest

from eval.memory_cells import collect
from tests.report import memory_tree
from tests.report.browser import DRAWN
from workflow.stages.memory_report import write_page

SELECT = (
    "(async () => {{ const s = document.querySelector('select[data-figure=\"{figure}\"]'); s.selectedIndex = {index};"
    " s.dispatchEvent(new Event('change')); await new Promise(r => setTimeout(r, 300)); }})()"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    plan = memory_tree.write_tree(folder)
    for cell in plan["cells"]:
        if cell["model"] == "llama-2-7b":
            memory_tree.measure(folder, cell)
    write_page(plan, collect(plan, folder, folder / "no-reference"), folder)
    return (folder / "report.html").as_uri()


def test_the_page_opens_without_network_and_console_errors(page, address):
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    assert page.errors == []


def test_every_figure_is_drawn(page):
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plot')].map(p => [p.id,"
        " p.querySelectorAll('.main-svg').length > 0, p.querySelectorAll('.trace, .point, .fills path').length])"
    )
    models = ("tinyllama", "mistral_7b", "llama_2_7b", "llama_2_70b")
    others = ("settings-llama_2_7b", "range-llama_2_7b", "speed", "timeline")
    assert [name for name, *_ in drawn] == [*(f"figure-memory-{m}" for m in models), *(f"figure-{o}" for o in others)]
    assert all(has_svg and marks for _, has_svg, marks in drawn), drawn


def test_the_cell_selector_replaces_the_timeline_with_its_parts_and_peak(page):
    read = "(g => [g.data[0].y.length, g.layout.annotations.at(-1).text])(document.getElementById('figure-timeline'))"
    before = page.evaluate(read)
    page.evaluate(SELECT.format(figure="figure-timeline", index=2))
    after = page.evaluate(read)
    assert before[1].startswith("peak 54.00 GB") and after[1].startswith("peak 21.50 GB")
    assert page.errors == []


def test_the_model_selector_replaces_the_bars_of_the_speed_figure_only(page):
    read = "document.getElementById('figure-speed').data.at(-1).x.filter(x => x !== null).length"
    assert page.evaluate(read) > 0
    page.evaluate(SELECT.format(figure="figure-speed", index=1))
    assert page.evaluate(read) == 0  # nothing is published of this model's times
    assert page.evaluate("document.getElementById('figure-timeline').data.length") == 6
    assert page.errors == []


def test_the_page_itself_never_scrolls_sideways(browser, address):
    for width in (420, 1300):
        page = browser.open(address, width=width)
        page.wait_for(DRAWN)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
