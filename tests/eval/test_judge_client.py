"""The judge's client against scripted servers on 127.0.0.1: what is sent, kept, asked again, refused and shown."""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval import EvaluationError, judge_client
from eval.judge_client import RE_ASK_TEMPERATURE, JudgeSettings, Reply, Usage, ask, estimate, foresee
from eval.judge_server import MODEL, running_judge
from eval.judge_settings import shown_address
from eval.judge_store import JudgeStore
from tests.conftest import ROOT
from tests.eval.mt_bench_data import DRIPPING, completion, error, recorded_judgments, scripted_judge

KEY = "sk-planted-0123456789abcdef"
WORDS = ("first", "second", "third", "fourth")
REQUESTS = [[{"role": "system", "content": "Judge."}, {"role": "user", "content": word}] for word in WORDS]


def settings(base_url: str, **changes) -> JudgeSettings:
    given = {"base_url": base_url, "model": "scripted", "api_key": KEY, "timeout_s": 10, "backoff_s": 0.01}
    return JudgeSettings(**given | changes)


def is_rated(text: str) -> bool:
    return "[[" in text


def replies(base_url: str, store: Path | None = None, *, repeats: int = 1, usage: Usage | None = None, **changes):
    return ask(REQUESTS, settings(base_url, **changes), store, accept=is_rated, repeats=repeats, usage=usage)


def word_of(request: dict) -> str:
    return request["messages"][1]["content"]


def counted(text: str, prompt_tokens: int, completion_tokens: int):
    status, content = completion(text)
    used = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return status, {**content, "usage": used}


def rows(store: Path, query: str) -> list[tuple]:
    with sqlite3.connect(store) as connection:
        return connection.execute(query).fetchall()


# --- what is asked


def test_request_asks_for_the_repeatable_setting():
    with scripted_judge(lambda request, number: completion("[[5]]")) as (url, seen):
        replies(url)
    asked = {(request["temperature"], request["max_tokens"], request["model"]) for request in seen}
    assert asked == {(0, 2048, "scripted")}
    assert {request["authorization"] for request in seen} == {f"Bearer {KEY}"}


def test_replies_keep_the_requests_order_when_they_come_late_and_out_of_order():
    order: list[str] = []
    all_there = threading.Barrier(3, timeout=5)

    def answer(request, number):
        word = word_of(request)
        if number > 0:
            all_there.wait()  # three requests are under way together
            time.sleep({"second": 0.2, "third": 0.1, "fourth": 0.0}[word])
        order.append(word)
        return completion(f"{word} [[5]]")

    with scripted_judge(answer) as (url, _):
        texts = [reply.text for (reply,) in replies(url, concurrency=3)]
    assert order != list(WORDS)
    assert texts == [f"{word} [[5]]" for word in WORDS]


def test_each_repeat_is_a_call_of_its_own():
    with scripted_judge(lambda request, number: completion(f"[[{number}]]")) as (url, seen):
        got = replies(url, repeats=3)
    assert [len(own) for own in got] == [3] * 4
    assert len({reply.text for own in got for reply in own}) == len(seen) == 12


def test_equal_requests_share_a_reply():
    with scripted_judge(lambda request, number: completion(f"[[{number}]]")) as (url, seen):
        twice = ask([REQUESTS[0], REQUESTS[0]], settings(url), accept=is_rated)
    assert twice[0] == twice[1] and len(seen) == 1


def test_no_more_calls_than_the_pace_begin_in_a_minute(monkeypatch):
    """Nobody really waits: the clock stands, and all that would be slept is noted."""
    slept: list[float] = []
    monkeypatch.setattr(judge_client, "time", SimpleNamespace(monotonic=lambda: 100.0))
    monkeypatch.setattr(judge_client._Asking, "_sleep", lambda self, duration_s: slept.append(duration_s))
    with scripted_judge(lambda request, number: completion("[[5]]")) as (url, _):
        replies(url, requests_per_minute=300)
    assert sorted(slept) == pytest.approx([0.0, 0.2, 0.4, 0.6])


# --- what is kept


