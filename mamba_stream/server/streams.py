"""Rows that come as bytes of an Arrow IPC stream: found plain before Arrow unpacks anything."""

from __future__ import annotations

import struct

import pyarrow as pa

from mamba_stream.errors import InvalidInput
from mamba_stream.log.format import Damaged, is_compressed
from mamba_stream.server.limits import Limits


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


def _check_plain(whole: pa.Buffer, where: str) -> None:
    for message in pa.ipc.MessageReader.open_stream(whole):
        if message.type in ("record batch", "dictionary") and is_compressed(message.metadata, message.type):
            raise InvalidInput(f"{where}: rows beside a change set are sent without compression")
