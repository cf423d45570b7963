"""The page of answers: every answer and judgment is on it, escaped; what is missing is said; damage has a name."""

from __future__ import annotations

import json
import re

import pytest

from eval import EvaluationError
from tests.report import answers_tree, fixture_tree
from tests.report.answers_tree import change, said
from tests.report.reader import HOSTILE, Reader
from workflow.report.answers_page import UNPREPARED
from workflow.stages.report import write_pages

ISLAND = re.compile(r'<script type="application/json" data-run="([^"]*)">(.*?)</script>', re.DOTALL)
INDEX = re.compile(r'<script type="application/json" id="index">(.*?)</script>', re.DOTALL)


@pytest.fixture
def plan(tmp_path):
    plan = fixture_tree.write_tree(tmp_path)
    answers_tree.write_answers(tmp_path, plan)
    return plan


def page_of(plan, folder):
    write_pages(plan, fixture_tree.rows_of(plan, folder), folder)
    return (folder / "mt_bench.html").read_text(encoding="utf-8")


def islands(page):
    """What the page holds of each run, by its path."""
    return {path: json.loads(content) for path, content in ISLAND.findall(page)}


def index(page):
    return json.loads(INDEX.search(page).group(1))


def about(page, run):
    """What the page says of a run."""
    return next(known for known in index(page)["runs"] if known["path"] == run["path"])


def file_of(folder, run, name="answers.jsonl"):
    return folder / run["path"] / name


def test_every_answer_and_judgment_of_every_run_is_on_the_page(tmp_path, plan):
    page = page_of(plan, tmp_path)
    shown = islands(page)
    assert list(shown) == [run["path"] for run in plan["runs"]]
    for run in plan["runs"]:
        for question, entry in zip(answers_tree.QUESTIONS, shown[run["path"]], strict=True):
            for turn in (1, 2):
                judged = entry["judgments"][turn - 1]
                assert entry["turns"][turn - 1] == f"{said(run, question, turn)}."
                assert judged["ratings"] == [judged["rating"]]
                assert said(run, question, turn) in judged["replies"][0]
    asked = index(page)["questions"]
    assert [question["turns"] for question in asked] == [question["turns"] for question in answers_tree.QUESTIONS]
    assert [question["reference"] for question in asked[1:3]] == [None, answers_tree.REFERENCES[111]]


def test_the_page_asks_for_no_other_file(tmp_path, plan):
    page = page_of(plan, tmp_path)
    addresses = [value for _, name, value in Reader(page).attributes if name in ("src", "href", "action")]
    assert set(addresses) == {"data:,", "report.html"}
    assert "http" not in page.split('<script type="application/json"')[0]
    assert len(page.encode()) < 100_000  # no library travels with it


@pytest.mark.parametrize(
    "text", [HOSTILE, "</script><img src=x onerror=alert(1)>", "<!--<script>", "\x1b[31m\u2028 \u202e\ud83d"]
)
def test_what_models_and_judges_wrote_leaves_its_island_nowhere(tmp_path, plan, text):
    run = fixture_tree.run_of(plan, "full", 0)
    written = text.replace("\ud83d", "")  # half a pair cannot be written to a file
    change(file_of(tmp_path, run), {"question_id": 81}, turns=[written, "a"])
    row = {"question_id": 81, "turn": 2}
    change(file_of(tmp_path, run, "judgments.jsonl"), row, replies=[written], ratings=[None], rating=None)
    page = page_of(plan, tmp_path)
    entry = islands(page)[run["path"]][0]
    assert entry["turns"] == [written, "a"] and entry["judgments"][1]["replies"] == [written]
    assert written not in page
    assert Reader(page).tags.count("script") == 2 + len(plan["runs"])  # the index, the islands, the page's own
    assert page.count("<img") == 0