def test_a_second_judging_asks_nothing(tmp_path):
    store = tmp_path / "judge.sqlite"
    with scripted_judge(lambda request, number: completion(f"{word_of(request)} [[{number}]]")) as (url, seen):
        first = replies(url, store, repeats=2)
        again = Usage()
        assert replies(url, store, repeats=2, usage=again) == first
        assert len(seen) == 8
        more = Usage()
        assert [own[:2] for own in replies(url, store, repeats=3, usage=more)] == first
    assert len(seen) == 12
    assert (again.asked, again.from_store) == (0, 8) and (more.asked, more.from_store) == (4, 8)


@pytest.mark.parametrize("change", [{"model": "another"}, {"base_url": "http://localhost:{port}/v1"}])
def test_another_judge_is_asked_anew(tmp_path, change):
    store = tmp_path / "judge.sqlite"
    with scripted_judge(lambda request, number: completion("[[1]]")) as (url, seen):
        replies(url, store)
        port = url.rpartition(":")[2].removesuffix("/v1")
        replies(**{"base_url": url, **{key: value.format(port=port) for key, value in change.items()}}, store=store)
    assert len(seen) == 8


def test_a_named_server_is_known_at_another_port(tmp_path):
    store = tmp_path / "judge.sqlite"
    for expected in (4, 0):
        with scripted_judge(lambda request, number: completion("[[1]]")) as (url, seen):
            replies(url, store, server_name="ours")
        assert len(seen) == expected


def test_every_request_reply_and_failed_call_is_in_the_store(tmp_path):
    store = tmp_path / "judge.sqlite"

    def answer(request, number):
        return error(500, "busy") if number == 0 else counted(f"{word_of(request)} [[4]]", 7, 3)

    with scripted_judge(answer) as (url, _):
        ask(REQUESTS, settings(url), store, accept=is_rated, labels=[f"about {word}" for word in WORDS])
    kept = rows(store, "SELECT label, model, server, messages, temperature, max_tokens FROM requests")
    assert {(label, json.loads(messages)[1]["content"]) for label, _, _, messages, _, _ in kept} == {
        (f"about {word}", word) for word in WORDS
    }
    assert {(model, server, temperature, most) for _, model, server, _, temperature, most in kept} == {
        ("scripted", url, 0.0, 2048)
    }
    calls = rows(store, "SELECT reply, accepted, finish_reason, prompt_tokens, completion_tokens, fault FROM calls")
    assert calls[0] == (None, None, None, None, None, "answered with HTTP 500: busy")
    assert {row[0] for row in calls[1:]} == {f"{word} [[4]]" for word in WORDS}
    assert {row[1:] for row in calls[1:]} == {(1, "stop", 7, 3, None)}


