"""Writes: every batch of a stream is an append of its own; those that arrive together share a commit."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.changes import ChangeSet, Sequence
from mamba_stream.errors import InvalidInput, QuotaExceeded
from mamba_stream.log.appended import merged_ranges
from mamba_stream.log.asked import text_of
from mamba_stream.log.remote.protocol import Ack, Failure, Write, WriteBatch, decode, encode
from mamba_stream.server.belongings import need_of_topic
from mamba_stream.server.catalog import Known
from mamba_stream.server.desk import Desk
from mamba_stream.server.failures import told
from mamba_stream.server.gate import Caller
from mamba_stream.server.limits import Form
from mamba_stream.server.room import EVERY

_PLAIN: Final = WriteBatch()
_GROUP: Final = 64
"""At most so many batches of one stream in one commit."""
_TOGETHER_BYTES: Final = 1 << 20
_TOGETHER_ROWS: Final = 1 << 18
"""Batches that share a commit and together have no more than these are one in the log: each one there has its price."""
_TOO_FAR_AHEAD: Final = (
    "the server is short of memory, and this client is far ahead of what is durable: send what was not acknowledged "
    "again, and wait for acknowledgements before more than some 32 MB are on their way"
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A batch on its way into the log."""

    beside: WriteBatch
    data: pa.RecordBatch
    size: int


_Run = list[_Waiting]
"""Batches that follow each other and become one."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What a run has become, and how many rows each of its batches had."""

    rows: list[int]
    batches: list[Any]