def test_names_and_reasons_are_escaped(tmp_path, plan):
    plan["name"] = HOSTILE
    run = fixture_tree.run_of(plan, "full", 0)
    fixture_tree.write_stopped(tmp_path, run, "failed", "train", HOSTILE)
    page = page_of(plan, tmp_path)
    assert HOSTILE not in page and Reader(page).text.count(HOSTILE) >= 2


def test_repeats_unparsable_replies_and_cut_contexts_are_kept(tmp_path, plan):
    run = fixture_tree.run_of(plan, "lora", 1)
    change(file_of(tmp_path, run), {"question_id": 82}, turns=["", "b"], truncated_tokens=[0, 17])
    again = {"ratings": [7.0, None, 8.0], "replies": ["one", "no number", "three"], "rating": 7.5, "tries": 5}
    change(file_of(tmp_path, run, "judgments.jsonl"), {"question_id": 82, "turn": 1}, **again)
    entry = islands(page_of(plan, tmp_path))[run["path"]][1]
    assert (entry["turns"], entry["cut"]) == (["", "b"], [0, 17])
    assert {key: entry["judgments"][0][key] for key in again} == again


def test_answers_that_the_cap_cut_off_are_kept_and_counted(tmp_path, plan):
    run, old = fixture_tree.run_of(plan, "lora", 1), fixture_tree.run_of(plan, "full", 0)
    assert "no record of answers cut off by max_new_tokens" in page_of(plan, tmp_path)
    change(file_of(tmp_path, run), {"question_id": 82}, ended=[True, False])
    judged = json.loads(file_of(tmp_path, run, "mt_bench.json").read_text())
    fixture_tree.write(file_of(tmp_path, run, "mt_bench.json"), judged | {"capped_answers": 1})
    page = page_of(plan, tmp_path)
    assert islands(page)[run["path"]][1]["ended"] == [True, False]
    assert islands(page)[old["path"]][1]["ended"] is None
    assert "1 answers cut off by max_new_tokens (not recorded in 11 of 12 runs)" in page


def test_judgments_of_before_there_were_repeats_are_read(tmp_path, plan):
    run = fixture_tree.run_of(plan, "lora", 1)
    old = [
        {key: row[key] for key in ("question_id", "category", "turn", "prompt_name", "rating")} | {"reply": "Old [[3]]"}
        for row in answers_tree.judgments(run)
    ]
    answers_tree.write_rows(file_of(tmp_path, run, "judgments.jsonl"), old)
    judged = islands(page_of(plan, tmp_path))[run["path"]][0]["judgments"][0]
    assert (judged["rating"], judged["ratings"], judged["replies"]) == (5.0, [5.0], ["Old [[3]]"])


def test_comparisons_with_the_baseline_stand_with_their_answers(tmp_path, plan):
    run, baseline = fixture_tree.run_of(plan, "lisa", 0), fixture_tree.run_of(plan, "full", 0)
    row = {"question_id": 111, "category": "math", "turn": 1, "prompt_name": "pair-math-v1"}
    verdict = {"verdicts": ["A", None], "outcome": None, "replies": ["[[A]]", "neither"]}
    answers_tree.write_rows(file_of(tmp_path, run, "comparisons.jsonl"), [row | verdict])
    fixture_tree.write(file_of(tmp_path, run, "pairwise.json"), answers_tree.pairwise(baseline["path"]))
    assert islands(page_of(plan, tmp_path))[run["path"]][2]["comparisons"] == [None, None]  # of a former experiment
    plan["mt_bench"]["pairwise_baseline"] = "full"
    page = page_of(plan, tmp_path)
    assert islands(page)[run["path"]][2]["comparisons"] == [verdict, None]
    assert about(page, run)["baseline"] == baseline["path"]
    assert about(page, baseline)["baseline"] is None