@pytest.mark.parametrize("content", [b"no database at all, " * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_damaged_store_is_named_before_anything_is_asked(tmp_path, content):
    store = tmp_path / "judge.sqlite"
    store.write_bytes(content)
    with scripted_judge(lambda request, number: completion("[[1]]")) as (url, seen):
        with pytest.raises(EvaluationError, match=rf"{re.escape(str(store))} (is damaged|cannot be used)"):
            replies(url, store)
    assert seen == [] and store.read_bytes() == content


def test_store_whose_pages_are_overwritten_is_damaged(tmp_path):
    store = tmp_path / "judge.sqlite"
    with scripted_judge(lambda request, number: completion("[[1]]" + "long " * 2000)) as (url, _):
        replies(url, store)
        content = bytearray(store.read_bytes())
        content[4096:12288] = b"\x17" * 8192
        store.write_bytes(bytes(content))
        with pytest.raises(EvaluationError, match=r"judge\.sqlite is damaged"):
            replies(url, store)


def test_file_of_another_kind_is_refused(tmp_path):
    store = tmp_path / "judge.sqlite"
    rows(store, "CREATE TABLE notes (text TEXT)")
    with pytest.raises(EvaluationError, match=r"judge\.sqlite is an SQLite file of another kind \(version 0, not 1\)"):
        replies("http://127.0.0.1:1/v1", store)


def test_store_without_a_folder_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"nowhere/judge\.sqlite cannot be used: unable to open"):
        replies("http://127.0.0.1:1/v1", tmp_path / "nowhere" / "judge.sqlite")


def test_a_second_judging_of_one_store_at_a_time_is_refused(tmp_path):
    store = tmp_path / "judge.sqlite"
    with scripted_judge(lambda request, number: completion("[[5]]")) as (url, seen):
        with JudgeStore(store) as other, other.alone():
            with pytest.raises(EvaluationError, match=rf"{re.escape(str(store))} is in use by another judging"):
                replies(url, store)
            assert seen == []
            foresee(REQUESTS, settings(url), store, accept=is_rated)
        replies(url, store)
    assert len(seen) == 4


def test_a_killed_judging_leaves_no_lock(tmp_path):
    store = tmp_path / "judge.sqlite"
    program = "import pathlib, sys, time; from eval.judge_store import JudgeStore; "
    program += "lock = JudgeStore(pathlib.Path(sys.argv[1])).alone(); lock.__enter__(); "
    program += "print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(store)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with JudgeStore(store) as own, pytest.raises(EvaluationError, match="in use by another"), own.alone():
            pass
        holder.kill()
    with JudgeStore(store) as own, own.alone():
        pass


# --- what is asked again


def test_unreadable_reply_is_asked_again_above_temperature_zero(tmp_path):
    def answer(request, number):
        first = request["temperature"] == 0 and word_of(request) != "first"
        return counted("I would rather not say." if first else "[[6]]", 10, 5)

    with scripted_judge(answer) as (url, seen):
        got = replies(url, tmp_path / "judge.sqlite")
    assert [reply.text for (reply,) in got] == ["[[6]]"] * 4
    assert [(reply.tries, reply.prompt_tokens, reply.completion_tokens) for (reply,) in got] == [
        (1, 10, 5),
        *[(2, 20, 10)] * 3,
    ]
    assert sorted(request["temperature"] for request in seen) == [0.0] * 4 + [RE_ASK_TEMPERATURE] * 3
    asked = rows(tmp_path / "judge.sqlite", "SELECT number, temperature, accepted FROM calls")
    assert sorted(asked) == [(1, 0.0, 0)] * 3 + [(1, 0.0, 1)] + [(2, RE_ASK_TEMPERATURE, 1)] * 3


@pytest.mark.parametrize("text", ["I would rather not say.", "", " \n"])
def test_reply_that_stays_unreadable_is_kept_and_not_asked_for_ever(tmp_path, text):
    store = tmp_path / "judge.sqlite"
    with scripted_judge(lambda request, number: completion(text)) as (url, seen):
        got = replies(url, store, max_asks=3)
        assert len(seen) == 12
        assert replies(url, store, max_asks=3) == got
    assert len(seen) == 12
    assert {(reply.text, reply.tries) for (reply,) in got} == {(text, 3)}


def test_reply_without_content_is_an_empty_one():
    _, content = completion("")
    content["choices"][0] |= {"message": {"role": "assistant", "content": None}, "finish_reason": "content_filter"}
    with scripted_judge(lambda request, number: (200, content)) as (url, _):
        assert {reply.text for (reply,) in replies(url, max_asks=2)} == {""}


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_failure_that_may_heal_is_tried_again(status):
    def answer(request, number):
        return error(status, "busy") if number in (0, 2, 3) else completion("[[4]]")

    with scripted_judge(answer) as (url, seen):
        assert [reply.tries for (reply,) in replies(url)] == [1] * 4
    assert len(seen) == 7


@pytest.mark.parametrize(
    "body", ["", "<html>Bad gateway</html>", {"choices": []}, {"error": {"message": "overloaded"}}]
)
def test_a_body_that_is_no_completion_is_tried_again_once_the_judge_has_spoken(body):
    def answer(request, number):
        return (200, body) if 0 < number < 6 else completion("[[4]]")

    with scripted_judge(answer) as (url, seen):
        replies(url, concurrency=1)
    assert len(seen) == 9


def test_half_a_surrogate_pair_in_a_reply_can_be_kept(tmp_path):
    body = json.dumps(completion("@ [[4]]")[1]).replace("@", "\\ud83d")
    with scripted_judge(lambda request, number: (200, body)) as (url, _):
        assert {reply.text for (reply,) in replies(url, tmp_path / "judge.sqlite")} == {"? [[4]]"}


def test_a_reply_that_drips_in_is_given_up_after_the_time_for_a_whole_call(tmp_path):
    """Each byte comes well within the limit."""
    store = tmp_path / "judge.sqlite"

    def answer(request, number):
        return DRIPPING if number == 0 else completion("[[4]]")

    with scripted_judge(answer) as (url, seen):
        assert [reply.tries for (reply,) in replies(url, store, timeout_s=0.5)] == [1] * 4
    assert len(seen) == 5
    faults = rows(store, "SELECT fault, took_s FROM calls WHERE reply IS NULL")
    assert [fault for fault, _ in faults] == ["did not answer in time (JUDGE_TIMEOUT_S)"]


@pytest.mark.parametrize("unit", ["seconds", "date"])
def test_retry_after_is_waited_for(unit):
    times: list[float] = []

    def answer(request, number):
        times.append(time.monotonic())
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: 1 to 2 s
        headers = {"Retry-After": "1" if unit == "seconds" else later}
        return (*error(429, "slow down"), headers) if number == 0 else completion("[[4]]")

    with scripted_judge(answer) as (url, _):
        replies(url)
    assert times[1] - times[0] >= 0.95


def test_a_server_that_asks_to_wait_for_hours_ends_at_once():
    answer = (*error(429, "daily limit"), {"Retry-After": "7200"})
    with scripted_judge(lambda request, number: answer) as (url, seen):
        with pytest.raises(EvaluationError, match="HTTP 429: daily limit, and asks to wait 7,200 s"):
            replies(url)
    assert len(seen) == 1


def test_waits_double_up_to_a_minute():
    with running_judge() as url:
        from eval.judge_client import _Asking

        asking = _Asking(settings(url, backoff_s=1.0), None, None, is_rated)
        for failures in range(1, 12):
            longest = min(60.0, 2.0 ** (failures - 1))
            assert all(longest / 2 <= asking._backoff_s(failures) <= longest for _ in range(20))


# --- what ends the judging


def test_lasting_server_error_ends_with_its_status_after_all_retries(tmp_path):
    with scripted_judge(lambda request, number: error(503, "out of memory")) as (url, seen):
        with pytest.raises(EvaluationError, match=r"127\.0\.0\.1.*HTTP 503: out of memory \(3 calls in a row failed\)"):
            replies(url, max_retries=2)
    assert len(seen) == 3


def test_a_failure_in_the_middle_keeps_what_was_answered(tmp_path):
    store = tmp_path / "judge.sqlite"
    broken = threading.Event()

    def answer(request, number):
        if word_of(request) == "third" and not broken.is_set():
            return error(400, "no such thing")
        return completion(f"{word_of(request)} [[4]]")

    with scripted_judge(answer) as (url, seen):
        with pytest.raises(EvaluationError, match="HTTP 400: no such thing"):
            replies(url, store, concurrency=1)
        asked = [word_of(request) for request in seen]
        broken.set()
        assert [reply.text for (reply,) in replies(url, store)] == [f"{word} [[4]]" for word in WORDS]
    assert asked == ["first", "second", "third"]
    assert sorted(word_of(request) for request in seen[3:]) == ["fourth", "third"]


def test_context_too_long_names_the_request_and_says_that_nothing_is_cut():
    body = {
        "error": {
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            "type": "invalid_request_error",
            "code": "context_length_exceeded",
        }
    }

    def answer(request, number):
        return (400, body) if word_of(request) == "third" else completion("[[4]]")

    with scripted_judge(answer) as (url, _):
        with pytest.raises(EvaluationError, match="too short a context for the request for question 3, turn 1 .*4096"):
            labels = [f"question {number}, turn 1" for number in range(1, 5)]
            ask(REQUESTS, settings(url), accept=is_rated, labels=labels)


def test_judge_that_is_down_ends_with_address_and_reason():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(EvaluationError) as caught:
        replies(url)
    assert str(caught.value).startswith(f"The judge at {url} cannot be reached: ")
    assert "refused" in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_judge_model_names_the_ones_on_offer():
    with running_judge() as url:
        with pytest.raises(EvaluationError, match=rf"does not know the model 'gpt-5' .*Offered: {MODEL}"):
            replies(url, model="gpt-5")


def test_unknown_model_that_is_a_bad_request_is_named_too():
    offer = (200, {"data": [{"id": "judge-7b"}]})
    with scripted_judge(lambda request, number: error(400, "bad model"), models=offer) as (url, _):
        with pytest.raises(
            EvaluationError, match=r"does not know the model 'scripted' \(HTTP 400\). Offered: judge-7b"
        ):
            replies(url)


def test_refused_key_ends_before_any_judgment():
    refusal = error(401, f"Incorrect API key provided: {KEY}")
    with scripted_judge(lambda request, number: refusal, models=refusal) as (url, seen):
        with pytest.raises(EvaluationError, match="refused the key .HTTP 401.: check JUDGE_API_KEY") as caught:
            replies(url)
    assert seen == [] and KEY not in str(caught.value)


def test_key_that_may_not_list_models_may_still_judge():
    forbidden = error(403, "Missing scopes: api.model.read")
    with scripted_judge(lambda request, number: completion("[[4]]"), models=forbidden) as (url, _):
        assert len(replies(url)) == 4


def test_quota_that_is_used_up_is_not_waited_for():
    status, body = error(429, "You exceeded your current quota")
    body["error"]["code"] = "insufficient_quota"
    with scripted_judge(lambda request, number: (status, body)) as (url, seen):
        with pytest.raises(EvaluationError, match="no quota left for this key: HTTP 429"):
            replies(url)
    assert len(seen) == 1


@pytest.mark.parametrize("content", ["<html>Welcome</html>", {"choices": []}, {"hello": 1}, "[]", "null"])
def test_server_that_speaks_something_else_is_named(content):
    with scripted_judge(lambda request, number: (200, content)) as (url, seen):
        with pytest.raises(EvaluationError, match="did not send a chat completion"):
            replies(url)
    assert len(seen) == 3


# --- secrets


def test_key_stands_in_no_output_and_not_in_the_store(caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG)
    store = tmp_path / "judge.sqlite"

    def answer(request, number):
        if number == 0:
            return error(500, f"trouble with {KEY}")
        _, content = completion(f"Your key is {KEY}. [[3]]")
        content["choices"][0]["finish_reason"] = KEY
        return 200, content

    with scripted_judge(answer) as (url, seen):
        got = replies(url, store)
        assert {reply.text for (reply,) in got} == {"Your key is [key]. [[3]]"}
        shown = [str(got), repr(settings(url)), str(settings(url))]
    assert f"Bearer {KEY}" in {request["authorization"] for request in seen}
    with scripted_judge(lambda request, number: error(400, f"bad request by {KEY}")) as (url, _):
        with pytest.raises(EvaluationError) as caught:
            ask([[{"role": "user", "content": f"leaked {KEY}"}]], settings(url), store, accept=is_rated, labels=[KEY])
    shown += [str(caught.value), "".join(traceback.format_exception(caught.value)), caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if KEY in text]
    assert b"[key]" in store.read_bytes() and KEY.encode() not in store.read_bytes()


def test_password_in_the_address_is_not_shown_nor_kept(tmp_path, caplog, capfd):
    store = tmp_path / "judge.sqlite"
    sent = base64.b64encode(b"me:secret/word").decode()
    said = f"{sent} me:secret/word secret/word secret%2Fword me:secret%2Fword"
    caplog.set_level(logging.DEBUG)
    with scripted_judge(lambda request, number: completion(f"{said} [[3]]")) as (url, seen):
        address = url.replace("http://", "http://me:secret%2Fword@")
        assert replies(address, store, api_key="none")[0][0].text == "[key] [key] [key] [key] [key] [[3]]"
        shown = [repr(settings(address, api_key="none")), caplog.text, *capfd.readouterr()]
    assert {request["authorization"] for request in seen} == {f"Basic {sent}"}
    with pytest.raises(EvaluationError) as caught:
        replies("http://me:secret%2Fword@127.0.0.1:1/v1", api_key="none")
    shown.append(str(caught.value))
    assert "http://127.0.0.1:1/v1" in shown[-1]
    for secret in (sent, "secret/word", "secret%2Fword"):
        assert not [text for text in shown if secret in text] and secret.encode() not in store.read_bytes()


def test_a_short_password_is_hidden_with_its_user_and_as_it_is_sent():
    short = settings("http://me:pw@h/v1", api_key="none")
    sent = base64.b64encode(b"me:pw").decode()
    assert short.redact(f"me:pw {sent} some pwords") == "[key] [key] some pwords"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://h/v1?key=planted", "must hold no ? and no #"),
        ("http://h/v1#planted", "must hold no ? and no #"),
        ("http://me:planted#x@h/v1", "must hold no ? and no #"),
        ("http://me:planted/x@h/v1", "no host or no valid port"),
        ("http:///v1/planted", "no host or no valid port"),
        ("me:planted@h/v1", "must begin with http"),
    ],
)
def test_address_that_is_not_well_formed_is_refused_and_not_shown(address, message):
    with pytest.raises(EvaluationError, match=re.escape(message)) as caught:
        settings(address, api_key="none")
    assert "planted" not in str(caught.value) and "JUDGE_BASE_URL" in str(caught.value)
    if "///" not in address:  # Snakemake's metadata, written before the address is refused
        assert "planted" not in shown_address(address)


