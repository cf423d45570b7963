"""What Weights & Biases wrote on the disk in its offline mode: records in the format of LevelDB's log.

for record in read(folder / "run-<id>.wandb"): ...      # wandb.proto.wandb_internal_pb2.Record
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK_BYTES = 32768
FILE_HEADER = b":W&B\xe1\xbe\x00"
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, bytes that follow, kind
WHOLE, LAST = 1, 4  # kinds of chunks that end a record


def read(file: Path) -> Iterator[Any]:
    """The records in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert content.startswith(FILE_HEADER)
    place, parts = len(FILE_HEADER), b""
    while place + CHUNK_HEADER.size <= len(content):
        if BLOCK_BYTES - place % BLOCK_BYTES < CHUNK_HEADER.size:  # no header fits into the rest of a block
            place += BLOCK_BYTES - place % BLOCK_BYTES
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(content, place)
        place += CHUNK_HEADER.size
        parts += content[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def items(entries: Any) -> dict[str, Any]:
    """Keys and values of a configuration or of a line of the history."""
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}
