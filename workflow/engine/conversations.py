"""Records of instruction data sets -> conversations, by the schema an experiment names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workflow.engine.errors import InputError
from workflow.engine.prompts import Message


def _alpaca(record: Mapping[str, Any]) -> list[Message]:
    request = f"{record['instruction']}\n\n{record['input']}" if record["input"] else record["instruction"]
    return _exchange(request, record["output"])


def _gsm8k(record: Mapping[str, Any]) -> list[Message]:
    return _exchange(record["question"], record["answer"])


def _instruction(record: Mapping[str, Any]) -> list[Message]:
    return _exchange(record["instruction"], record["output"])


def _messages(record: Mapping[str, Any]) -> list[Message]:
    return [{"role": message["role"], "content": message["content"]} for message in record["messages"]]


def _pubmedqa(record: Mapping[str, Any]) -> list[Message]:
    """The words of lm-eval's pubmedqa task, and the decision as the whole answer."""
    abstract = "\n".join(record["context"]["contexts"])
    return _exchange(f"Abstract: {abstract}\nQuestion: {record['question']}", record["final_decision"])


def _exchange(request: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]


# name in the experiment -> (fields a record must have, conversion)
SCHEMAS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], list[Message]]]] = {
    "alpaca": (("instruction", "input", "output"), _alpaca),
    "gsm8k": (("question", "answer"), _gsm8k),
    "instruction": (("instruction", "output"), _instruction),
    "messages": (("messages",), _messages),
    "pubmedqa": (("question", "context", "final_decision"), _pubmedqa),
}

# fields that hold more than a text, and what must be in them
NESTED = {
    "messages": ("messages", "need 'role' and 'content', both text"),
    "pubmedqa": ("context", "needs 'contexts', a list of texts"),
}


def to_conversation(record: Mapping[str, Any], schema: str, where: str) -> list[Message]:
    """One conversation.

    Raises:
        InputError: a field is missing or of another type, or roles are out of turn; `where` (data set, split, index)
            stands in the message.
    """
    fields, convert = SCHEMAS[schema]
    for field in fields:
        if record.get(field) is None:
            found = ", ".join(key for key, value in record.items() if value is not None)
            raise InputError(
                f"{where}: field {field!r} is missing; format {schema!r} needs {', '.join(fields)};"
                f" the record has {found or 'nothing'}."
            )
    try:
        conversation = convert(record)
    except (KeyError, TypeError) as error:
        field, needs = NESTED[schema]
        raise InputError(f"{where}: {field} {needs}: {record[field]!r}.") from error
    _check_turns(conversation, where)
    return conversation


def is_answered(conversation: list[Message]) -> bool:
    """Whether the last answer has any text; one without teaches nothing but silence."""
    return bool(conversation[-1]["content"].strip())


def _check_turns(conversation: list[Message], where: str) -> None:
    """An optional system message, then user and assistant in turn: anything else would be lost unseen."""
    for message in conversation:
        for key, value in message.items():
            if not isinstance(value, str):
                raise InputError(f"{where}: {value!r} stands where the {key} of a message, a text, is expected.")
    roles = [message["role"] for message in conversation]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns[-1:] != ["assistant"]:
        raise InputError(f"{where}: the conversation does not end with an answer of the assistant.")
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise InputError(
            f"{where}: roles are {', '.join(roles)}; legal: at most one system first, then user, assistant in turn."
        )