def test_key_and_password_together_are_refused():
    with pytest.raises(EvaluationError, match=r"\(http://h/v1\) holds a user or password, and a key is set") as caught:
        settings("http://me:secret-word@h/v1")
    assert "secret-word" not in str(caught.value) and KEY not in str(caught.value)


# --- cost


def test_estimate_follows_its_rule():
    priced = settings("http://h/v1", input_usd_per_million_tokens=30, output_usd_per_million_tokens=60)
    messages = [{"role": "system", "content": "12345"}, {"role": "user", "content": "é" * 4}]
    about = estimate([messages, messages], priced, repeats=3)
    assert (about.requests, about.prompt_tokens, about.completion_tokens) == (6, 6 * (2 + 2), 6 * 200)
    assert about.cost_usd == pytest.approx((24 * 30 + 1200 * 60) / 1e6)
    assert estimate([messages], settings("http://h/v1")).cost_usd is None


def test_a_foreseen_reply_is_as_long_as_the_800_real_ones():
    lengths = [len(judgment["judgment"].encode()) for judgment in recorded_judgments()]
    assert sum(lengths) / len(lengths) == pytest.approx(200 * 4, rel=0.05)


def test_usage_adds_up_tokens_and_cost_of_all_tries(tmp_path):
    priced = {"input_usd_per_million_tokens": 1e5, "output_usd_per_million_tokens": 1e6}
    with scripted_judge(lambda request, number: counted("no" if number == 0 else "[[5]]", 10, 2)) as (url, _):
        usage = Usage()
        replies(url, tmp_path / "judge.sqlite", repeats=2, usage=usage, **priced)
        again = Usage()
        replies(url, tmp_path / "judge.sqlite", repeats=2, usage=again, **priced)
    record = usage.record()
    assert (record["requests"], record["asked"], record["from_store"]) == (8, 8, 0)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (90, 18)
    assert record["cost_usd"] == pytest.approx(90 * 0.1 + 18 * 1.0)
    assert record["estimated_completion_tokens"] == 1600
    assert again.record() == record | {"asked": 0, "from_store": 8}


