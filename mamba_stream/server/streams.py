"""Rows that come as bytes of an Arrow IPC stream: found plain before Arrow unpacks anything."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

import pyarrow as pa

from mamba_stream.errors import InvalidInput
from mamba_stream.log.format import Damaged, is_compressed
from mamba_stream.log.metadata import PREFIX, field, u32
from mamba_stream.server.limits import Form, Limits

_CONTINUATION: Final = 0xFFFFFFFF
_KNOWN: Final = 256
_LARGEST_KNOWN: Final = 16 << 10
"""Openings of streams that are remembered, and the bytes that one has at most: read and judged anew, the opening of a
small stream would cost more than its rows."""


def read_plain(data: memoryview, limits: Limits, where: str) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """The schema and the batches of a stream, checked.

    A few kilobytes that are compressed may become hundreds of megabytes before anybody can look at them: such a stream
    is refused unread.

    Raises:
        InvalidInput: It is no such stream, or too large, or compressed, or its buffers are not sound.
    """
    if len(data) > limits.most_bytes:
        raise InvalidInput(f"{where}: {len(data):,} bytes in one commit; send at most {limits.most_bytes:,}")
    whole = pa.py_buffer(data)
    try:
        begins = _first_message(data)
        if begins and _is_little(data):
            schema, form = _opening(bytes(data[:begins]), limits, where)
            if form.is_plain:
                return schema, _batches(whole.slice(begins), schema, form, limits, where)
        _check_plain(whole, where)
        with pa.ipc.open_stream(whole) as stream:
            limits.check_schema(stream.schema, where)
            batches = []
            for batch in stream:
                limits.check_batch(batch, where)
                batches.append(batch)
    except InvalidInput:
        raise
    except (pa.ArrowException, OSError, ValueError, struct.error, Damaged) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{where}: the rows are not an Arrow IPC stream: {reason:.200}") from error
    return stream.schema, batches


def _first_message(data: memoryview) -> int:
    """How many bytes a stream's first message has; 0 where it is not one to remember."""
    if len(data) < PREFIX.size:
        return 0
    mark, length = PREFIX.unpack_from(data)
    return PREFIX.size + length if mark == _CONTINUATION and 0 < length <= _LARGEST_KNOWN else 0


def _is_little(message: memoryview) -> bool:
    """Whether numbers have the order of bytes that is meant where none is told: Arrow turns others for streams only."""
    root = PREFIX.size + u32(message, PREFIX.size)
    header = root + field(message, root, 2)
    return field(message, header + u32(message, header), 0) == 0


@lru_cache(_KNOWN)
def _opening(message: bytes, limits: Limits, where: str) -> tuple[pa.Schema, Form]:
    schema = pa.ipc.read_schema(pa.py_buffer(message))
    return schema, limits.check_schema(schema, where)


def _batches(
    messages: pa.Buffer, schema: pa.Schema, form: Form, limits: Limits, where: str
) -> list[pa.RecordBatch]:
    """What follows the opening of a stream whose columns have no dictionaries."""
    batches = []
    for message in pa.ipc.MessageReader.open_stream(messages):
        _check_message(message, where)
        batch = pa.ipc.read_record_batch(message, schema)
        limits.check_batch(batch, where, form)
        batches.append(batch)
    return batches


def _check_plain(whole: pa.Buffer, where: str) -> None:
    for message in pa.ipc.MessageReader.open_stream(whole):
        _check_message(message, where)


def _check_message(message: pa.ipc.Message, where: str) -> None:
    if message.type in ("record batch", "dictionary") and is_compressed(message.metadata, message.type):
        raise InvalidInput(f"{where}: rows beside a change set are sent without compression")
