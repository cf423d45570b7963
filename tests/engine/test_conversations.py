from __future__ import annotations

from typing import Any

import pytest

from tests.engine.small_tokenizer import turns
from workflow.engine.conversations import SCHEMAS, is_answered, to_conversation
from workflow.engine.errors import InputError

WHERE = "data 'sums' (org/sums, train, record 7)"


def test_an_alpaca_record_joins_instruction_and_input_with_an_empty_line() -> None:
    record = {"instruction": "Add.", "input": "2 and 3", "output": "5"}
    assert to_conversation(record, "alpaca", WHERE) == turns("Add.\n\n2 and 3", "5")


def test_an_alpaca_record_without_input_is_its_instruction() -> None:
    assert to_conversation({"instruction": "Greet.", "input": "", "output": "Hi"}, "alpaca", WHERE) == turns(
        "Greet.", "Hi"
    )


def test_a_gsm8k_record_is_question_and_whole_answer() -> None:
    record = {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
    assert to_conversation(record, "gsm8k", WHERE) == turns("2 + 3?", "2 + 3 = 5\n#### 5")


def test_a_record_of_instruction_and_output_is_a_request_and_its_answer() -> None:
    record = {"source": "data/CoT/gsm_train.json", "instruction": "2 + 3?", "output": "It is 5."}
    assert to_conversation(record, "instruction", WHERE) == turns("2 + 3?", "It is 5.")


def test_a_commonsense_record_is_an_alpaca_record_whose_short_answer_is_not_learned() -> None:
    record = {"instruction": "Is it true?", "input": "", "output": "the correct answer is true", "answer": "true"}
    assert to_conversation(record, "alpaca", WHERE) == turns("Is it true?", "the correct answer is true")


def test_a_pubmedqa_record_is_asked_in_the_words_of_the_benchmark() -> None:
    """Those of lm-eval's task, without the cue that a prompt format brings."""
    from lm_eval.tasks.pubmedqa.preprocess_pubmedqa import doc_to_text

    context = {"contexts": ["We asked.", "They answered."], "labels": ["METHODS", "RESULTS"], "meshes": []}
    record = {"question": "Does it help?", "context": context, "long_answer": "It does.", "final_decision": "yes"}
    asked = doc_to_text({"CONTEXTS": context["contexts"], "QUESTION": record["question"]})
    assert to_conversation(record, "pubmedqa", WHERE) == turns(asked.removesuffix("\nAnswer:"), "yes")


@pytest.mark.parametrize("context", ["We asked.", {"labels": []}, {"contexts": [5]}, {"contexts": None}])
def test_a_pubmedqa_record_without_its_abstract_is_refused(context: Any) -> None:
    record = {"question": "Does it help?", "context": context, "final_decision": "yes"}
    with pytest.raises(InputError, match=r"record 7\): context needs 'contexts', a list of texts"):
        to_conversation(record, "pubmedqa", WHERE)


def test_messages_keep_role_and_content_only() -> None:
    messages = [{**turn, "weight": 1} for turn in turns("a", "b", "c", "d", system="Be brief.")]
    assert to_conversation({"messages": messages}, "messages", WHERE) == turns("a", "b", "c", "d", system="Be brief.")


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_record_without_a_field_is_named_with_what_it_has(schema: str) -> None:
    with pytest.raises(InputError) as caught:
        to_conversation({"text": "x", "answer": None}, schema, WHERE)
    message = str(caught.value)
    first = SCHEMAS[schema][0][0]
    assert WHERE in message
    assert f"{first!r} is missing" in message
    assert f"{schema!r} needs {', '.join(SCHEMAS[schema][0])}" in message
    assert message.endswith("the record has text.")


def broken(messages: Any) -> str:
    with pytest.raises(InputError) as caught:
        to_conversation({"messages": messages}, "messages", WHERE)
    assert WHERE in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("messages", [[], turns("a"), turns("a", "b", "c")])
def test_a_conversation_without_an_answer_at_its_end_is_refused(messages: list[dict[str, str]]) -> None:
    assert "does not end with an answer" in broken(messages)


@pytest.mark.parametrize(("answer", "answered"), [("", False), (" \n", False), ("5", True)])
def test_an_empty_answer_is_told_from_one_with_text(answer: str, answered: bool) -> None:
    assert is_answered(to_conversation({"question": "2 + 3?", "answer": answer}, "gsm8k", WHERE)) is answered


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "human", "content": "a"}, *turns("a", "b")[1:]],
        [*turns("a", "b"), *turns("c", "d", system="late")],
        [*turns("a", "b")[:1], *turns("a", "b")],
        turns("a", "b")[1:],
    ],
)
def test_roles_out_of_turn_are_refused_rather_than_dropped(messages: list[dict[str, str]]) -> None:
    message = broken(messages)
    assert f"roles are {', '.join(turn['role'] for turn in messages)}" in message
    assert "legal: at most one system first, then user, assistant" in message


def test_messages_of_another_shape_are_refused() -> None:
    assert "'role' and 'content'" in broken([{"from": "human", "value": "a"}])
    assert "'role' and 'content'" in broken("hello")
    assert "5" in broken([{"role": "user", "content": 5}, turns("a", "b")[1]])


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match=r"record 7\): 5 stands where the content"):
        to_conversation({"question": "2 + 3?", "answer": 5}, "gsm8k", WHERE)