def test_usage_is_unknown_where_the_server_does_not_count():
    with scripted_judge(lambda request, number: completion("[[5]]")) as (url, _):
        usage = Usage()
        replies(url, usage=usage, input_usd_per_million_tokens=1, output_usd_per_million_tokens=1)
    assert {usage.record()[name] for name in ("prompt_tokens", "completion_tokens", "cost_usd")} == {None}
    assert usage.record()["estimated_cost_usd"] is not None


def test_estimate_above_the_limit_refuses_before_the_first_call(tmp_path):
    store = tmp_path / "judge.sqlite"
    prices = {"input_usd_per_million_tokens": 0, "output_usd_per_million_tokens": 1e6 / 200}  # 1 USD a reply
    with scripted_judge(lambda request, number: counted("[[5]]", 1, 1)) as (url, seen):
        with pytest.raises(EvaluationError, match=r"about 4\.00 USD for 4 replies .* JUDGE_MAX_USD=3\.9"):
            replies(url, store, max_usd=3.9, **prices)
        assert seen == []
        ask(REQUESTS[:1], settings(url, max_usd=1.0, **prices), store, accept=is_rated)
        replies(url, store, max_usd=3.9, **prices)  # 3 are missing
    assert len(seen) == 4


def test_spending_more_than_foreseen_stops_at_the_limit(tmp_path):
    prices = {"input_usd_per_million_tokens": 0, "output_usd_per_million_tokens": 1e6 / 200}
    with scripted_judge(lambda request, number: counted("[[5]]", 1, 1000)) as (url, seen):  # 5 USD a reply
        with pytest.raises(EvaluationError, match=r"has cost 5\.00 USD by now, .* more than JUDGE_MAX_USD=4\.5"):
            replies(url, tmp_path / "judge.sqlite", max_usd=4.5, concurrency=1, **prices)
    assert len(seen) == 1


