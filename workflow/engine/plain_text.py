"""Plain text to train on: read from a file, parted into documents, tokenised, packed into full-length sequences.

    tokens = encode(read_documents(folder / "train.jsonl"), tokenizer, most=1_000_000)
    train = Packed(pack(tokens, 1024, "continual_pretraining.sequence_length"))      # a sequence of Examples

Every token of a packed sequence is learned, and attention reaches back over the borders of documents in it.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workflow.engine.data import Example
from workflow.engine.errors import InputError

SEPARATOR = "\n\n"  # between the documents of a text file
AT_ONCE = 1000  # documents that the tokenizer is given together


def read_text_file(file: Path, key: str, characters: int | None = None) -> str:
    """The first `characters` of a text file, gzipped where its name says so; `key` is the place that names the file.

    Raises:
        InputError: the file is missing, empty or damaged.
    """
    if not file.is_file():
        raise InputError(f"{key}: {file} does not exist.")
    zipped = file.suffix == ".gz"
    try:
        with gzip.open(file, "rt", encoding="utf-8") if zipped else file.open(encoding="utf-8") as stream:
            text = stream.read(-1 if characters is None else characters)
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{key}: {file} is not a whole {'gzipped ' * zipped}text in UTF-8: {error}.") from error
    if not text.strip():
        raise InputError(f"{key}: {file} is empty.")
    return text


def documents_of(text: str) -> list[str]:
    """What blank lines part, without any that is blank itself."""
    return [document for document in text.split(SEPARATOR) if document.strip()]


def write_documents(documents: Iterable[str], file: Path) -> int:
    """Write a document a line; returns how many."""
    count = 0
    with file.open("w", encoding="utf-8") as lines:
        for document in documents:
            lines.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_documents(file: Path) -> Iterator[str]:
    """The documents of a prepared split, one after the other: all of them may be more than memory holds."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def encode(documents: Iterable[str], tokenizer: Any, most: int | None = None) -> Tensor:
    """(tokens,) of the documents in their order, cut to the first `most`.

    Each stands between the tokenizer's beginning of sequence, if it has one, and its end of sequence.
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tokens = array("i")  # 4 bytes each; a list's numbers take 36
    rest = iter(documents)
    while (most is None or len(tokens) < most) and (some := list(itertools.islice(rest, AT_ONCE))):
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            tokens.extend([*begin, *ids, tokenizer.eos_token_id])
    if not tokens:
        return torch.empty(0, dtype=torch.int32)
    return torch.frombuffer(tokens, dtype=torch.int32)[:most]


def pack(tokens: Sequence[int] | Tensor, sequence_length: int, key: str) -> Tensor:
    """(sequences, sequence_length): the text cut into full sequences, the rest left out.

    Raises:
        InputError: there is not one whole sequence; `key` is the place that says the length.
    """
    count = len(tokens) // sequence_length
    if count == 0:
        raise InputError(f"{key}: {sequence_length} is more than the text has ({len(tokens)} tokens).")
    return torch.as_tensor(tokens[: count * sequence_length]).view(count, sequence_length)


class Packed(Sequence[Example]):
    """Examples of which every token is learned, made from rows (sequences, tokens) when they are asked for."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        ids = self.rows[index].tolist()
        return Example(ids, ids)