class Writing:
    """One stream of batches: one thread takes them in, another one commits them and answers.

    While a commit is made durable the next batches are read; what may wait is bounded in bytes, so that a
    client that sends faster than the log takes waits itself.
    """

    def __init__(self, desk: Desk, caller: Caller, known: Known, write: Write, answers: Any) -> None:
        self._desk = desk
        self._caller = caller
        self._known = known
        self._write = write
        self._answers = answers
        self._where = f"topic {known.row.name!r}"
        self._needs = (need_of_topic("write", known.row.name),)
        # Where batches go one by one, each to another partition, there is nothing to put together.
        self._only = write.partition if known.row.partitions > 1 else write.partition or 0
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        self._ended = False
        self._error: BaseException | None = None

    def run(self, stream: flight.MetadataRecordBatchReader) -> None:
        """Appends all there is; raises what became of the first batch that was not appended."""
        form = self._desk.limits.check_schema(stream.schema, self._where)
        committing = threading.Thread(target=self._commit_all, name="mamba-stream write", daemon=True)
        committing.start()
        failed: BaseException | None = None
        try:
            while self._take(stream, form):
                pass
        except Exception as error:  # noqa: BLE001 - raised below, once what came before it is answered
            failed = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        committing.join()
        if self._error is not None:
            raise self._error
        if failed is not None:
            raise failed

    def _take(self, stream: flight.MetadataRecordBatchReader, form: Form) -> bool:
        try:
            chunk = stream.read_chunk()
        except StopIteration:
            return False
        self._desk.check_open()
        if chunk.data is None:
            return True
        size = self._desk.limits.check_batch(chunk.data, self._where, form)
        self._desk.gate.check(self._caller, self._needs)
        self._desk.gate.spend(self._caller, received=chunk.data.get_total_buffer_size())
        beside = _PLAIN if chunk.app_metadata is None else decode(chunk.app_metadata, WriteBatch)
        with self._changed:
            while self._size > self._desk.limits.in_flight_bytes and self._error is None:
                if self._desk.room is not None and self._desk.room.is_short():
                    self._waiting.clear()
                    raise QuotaExceeded(_TOO_FAR_AHEAD)
                self._changed.wait(EVERY)
            if self._error is not None:
                return False
            self._waiting.append(_Waiting(beside, chunk.data, size))
            self._size += size
            self._changed.notify_all()
        return True

    def _commit_all(self) -> None:
        while group := self._next():
            try:
                self._commit(group)
            except BaseException as error:  # noqa: BLE001 - raised by the other thread
                # That one may wait for a batch that never comes, as the client waits for an answer to this one.
                failure = decode(told(error).extra_info, Failure)
                with contextlib.suppress(pa.ArrowException):
                    self._answers.write(pa.py_buffer(encode(Ack(0, [], failure))))
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _next(self) -> list[_Waiting]:
        """Batches that go into one commit; none at the end. What has conditions of its own goes by itself."""
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            group: list[_Waiting] = []
            while self._waiting and len(group) < _GROUP:
                alone = self._waiting[0].beside is not _PLAIN
                if alone and group:
                    break
                group.append(self._waiting.popleft())
                self._size -= group[-1].size
                if alone:
                    break
            self._changed.notify_all()
            return group

    def _commit(self, group: list[_Waiting]) -> None:
        encoded: list[_Encoded] = []
        failed: Exception | None = None
        runs = deque(self._runs(group))
        while runs:
            run = runs.popleft()
            try:
                encoded.append(self._encoded(run))
            except Exception as error:  # noqa: BLE001 - raised below, once what came before it is durable
                if len(run) > 1:
                    # One of them, of which it is not known which.
                    runs.extendleft([one] for one in reversed(run))
                    continue
                failed = error
                break
        if encoded:
            self._commit_encoded(group, encoded)
        if failed is not None:
            raise failed

    def _runs(self, group: list[_Waiting]) -> Iterator[_Run]:
        run: _Run = []
        size = rows = 0
        for waiting in group:
            size += waiting.size
            rows += waiting.data.num_rows
            if run and not (self._only is not None and size <= _TOGETHER_BYTES and rows <= _TOGETHER_ROWS):
                yield run
                run, size, rows = [], waiting.size, waiting.data.num_rows
            run.append(waiting)
        yield run

    def _encoded(self, run: _Run) -> _Encoded:
        rows = [waiting.data.num_rows for waiting in run]
        intake = self._known.intake
        if len(run) > 1:
            assert self._only is not None
            return _Encoded(rows, intake.together([waiting.data for waiting in run], self._only))
        (waiting,) = run
        beside = waiting.beside
        partition = self._write.partition if beside.partition is None else beside.partition
        return _Encoded(rows, intake.batches(waiting.data, partition, beside.expect or None, own=True))

    def _commit_encoded(self, group: list[_Waiting], encoded: list[_Encoded]) -> None:
        batches = [batch for each in encoded for batch in each.batches]
        change = ChangeSet(sequences=self._sequences(group[0]), durability=self._write.durability)
        answer = self._desk.write(change, batches)
        ranges = list(answer.ranges)
        offsets: list[dict[int, tuple[int, int]]] = []
        for each in encoded:
            # A repeated append has the ranges of the first time, however it was cut then.
            size = len(ranges) if answer.repeated else len(each.batches)
            mine, ranges = ranges[:size], ranges[size:]
            offsets += _cut(merged_ranges(mine), each.rows)
        # One message for all of them: sending it costs more than making what is in it durable.
        self._answers.write(pa.py_buffer(encode(Ack(answer.lsn, offsets))))

    def _sequences(self, waiting: _Waiting) -> tuple[Sequence, ...]:
        beside = waiting.beside
        if beside.producer is None and beside.sequence is None:
            return ()
        if beside.producer is None or beside.sequence is None or beside.sequence < 0:
            raise InvalidInput("producer and sequence come together, and a sequence is a number from 0 on")
        return (Sequence(self._known.row.id, text_of(beside.producer, "a producer's name"), beside.sequence),)


def _cut(found: dict[int, tuple[int, int]], rows: list[int]) -> list[dict[int, tuple[int, int]]]:
    """The offsets of each of the batches that became one."""
    if len(rows) == 1:
        return [found]
    # All in one partition; of no rows at all, in none.
    for partition, (first, _) in found.items():
        ends = accumulate(rows, initial=first)
        return [{partition: place} if place[0] < place[1] else {} for place in pairwise(ends)]
    return [{} for _ in rows]


def write(
    desk: Desk,
    caller: Caller,
    descriptor: flight.FlightDescriptor,
    stream: flight.MetadataRecordBatchReader,
    answers: Any,
) -> None:
    """Appends the batches of a stream to the topic that its descriptor names."""
    request = _request(descriptor)
    desk.gate.check(caller, (need_of_topic("write", request.topic),))
    known = desk.catalog.known(desk.catalog.named(request.topic).id)
    Writing(desk, caller, known, request, answers).run(stream)


def _request(descriptor: flight.FlightDescriptor) -> Write:
    if descriptor.descriptor_type == flight.DescriptorType.CMD:
        return decode(descriptor.command, Write)
    if len(descriptor.path) != 1:
        raise InvalidInput("a descriptor's path is the topic's name, and nothing else")
    return Write(descriptor.path[0].decode(errors="replace"))