def test_the_limit_holds_over_all_invocations(tmp_path):
    """12 replies of 1 USD that are foreseen at 0.10 USD."""
    store = tmp_path / "judge.sqlite"
    prices = {"input_usd_per_million_tokens": 0, "output_usd_per_million_tokens": 1e5 / 200}
    with scripted_judge(lambda request, number: counted("[[5]]", 1, 2000)) as (url, seen):
        for message in (r"has cost 2\.00 USD by now", r"beside 2\.00 USD .* Nothing was asked", "Nothing was asked"):
            with pytest.raises(EvaluationError, match=message):
                replies(url, store, repeats=3, max_usd=2.0, concurrency=1, **prices)
        assert len(seen) == 2
        with pytest.raises(EvaluationError, match=r"has cost 3\.00 USD by now"):
            replies(url, store, repeats=3, max_usd=3.05, concurrency=1, **prices)
        ask(
            [[{"role": "user", "content": "another run's"}]],
            settings(url, max_usd=0.2, **prices),
            store,
            accept=is_rated,
        )
    assert len(seen) == 4


def test_estimate_and_usage_are_told_before_and_after(capfd):
    with scripted_judge(lambda request, number: counted("[[5]]", 10, 2)) as (url, _):
        replies(url, input_usd_per_million_tokens=1e6, output_usd_per_million_tokens=0)
    before, after = capfd.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"judge: 4 of 4 replies to ask of scripted at {url}, about 16 \+ 800 tokens, 16.00 USD", before
    )
    assert after == "judge: 4 replies asked, 0 from the store; all of them: 40 + 8 tokens, 40.00 USD"


