"""The report in a real browser: it draws, says nothing to the console and asks the network for nothing."""

from __future__ import annotations

import pytest

from tests.report import fixture_tree
from tests.report.browser import DRAWN
from workflow.stages.report import write_pages

FIGURES = ["pareto", "differences", "memory", "speed", "forgetting", "training-loss", "validation-loss"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    plan = fixture_tree.experiment(models=2)
    plan["report"]["published"] = ["table2_accuracy"]
    fixture_tree.write_tree(folder, plan)
    fixture_tree.write_whole(folder, plan)
    write_pages(plan, fixture_tree.rows_of(plan, folder), folder)
    return (folder / "report.html").as_uri()


def test_the_page_opens_without_network_and_console_errors(page, address):
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    assert page.errors == []


def test_every_figure_is_drawn(page):
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plot')].map(p => [p.id, p.querySelectorAll('.main-svg').length > 0,"
        " p.querySelectorAll('.trace, .point').length])"
    )
    assert [name for name, _, _ in drawn] == [f"figure-{place}-{name}" for place in (1, 2) for name in FIGURES]
    assert all(has_svg and marks for _, has_svg, marks in drawn), drawn


def test_figures_take_the_colours_of_the_scheme(browser, address):
    for dark, colour in ((False, "#1c2128"), (True, "#e4e7eb")):
        page = browser.open(address, dark=dark)
        page.wait_for(DRAWN)
        assert page.evaluate("document.querySelector('.plot').layout.font.color") == colour


def test_the_selector_changes_the_score_of_its_figure_only(page):
    ids = "['figure-1-pareto', 'figure-2-pareto']"
    read = f"{ids}.map(id => document.getElementById(id).layout.yaxis.title.text)"
    assert page.evaluate(read) == ["MT-Bench (1 to 10)"] * 2
    page.evaluate(
        "(async () => { const s = document.querySelector('select'); s.selectedIndex = 4;"
        " s.dispatchEvent(new Event('change')); await new Promise(r => setTimeout(r, 300)); })()"
    )
    assert page.evaluate(read) == ["GSM8K (%)", "MT-Bench (1 to 10)"]
    assert page.evaluate("document.getElementById('figure-1-pareto').data[0].y[0]") == pytest.approx(38.5)
    assert page.errors == []


def test_a_second_selector_changes_what_the_score_stands_against(page):
    read = "document.getElementById('figure-1-pareto').layout.xaxis.title.text"
    assert page.evaluate(read) == "peak allocated while training (MB)"
    page.evaluate(
        "(async () => { const s = document.querySelectorAll('select')[1]; s.selectedIndex = 1;"
        " s.dispatchEvent(new Event('change')); await new Promise(r => setTimeout(r, 300)); })()"
    )
    assert page.evaluate(read) == "median time of an optimizer step (ms)" and page.errors == []


FIRST_CELLS = "[...document.querySelectorAll('{}')].filter(r => !r.hidden).map(r => r.cells[{}].textContent.trim())"


def test_a_title_sorts_its_column_up_down_and_back(page):
    titles = page.evaluate("[...document.querySelectorAll('#speed thead button')].map(b => b.textContent)")
    place = next(place for place, title in enumerate(titles) if title.startswith("Step, median"))
    read = FIRST_CELLS.format("#speed tbody tr", place)
    button = f"document.querySelectorAll('#speed thead button')[{place}]"
    before = page.evaluate(read)
    values = [float(cell.split(" ")[0]) for cell in before if cell != "–"]
    page.evaluate(f"{button}.focus()")
    orders = []
    for _ in range(3):
        page.evaluate("document.activeElement.click()")
        orders.append(page.evaluate(read))
    up, down = ([float(cell.split(" ")[0]) for cell in order if cell != "–"] for order in orders[:2])
    assert (up, down, orders[2]) == (sorted(values), sorted(values, reverse=True), before)
    assert page.evaluate("document.querySelector('#speed thead th[aria-sort]')") is None
    assert ("button", page.evaluate(f"{button}.textContent")) in page.names_of_controls()


def test_words_above_a_long_table_keep_the_rows_that_hold_all_of_them(page):
    page.evaluate("document.querySelector('#tasks summary').click()")
    rows = page.evaluate(FIRST_CELLS.format("#tasks tbody tr", 0))
    page.evaluate(
        "(i => { i.value = 'LoRA virology'; i.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#tasks input[type=search]'))"
    )
    kept = page.evaluate(
        "[...document.querySelectorAll('#tasks tbody tr')].filter(r => !r.hidden).map(r => r.textContent)"
    )
    assert 0 < len(kept) < len(rows) and all("lora" in row and "virology" in row for row in kept)
    assert (
        page.evaluate("document.querySelector('#tasks [role=status]').textContent")
        == f"{len(kept)} of {len(rows)} rows"
    )


def test_a_print_unfolds_what_is_folded_and_folds_it_again(page):
    read = "document.querySelectorAll('details[open]').length"
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(read) == page.evaluate("document.querySelectorAll('details').length") > 3
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(read) == 0 and page.errors == []


def test_scores_by_task_unfold_by_a_click(page):
    seen = "document.querySelector('#tasks .scroll').checkVisibility()"
    assert page.evaluate(seen) is False
    page.evaluate("document.querySelector('#tasks summary').click()")
    assert page.evaluate(seen) is True and page.errors == []


def test_no_button_sends_a_figure_away(page):
    titles = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert titles
    assert not [title for title in titles if "hare" in title or "loud" in title]


def test_tables_scroll_within_a_narrow_page(browser, address):
    page = browser.open(address, width=420)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("(t => t.scrollWidth > t.clientWidth)(document.querySelector('.scroll'))")


def test_the_column_of_names_leaves_room_for_the_others_on_a_narrow_page(browser, tmp_path):
    plan = fixture_tree.experiment()
    fixture_tree.write_tree(tmp_path, plan)
    plan["runs"] = [run | {"variant": "a-variant-with-a-name-of-many-words"} for run in plan["runs"]]
    write_pages(plan, fixture_tree.rows_of(plan, tmp_path), tmp_path)
    page = browser.open((tmp_path / "report.html").as_uri(), width=400)
    widths = (
        "['#methods tbody th', '#methods .scroll'].map(s => document.querySelector(s).getBoundingClientRect().width)"
    )
    names, table = page.evaluate(widths)
    assert names < 0.4 * table


def test_all_methods_fit_on_a_page_where_one_benchmark_was_run(browser, tmp_path):
    plan = fixture_tree.experiment()
    plan["mt_bench"] = None
    fixture_tree.write_tree(tmp_path, plan)
    for run in plan["runs"]:
        scores = fixture_tree.scores(run)
        scores["benchmarks"] = {"gsm8k": scores["benchmarks"]["gsm8k"]}
        fixture_tree.write(tmp_path / run["path"] / "scores.json", scores)
        (tmp_path / run["path"] / "mt_bench.json").unlink()
    write_pages(plan, fixture_tree.rows_of(plan, tmp_path), tmp_path)
    page = browser.open((tmp_path / "report.html").as_uri(), width=1300)
    assert page.evaluate("(t => t.scrollWidth <= t.clientWidth)(document.querySelector('#methods .scroll'))")
