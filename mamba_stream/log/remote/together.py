"""Several questions in one call: as the server is asked, and what comes of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from mamba_stream.errors import QuotaExceeded, ServerUnavailable, TopicNotFound
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.looking import ALONE, HeadsOf, LsnOf, Question, RecordOf, RecordsOf, RowsOf
from mamba_stream.log.remote import protocol
from mamba_stream.log.remote.failing import error_told
from mamba_stream.log.remote.protocol import Asked, HeadInfo, RowsRead, Together, Told, decode, encode
from mamba_stream.log.remote.reader import cut
from mamba_stream.log.storage import PartitionHead

_AGAIN = (QuotaExceeded, ServerUnavailable)
"""What a call of its own waits for, and tries again."""


def request_of(questions: Sequence[Question], beyond: int | None = None, timeout: float = 0.0) -> Together:
    """What is sent: to be answered once the log is past that commit, or so many seconds are over."""
    asks = []
    for question in questions:
        action, request = _asked(question)
        asks.append(Asked(action, msgspec.Raw(encode(request))))
    return Together(asks, beyond, timeout)


def answers_of(questions: Sequence[Question], told: Sequence[Told]) -> list[Any]:
    """What each comes to: the answer; an error to raise; ``ALONE`` where it is to be asked by itself."""
    return [_answer(question, each) for question, each in zip(questions, told, strict=True)]


def head_of(head: HeadInfo) -> PartitionHead:
    return PartitionHead(head.topic, head.begin, head.end, head.rows, head.size, head.append_time, head.ended)


def _asked(question: Question) -> tuple[str, Any]:
    match question:
        case LsnOf():
            return "lsn", protocol.Nothing()
        case HeadsOf(topic):
            return "heads", protocol.AskHeads(topic.id)
        case RecordOf(namespace, key):
            return "record", protocol.AskRecord(namespace, key)
        case RecordsOf(namespace):
            return "records", protocol.AskRecords(namespace)
        case RowsOf(topic, start, most_rows, most_bytes):
            return "rows", protocol.Read(
                topic=topic.id,
                start=dict(start),
                most_rows=most_rows,
                most_bytes=most_bytes,
                schema=topic.schema,
            )


def _answer(question: Question, told: Told) -> Any:
    if told.failure is not None:
        error = error_told(told.failure)
        if isinstance(error, _AGAIN):
            return ALONE
        if isinstance(error, TopicNotFound) and isinstance(question, HeadsOf | RowsOf):
            return TopicNotFound(f"topic {question.topic.name!r} was deleted")
        return error
    match question:
        case LsnOf():
            return decode(told.answer, int)
        case HeadsOf():
            heads = decode(told.answer, dict[int, HeadInfo])
            return {partition: head_of(head) for partition, head in heads.items()}
        case RecordOf():
            return decode(told.answer, bytes | None)  # type: ignore[arg-type]
        case RecordsOf():
            return decode(told.answer, dict[str, bytes])
        case RowsOf(topic):
            return _rows(topic.name, decode(told.answer, RowsRead))


def _rows(topic: str, read: RowsRead) -> dict[int, list[LogBatch]]:
    found: dict[int, list[LogBatch]] = {}
    with pa.ipc.open_stream(pa.py_buffer(read.data)) as stream:
        for piece, data in zip(read.pieces, stream, strict=True):
            found.setdefault(piece.partition, []).extend(cut(topic, piece, data))
    return found