def test_runs_without_answers_are_listed_with_their_reason(tmp_path, plan):
    failed, oom, killed = (fixture_tree.run_of(plan, method, 0) for method in ("full", "lora", "galore"))
    fixture_tree.write_stopped(tmp_path, failed, "failed", "train", "disk full")
    fixture_tree.write_stopped(tmp_path, oom, "oom", "train", "CUDA out of memory")
    fixture_tree.write_killed(tmp_path, killed)
    page = page_of(plan, tmp_path)
    listed = Reader(page).text.split("Reason")[-1]
    for run, words in ((failed, "failed: disk full"), (oom, "oom: CUDA out of memory"), (killed, "missing: neither")):
        assert run["path"] in listed and words in listed
        assert run["path"] not in islands(page)
    assert "answers of 9 of 12 runs" in page


def test_answers_that_nobody_judged_are_shown_with_the_reason(tmp_path, plan):
    run = fixture_tree.run_of(plan, "full", 0)
    record = fixture_tree.record(run) | {"status": "failed", "phase": "judge", "error": "the judge is down"}
    fixture_tree.write(tmp_path / run["path"] / "failure.json", record)
    page = page_of(plan, tmp_path)
    assert islands(page)[run["path"]][0]["judgments"] == [None, None]
    assert (about(page, run)["silent"], about(page, run)["reason"]) == (False, "failed: the judge is down")
    assert run["path"] in Reader(page).text.split("Reason")[-1]


def test_a_question_without_an_answer_says_so(tmp_path, plan):
    run = fixture_tree.run_of(plan, "full", 0)
    answers_tree.write_rows(file_of(tmp_path, run), answers_tree.answers(run)[:2])
    entries = islands(page_of(plan, tmp_path))[run["path"]]
    assert [entry is None for entry in entries] == [False, False, True, True]


def test_answers_to_other_questions_than_asked_are_not_shown(tmp_path, plan):
    plan["mt_bench"]["limit"] = 1  # of every category: 82 is left out
    page = page_of(plan, tmp_path)
    assert [question["id"] for question in index(page)["questions"]] == [81, 111, 121]
    assert islands(page) == {}
    assert "answers to questions that the experiment does not ask (82)" in Reader(page).text


def test_an_answer_with_ends_of_lines_that_json_leaves_alone_is_one_row(tmp_path, plan):
    run = fixture_tree.run_of(plan, "full", 0)
    strange = "one\u2028two\u0085three"
    change(file_of(tmp_path, run), {"question_id": 81}, turns=[strange, "b"])
    assert islands(page_of(plan, tmp_path))[run["path"]][0]["turns"][0] == strange


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("answers.jsonl", '{"question_id": 81, "turns": ["a', "answers.jsonl, line 1 is not JSON"),
        ("answers.jsonl", "[]", "answers.jsonl, line 1 holds a list"),
        ("answers.jsonl", '{"question_id": 81}', "answers.jsonl: field 'turns' is missing"),
        ("judgments.jsonl", '{"question_id": 81, "turn": 1, "rating": 3}', "field 'prompt_name' is missing"),
        ("judgments.jsonl", '{"question_id": 81, "turn": 1, "rating": 3, "prompt_name": "p"}', "field 'reply' is"),
        ("comparisons.jsonl", '{"question_id": 81, "turn": 1, "outcome": "win"}', "field 'verdicts' is missing"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, plan, name, content, message):
    plan["mt_bench"]["pairwise_baseline"] = "vanilla"
    run, baseline = fixture_tree.run_of(plan, "full", 0), fixture_tree.run_of(plan, "vanilla", 0)
    fixture_tree.write(file_of(tmp_path, run, "pairwise.json"), answers_tree.pairwise(baseline["path"]))
    file_of(tmp_path, run, name).write_text(content + "\n")
    with pytest.raises(EvaluationError, match=message) as error:
        page_of(plan, tmp_path)
    assert "Delete the file" in str(error.value)


def test_without_prepared_questions_the_page_says_so(tmp_path, plan):
    (tmp_path / "benchmarks/manifest.json").unlink()
    page = page_of(plan, tmp_path)
    assert UNPREPARED in Reader(page).text and islands(page) == {}
    assert "its questions are not prepared here" in page and "run it again" not in page


