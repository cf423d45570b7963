"""The page of answers in a real browser: clicked through, it runs nothing that a model wrote and asks for nothing."""

from __future__ import annotations

import pytest

from tests.report import answers_tree, fixture_tree
from tests.report.browser import DRAWN
from tests.report.reader import HOSTILE
from workflow.stages.report import write_pages

PLANTED = "</script><script>window.planted = 1</script><img src='http://192.0.2.1/x.png' onerror='window.planted = 1'>"
QUESTION = "document.querySelector('#shown h2').firstChild.data"
CARDS = "[...document.querySelectorAll('.answer')].map(card => card.getAttribute('aria-label'))"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    plan = fixture_tree.experiment()
    plan["mt_bench"]["pairwise_baseline"] = "full"
    fixture_tree.write_tree(folder, plan)
    answers_tree.write_answers(folder, plan)
    full, lora, lisa = (folder / fixture_tree.run_of(plan, method, 0)["path"] for method in ("full", "lora", "lisa"))
    fixture_tree.write_stopped(folder, fixture_tree.run_of(plan, "galore", 0), "oom", "train", f"too large {HOSTILE}")
    answers_tree.change(full / "answers.jsonl", {"question_id": 81}, turns=[PLANTED, "\x1b[31mred \u202egnorw &amp;"])
    answers_tree.change(
        full / "answers.jsonl",
        {"question_id": 121},
        turns=["", "word " * 2000],
        truncated_tokens=[0, 9],
        ended=[True, False],
    )
    again = {"ratings": [None, 8.0, 6.0], "replies": [PLANTED, "eight [[8]]", "six [[6]]"], "rating": 7.0, "tries": 7}
    answers_tree.change(lora / "judgments.jsonl", {"question_id": 111, "turn": 2}, **again)
    verdict = {"verdicts": ["A", "tie"], "outcome": "inconsistent", "replies": [PLANTED, "The same. [[C]]"]}
    answers_tree.write_rows(lisa / "comparisons.jsonl", [{"question_id": 111, "turn": 1, **verdict}])
    baseline = fixture_tree.run_of(plan, "full", 0)["path"]
    for run in plan["runs"]:
        if run["method"] != "full":
            fixture_tree.write(folder / run["path"] / "pairwise.json", answers_tree.pairwise(baseline))
    write_pages(plan, fixture_tree.rows_of(plan, folder), folder)
    return (folder / "mt_bench.html").as_uri()


def set_value(page, field, value):
    """Type or choose a value as a reader would, as far as the page can tell."""
    page.evaluate(
        f"(f => {{ f.value = '{value}'; f.dispatchEvent(new Event('input', {{bubbles: true}}));"
        f" f.dispatchEvent(new Event('change', {{bubbles: true}})); }})(document.getElementById('{field}'))"
    )


def tick(page, row):
    """Click the box of a method's row."""
    page.evaluate(f"document.querySelector('input[name=row][value$=\"/{row}\"]').click()")


def texts(page, selector):
    return page.evaluate(f"[...document.querySelectorAll('{selector}')].map(found => found.innerText)")


def offered(page):
    """The ids of the questions that can be gone to."""
    return page.evaluate("[...document.getElementById('question').options].map(o => o.text.split(' ')[0])")


def test_it_opens_without_network_and_console_errors(page, address):
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    assert page.errors == []
    assert page.evaluate(QUESTION) == "Question 81"
    assert page.evaluate(CARDS) == [f"{name}, seed 0, turn {turn}" for turn in (1, 2) for name in ("vanilla", "full")]


def test_what_a_model_wrote_is_text_and_runs_nothing(page):
    assert page.evaluate("window.planted") is None
    written = texts(page, ".answer .body")
    assert written[1] == PLANTED
    assert written[3] == "U+001B[31mred U+202Egnorw &amp;"  # shown by their numbers; nothing is coloured or turned
    assert page.evaluate("document.querySelectorAll('main img, #shown script').length") == 0
    assert HOSTILE in texts(page, "#lacking td")[0]


def test_next_previous_and_the_list_move_through_the_questions(page):
    page.evaluate("document.getElementById('next').click()")
    assert page.evaluate(QUESTION) == "Question 82"
    set_value(page, "question", 3)
    assert page.evaluate(QUESTION) == "Question 121"
    assert page.evaluate("document.getElementById('next').disabled")
    page.evaluate("document.getElementById('previous').click()")
    assert page.evaluate(QUESTION) == "Question 111"
    assert texts(page, "#count") == ["Question 3 of 4; 2 runs"]


def test_keys_move_too_but_not_while_a_reader_types(page):
    for key, question in (("j", 82), ("k", 81), ("k", 81), ("ArrowRight", 82), ("ArrowLeft", 81), ("j", 82)):
        page.press(key)
        assert page.evaluate(QUESTION) == f"Question {question}"
    page.evaluate("document.getElementById('text').focus()")
    page.press("ArrowLeft")
    assert page.evaluate(QUESTION) == "Question 82"
    page.press("j")
    assert page.evaluate("document.getElementById('text').value") == "j"