def test_a_long_judging_tells_how_far_it_is(capfd, monkeypatch):
    monkeypatch.setattr("eval.judge_client._PROGRESS_EVERY_S", 0.05)
    go_on = threading.Event()

    def answer(request, number):
        if number == 3:
            assert go_on.wait(10)
        return error(500, "busy") if number == 0 else completion("[[5]]")

    with scripted_judge(answer) as (url, seen):
        judging = threading.Thread(target=replies, args=(url,), kwargs={"concurrency": 1})
        judging.start()
        told, until = "", time.monotonic() + 10
        while "2 of 4 replies; 2 calls answered, 1 failed" not in told and time.monotonic() < until:
            told += capfd.readouterr().err
            time.sleep(0.02)
        go_on.set()
        judging.join()
    assert "judge: 2 of 4 replies; 2 calls answered, 1 failed, the last: answered with HTTP 500: busy\n" in told


def test_foreseeing_asks_nothing_and_knows_the_store(tmp_path):
    store = tmp_path / "judge.sqlite"
    with scripted_judge(lambda request, number: completion("[[5]]")) as (url, seen):
        foresee(REQUESTS, settings(url), store, accept=is_rated)
        assert seen == [] and not store.exists()
        ask(REQUESTS[:1], settings(url), store, accept=is_rated)
        whole, missing = foresee(REQUESTS, settings(url), store, accept=is_rated, repeats=2)
    assert (whole.requests, missing.requests, len(seen)) == (8, 7, 1)


# --- the environment

