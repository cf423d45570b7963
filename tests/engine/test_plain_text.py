"""Plain text: what is read, how documents become tokens, and that full sequences hold all of them, each learned."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from tests.engine.small_tokenizer import small_tokenizer
from workflow.engine import plain_text
from workflow.engine.data import collate
from workflow.engine.errors import InputError
from workflow.engine.plain_text import (
    Packed,
    documents_of,
    encode,
    pack,
    read_documents,
    read_text_file,
    write_documents,
)

KEY = "pretrain.corpus"
TEXT = "The baker of Elm lives in the town of Oakham. " * 60


def write_corpus(folder: Path, text: str) -> Path:
    file = folder / "text.txt.gz"
    file.write_bytes(gzip.compress(text.encode()))
    return file


def test_a_text_is_read_up_to_a_number_of_characters(tmp_path: Path) -> None:
    file = write_corpus(tmp_path, "äöü" * 10)
    assert read_text_file(file, KEY) == "äöü" * 10
    assert read_text_file(file, KEY, 4) == "äöüä"


def test_a_text_that_is_not_gzipped_is_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("äöü\r\n\u2028", encoding="utf-8")
    assert read_text_file(tmp_path / "text.txt", KEY) == read_text_file(write_corpus(tmp_path, "äöü\r\n\u2028"), KEY)


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pretrain\.corpus: .*text\.txt\.gz does not exist"):
        read_text_file(tmp_path / "text.txt.gz", KEY)


def test_an_empty_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pretrain\.corpus: .*text\.txt\.gz is empty"):
        read_text_file(write_corpus(tmp_path, " \n"), KEY)


@pytest.mark.parametrize(
    "content",
    [b"plain text", gzip.compress(TEXT.encode())[:-20], gzip.compress(b"\xff\xfe")],
    ids=["plain", "cut", "not UTF-8"],
)
def test_a_damaged_text_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "text.txt.gz"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"pretrain\.corpus: .*text\.txt\.gz is not a whole gzipped text"):
        read_text_file(file, KEY)


def test_a_plain_file_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"text\.txt is not a whole text in UTF-8"):
        read_text_file(tmp_path / "text.txt", KEY)


def test_blank_lines_part_documents_and_are_none_themselves() -> None:
    assert documents_of("one\ntwo\n\nthree\n\n \n\n\n\nfour") == ["one\ntwo", "three", "four"]


def test_documents_are_read_back_with_every_character(tmp_path: Path) -> None:
    documents = ["Grüße\n\u2028日本", "\\ok\t🙂", " "]
    assert write_documents(documents, tmp_path / "train.jsonl") == 3
    assert list(read_documents(tmp_path / "train.jsonl")) == documents


# --- tokens


def test_each_document_stands_between_beginning_and_end() -> None:
    tokenizer = small_tokenizer()
    tokens = encode(["How many towns?", "Nine towns."], tokenizer).tolist()
    assert tokenizer.decode(tokens) == "<s>How many towns?</s><s>Nine towns.</s>"
    assert tokens.count(tokenizer.bos_token_id) == tokens.count(tokenizer.eos_token_id) == 2


def test_a_tokenizer_without_a_beginning_gets_none() -> None:
    tokenizer = small_tokenizer()
    tokenizer.bos_token = None
    assert tokenizer.decode(encode(["Nine", "towns"], tokenizer)) == "Nine</s>towns</s>"


def test_how_many_documents_are_encoded_together_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, documents = small_tokenizer(), [f"{number} towns." for number in range(7)]
    together = encode(documents, tokenizer)
    monkeypatch.setattr(plain_text, "AT_ONCE", 2)
    assert torch.equal(encode(documents, tokenizer), together)


def test_no_more_documents_are_read_than_the_tokens_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, read = small_tokenizer(), []
    documents = ["How many towns?", "Nine.", "How many people?", "Forty."]
    whole = encode(documents, tokenizer)
    monkeypatch.setattr(plain_text, "AT_ONCE", 1)
    some = encode((read.append(document) or document for document in documents), tokenizer, most=3)
    assert torch.equal(some, whole[:3]) and read == documents[:1]
    assert torch.equal(encode(documents, tokenizer, most=len(whole) + 9), whole)


# --- sequences


def test_pack_keeps_the_order_and_leaves_the_rest_out() -> None:
    expected = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pack(list(range(11)), 4, KEY).tolist() == expected
    assert pack(torch.arange(11), 4, KEY).tolist() == expected


def test_pack_refuses_a_text_shorter_than_one_sequence() -> None:
    with pytest.raises(InputError, match=r"pretrain\.sequence_length: 12 .*11 tokens"):
        pack(list(range(11)), 12, "pretrain.sequence_length")
    with pytest.raises(InputError, match=r"sequence_length: 2 .*0 tokens"):
        pack(encode([], small_tokenizer()), 2, "sequence_length")


def test_every_token_of_a_packed_sequence_is_learned_and_none_is_padding() -> None:
    packed = Packed(pack(encode(["How many towns?", "Nine towns."] * 5, small_tokenizer()), 8, KEY))
    batch = collate([packed[index] for index in range(len(packed))], pad_token_id=0)
    assert torch.equal(batch["labels"], batch["input_ids"]) and batch["attention_mask"].all()
    assert batch["input_ids"].shape == (len(packed), 8) and batch["input_ids"].dtype == torch.int64