def test_filters_by_category_and_method_and_text(page):
    set_value(page, "category", "math")
    assert offered(page) == ["111"] and page.evaluate(QUESTION) == "Question 111"
    tick(page, "vanilla/default")
    tick(page, "lisa/gamma2")
    assert page.evaluate(CARDS)[:2] == ["full, seed 0, turn 1", "lisa gamma2, seed 0, turn 1"]
    assert "What is 2 + 3?" in texts(page, ".asked")[0]
    set_value(page, "category", "")
    set_value(page, "text", "GAMMA2 SEED 0 ON 121")
    assert offered(page) == ["121"]
    set_value(page, "text", "nobody wrote this")
    assert offered(page) == [] and texts(page, "#count") == ["None of 4 questions fits; 2 runs"]
    assert page.errors == []


def test_filters_by_difference_of_the_ratings_shown(page):
    set_value(page, "differ", 8)
    assert offered(page) == ["82", "111", "121"]  # 1 and 9; the first question is rated alike
    tick(page, "vanilla/default")
    assert offered(page) == []
    set_value(page, "differ", 0)
    assert len(offered(page)) == 4


def test_filters_by_what_went_wrong(page):
    tick(page, "lora/r128")
    found = {}
    for kind in ("empty", "unparsable", "flawed", "capped", "cut"):
        set_value(page, "only", kind)
        found[kind] = offered(page)
    cut = {"capped": ["121"], "cut": ["121"]}
    assert found == {"empty": ["121"], "unparsable": ["111"], "flawed": ["111", "121"], **cut}


def test_repeats_and_flags_are_shown_and_judgments_unfold(page):
    tick(page, "lora/r128")
    set_value(page, "question", 2)
    card = '.answer[aria-label="lora r128, seed 0, turn 2"]'
    assert texts(page, f"{card} .rating") == ["7 of 10 median of –, 8, 6"]
    assert texts(page, f"{card} .flags li") == ["1 of 3 judgments unparsable"]
    shown = f"document.querySelector('{card} details .text').checkVisibility()"
    assert not page.evaluate(shown)
    page.evaluate(f"document.querySelector('{card} summary').click()")
    assert page.evaluate(shown)
    assert texts(page, f"{card} details .text") == [PLANTED, "eight [[8]]", "six [[6]]"]
    assert "7 calls" in texts(page, f"{card} details .meta")[0]
    assert page.evaluate("window.planted") is None


def test_comparisons_name_the_baseline_and_the_outcome(page):
    tick(page, "lisa/gamma2")
    set_value(page, "question", 2)
    card = '.answer[aria-label="lisa gamma2, seed 0, turn 1"]'
    assert texts(page, f"{card} summary")[1] == "Compared with full, seed 0: inconsistent"
    page.evaluate(f"document.querySelectorAll('{card} summary')[1].click()")
    assert texts(page, f"{card} details:last-child h5") == ["Shown first: this answer is better", "Shown second: a tie"]


def test_long_answers_fold_and_empty_ones_say_so(page):
    set_value(page, "question", 3)
    first, second = (f'.answer[aria-label="full, seed 0, turn {turn}"]' for turn in (1, 2))
    assert texts(page, f"{first} .body") == ["(empty)"] and texts(page, f"{first} .flags li") == ["empty answer"]
    assert texts(page, f"{second} .flags li") == [
        "answer cut off: it reached max_new_tokens before its end",
        "context cut: its first 9 tokens were left out",
    ]
    height = f"document.querySelector('{second} .text').clientHeight"
    folded = page.evaluate(height)
    assert texts(page, f"{second} .fold") == ["Show all 10,000 characters"]
    page.evaluate(f"document.querySelector('{second} .fold').click()")
    assert page.evaluate(height) > 2 * folded
    assert page.evaluate(f"document.querySelector('{second} .fold').getAttribute('aria-expanded')") == "true"


def test_what_is_chosen_stands_in_the_address_and_comes_back(browser, page):
    tick(page, "lora/r128")
    tick(page, "full/default")
    page.evaluate("document.querySelector('input[name=seed][value=\"1\"]').click()")
    set_value(page, "only", "unparsable")
    kept = page.evaluate("location.href")
    again = browser.open(kept)
    again.wait_for(DRAWN)
    for question in (QUESTION, CARDS, "document.getElementById('only').value", "location.href"):
        assert again.evaluate(question) == page.evaluate(question)
    assert again.evaluate(QUESTION) == "Question 111" and len(again.evaluate(CARDS)) == 2 * 2 * 2


def test_a_run_without_answers_says_why_in_its_column(page):
    tick(page, "galore/default")
    card = '.answer[aria-label="galore, seed 0, turn 1"]'
    assert f"No answers: oom: too large {HOSTILE}" in texts(page, card)[0]


def test_it_fits_a_narrow_screen(browser, address):
    page = browser.open(address, width=375)
    page.wait_for(DRAWN)
    for place in range(4):
        set_value(page, "question", place)
        assert page.evaluate("document.documentElement.scrollWidth <= 375")


def test_every_control_has_a_name_for_screen_readers(page):
    told = page.names_of_controls()
    assert {role for role, _ in told} >= {"button", "checkbox", "combobox", "link", "searchbox", "spinbutton"}
    assert not [role for role, name in told if not name.strip()]
    assert page.evaluate("document.getElementById('count').getAttribute('role')") == "status"