ENVIRONMENT = {"JUDGE_MODEL": "gpt-4", "JUDGE_API_KEY": KEY}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JUDGE_API_KEY": KEY}, "JUDGE_MODEL"),
        ({"JUDGE_MODEL": "gpt-4", "JUDGE_API_KEY": " "}, "JUDGE_API_KEY"),
        (ENVIRONMENT | {"JUDGE_BASE_URL": "localhost:1"}, "must begin with http"),
        (ENVIRONMENT | {"JUDGE_API_KEY": "sk-two\nlines-of-key"}, "no HTTP header can carry"),
        (ENVIRONMENT | {"JUDGE_CONCURRENCY": "0"}, "JUDGE_CONCURRENCY='0' must be a whole number from 1 to 256"),
        (ENVIRONMENT | {"JUDGE_CONCURRENCY": "2.5"}, "JUDGE_CONCURRENCY='2.5' must be a whole number"),
        (ENVIRONMENT | {"JUDGE_REQUESTS_PER_MINUTE": "many"}, "JUDGE_REQUESTS_PER_MINUTE='many' must be a number"),
        (ENVIRONMENT | {"JUDGE_REQUESTS_PER_MINUTE": "0"}, "number from 0.1 to 1,000,000"),
        (ENVIRONMENT | {"JUDGE_TIMEOUT_S": "nan"}, "JUDGE_TIMEOUT_S='nan' must be a number from 1 to 86,400"),
        (ENVIRONMENT | {"JUDGE_INPUT_USD_PER_MILLION_TOKENS": "-1"}, "number from 0 to"),
        (ENVIRONMENT | {"JUDGE_OUTPUT_USD_PER_MILLION_TOKENS": "inf"}, "JUDGE_OUTPUT_USD_PER_MILLION_TOKENS='inf'"),
        (ENVIRONMENT | {"JUDGE_MAX_USD": "5"}, "JUDGE_MAX_USD needs the judge's prices"),
    ],
)
def test_environment_that_cannot_be_used_names_the_variable(environment, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        JudgeSettings.from_environment(environment)
    assert KEY not in str(caught.value) and "lines-of-key" not in str(caught.value)


def test_environment_falls_back_to_openai():
    read = JudgeSettings.from_environment({"JUDGE_MODEL": "gpt-4", "OPENAI_API_KEY": f"{KEY}\n"})
    assert (read.base_url, read.model, read.api_key) == ("https://api.openai.com/v1", "gpt-4", KEY)


def test_environment_sets_pace_limits_and_prices():
    read = JudgeSettings.from_environment(
        ENVIRONMENT
        | {
            "JUDGE_CONCURRENCY": "16",
            "JUDGE_REQUESTS_PER_MINUTE": "90",
            "JUDGE_TIMEOUT_S": "600",
            "JUDGE_INPUT_USD_PER_MILLION_TOKENS": "2.5",
            "JUDGE_OUTPUT_USD_PER_MILLION_TOKENS": "10",
            "JUDGE_MAX_USD": "3",
        }
    )
    assert (read.concurrency, read.requests_per_minute, read.timeout_s, read.max_usd) == (16, 90.0, 600.0, 3.0)
    assert read.cost_usd(1_000_000, 100_000) == pytest.approx(3.5)


def test_no_requests_need_no_judge():
    assert ask([], settings("http://127.0.0.1:1/v1"), accept=is_rated) == []


def test_reply_says_when_it_was_asked():
    with scripted_judge(lambda request, number: completion("[[5]]")) as (url, _):
        reply: Reply = replies(url)[0][0]
    asked_at = datetime.fromisoformat(reply.asked_at)
    assert abs(datetime.now(UTC) - asked_at) < timedelta(minutes=5)


def test_a_short_key_is_refused_and_not_shown():
    with pytest.raises(EvaluationError, match=r"7 characters.*none or EMPTY") as caught:
        settings("http://h/v1", api_key="abc1234")
    assert "abc1234" not in str(caught.value)
    assert settings("http://h/v1", api_key="EMPTY").api_key == "EMPTY"


def test_a_misspelt_variable_is_refused():
    variables = {"JUDGE_MODEL": "m", "JUDGE_API_KEY": "none", "JUDGE_REQUEST_PER_MINUTE": "5"}
    with pytest.raises(EvaluationError, match=r"JUDGE_REQUEST_PER_MINUTE\. Known: .*JUDGE_REQUESTS_PER_MINUTE"):
        JudgeSettings.from_environment(variables)


def test_a_named_server_and_one_written_otherwise_are_asked_nothing_again(tmp_path):
    with scripted_judge(lambda request, number: completion("[[7]]")) as (url, seen):
        for address in (url, f"{url}/", url.replace("http", "HTTP")):
            replies(address, tmp_path / "one.sqlite")
        assert len([request for request in seen if "messages" in request]) == len(REQUESTS)
    for _ in range(2):  # two ports
        with scripted_judge(lambda request, number: completion("[[7]]")) as (url, seen):
            replies(url, tmp_path / "two.sqlite", server_name="our judge")
    assert not [request for request in seen if "messages" in request]