def test_the_first_two_methods_with_answers_are_chosen_and_silent_ones_cannot_be(tmp_path, plan):
    for seed in (0, 1):
        fixture_tree.write_killed(tmp_path, fixture_tree.run_of(plan, "vanilla", seed))
    page = page_of(plan, tmp_path)
    boxes = re.findall(r'name="row" value="[^"]*/([^"/]+)/[^"/]+"( checked)?( disabled)?', page)
    assert boxes == [
        ("vanilla", "", " disabled"),
        ("full", " checked", ""),
        ("lora", " checked", ""),
        ("galore", "", ""),
        ("lisa", "", ""),
        ("lisa", "", ""),
    ]
    assert len(re.findall(r'name="seed" value="\d+" checked', page)) == 1


@pytest.mark.parametrize(
    ("changes", "means"),
    [
        ({"repeats": 2}, "6.90 (rule-based, judged once), 7.00 (rule-based, judged 2 times)"),
        ({"judge": {"kind": "llm", "model": "judge-7b"}}, "6.90 (rule-based), 7.00 (llm: judge-7b)"),
    ],
)
def test_seeds_that_were_judged_in_different_ways_have_a_mean_each(tmp_path, plan, changes, means):
    run = fixture_tree.run_of(plan, "full", 1)
    fixture_tree.write(file_of(tmp_path, run, "mt_bench.json"), fixture_tree.mt_bench(run) | changes)
    assert means in Reader(page_of(plan, tmp_path)).text


def test_rule_based_judge_and_world_are_said_before_any_answer(tmp_path, plan):
    header = page_of(plan, tmp_path).split("<main>")[0]
    assert "about the embedded world" in header and "rule-based judge" in header


def test_models_and_data_sets_are_told_apart(tmp_path):
    plan = fixture_tree.experiment(models=2)
    fixture_tree.write_tree(tmp_path, plan)
    answers_tree.write_answers(tmp_path, plan)
    page = page_of(plan, tmp_path)
    assert '<p class="panel">tiny1 on world-chat</p>' in page
    assert about(page, plan["runs"][0])["label"] == "vanilla, seed 0, tiny on world-chat"


def test_an_experiment_without_mt_bench_has_no_page_and_keeps_none(tmp_path, plan):
    page_of(plan, tmp_path)
    plan["mt_bench"] = None
    write_pages(plan, fixture_tree.rows_of(plan, tmp_path), tmp_path)
    assert not (tmp_path / "mt_bench.html").exists()
    assert 'href="mt_bench.html"' not in (tmp_path / "report.html").read_text()


def test_the_report_links_to_the_answers(tmp_path, plan):
    page_of(plan, tmp_path)
    assert '<a href="mt_bench.html">' in (tmp_path / "report.html").read_text()


def test_forty_methods_with_all_questions_stay_of_a_size_that_browsers_open(tmp_path, monkeypatch):
    """40 methods x 80 questions x 2 turns, each answer of 2,000 characters: what the data themselves take."""
    questions = [{"question_id": k, "category": "writing", "turns": ["A?", "B?"]} for k in range(80)]
    monkeypatch.setattr(answers_tree, "QUESTIONS", questions)
    run = fixture_tree.run_of(fixture_tree.experiment(), "full", 0)
    plan = fixture_tree.experiment() | {"runs": [run | {"variant": f"v{k}", "path": f"run{k}"} for k in range(40)]}
    for own in plan["runs"]:
        fixture_tree.write_ok(tmp_path, own)
    answers_tree.write_answers(tmp_path, plan)
    long = "<p>é</p>" * 250
    for own in plan["runs"]:
        rows = [row | {"turns": [long, long]} for row in answers_tree.answers(own)]
        answers_tree.write_rows(file_of(tmp_path, own), rows)
    page = page_of(plan, tmp_path)
    assert len(islands(page)) == 40
    data = sum(len(json.dumps(entries)) for entries in islands(page).values())
    assert len(page) < 4 * data
