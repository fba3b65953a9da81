"""Reads: the rows of a topic as a stream of batches, and beside each where its rows lie."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import msgspec
import pyarrow as pa
from pyarrow import flight, types as pat

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.predicates import decode as decode_predicate
from mamba_stream.errors import InvalidInput, MambaStreamError, QuotaExceeded, SchemaMismatch
from mamba_stream.log.asked import check_bounds, offsets_of
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.remote.protocol import Piece, Read, RowsRead, Run, decode, encode
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.sifting import Sieve
from mamba_stream.log.skipping import NOTHING
from mamba_stream.log.storage import Reader
from mamba_stream.server.belongings import need_of_topic
from mamba_stream.server.desk import Desk
from mamba_stream.server.gate import Caller

_POLLED: Final = 1 << 20
_POLLED_BYTES: Final = 8 << 20
"""Rows and bytes of one partition before it is the next one's turn."""
_FIRST_POLLED_BYTES: Final = 1 << 20
"""The same at first, twice as many each time, and where much is held: who takes nothing holds no more than that."""
_SHORT: Final = (
    "the server holds much for clients that read slowly, and is short of memory: go on in a moment, from where this "
    "came to"
)
_SMALL: Final = 64 << 10
"""Batches below this size are sent together with their neighbours: a message costs more than copying them."""
_TOGETHER: Final = 512 << 10
_EXACT: Final = 4 << 10
"""From so many bytes on they are counted to the last one."""
_MOST_ALONG: Final = 1 << 20
_MOST_ALONG_ROWS: Final = 65_536
"""Bytes and rows that come as an answer."""
_PLAIN: Final = pa.ipc.IpcWriteOptions()

_Sent = tuple[pa.RecordBatch, Piece, int]
"""A batch, what lies beside it, and its bytes."""


def read(desk: Desk, caller: Caller, ticket: bytes) -> tuple[pa.Schema, Iterator[list[Any]]]:
    """The schema of what is read, and what a ``GeneratorStream`` sends, some at a time.

    Flight asks for every batch in a thread state of Python that it makes for that and throws away: to run a generator
    there takes and gives back its stack each time, where to take the next of a list does not.
    """
    request = _request(ticket)
    reading = _Reading(desk, caller, request)
    start, ends = reading.bounds()
    groups = reading.groups(start, ends, request.most_rows, request.most_bytes)
    # Mapped, so that nothing refers to a group any more while the next one is read.
    return reading.schema, map(_sendable, groups)


def _sendable(group: list[_Sent]) -> list[Any]:
    return [(data, encode(piece)) for data, piece, _ in group]


def rows(desk: Desk, caller: Caller, request: Read) -> RowsRead:
    """Rows as an answer: one partition after the other, as they are named, until there are enough.

    Batches that are large come by a stream only.
    """
    _check(request)
    reading = _Reading(desk, caller, request)
    start, ends = reading.bounds()
    left = request.most_rows if request.most_rows is not None else _MOST_ALONG_ROWS
    space = min(request.most_bytes if request.most_bytes is not None else _MOST_ALONG, _MOST_ALONG)
    found: list[Piece] = []
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, reading.schema, options=_PLAIN) as writer:
        for partition in request.start or start:
            if left <= 0 or space <= 0:
                break
            if start[partition] >= ends[partition]:
                continue
            groups = reading.groups({partition: start[partition]}, ends, left, space)
            for data, piece, size in chain.from_iterable(groups):
                if size > _MOST_ALONG:
                    break
                writer.write_batch(data)
                found.append(piece)
                left -= data.num_rows
                space -= size
    return RowsRead(found, memoryview(sink.getvalue()))


class _Reading:
    """One read: what it is of, and what of that is wanted."""

    def __init__(self, desk: Desk, caller: Caller, request: Read) -> None:
        row = None if request.topic is None else desk.catalog.numbered(request.topic)
        name = (request.name or "") if row is None else row.name
        self._need = need_of_topic("read", name)
        # First of all: whether a topic of that name is there is not for everybody to know.
        desk.gate.check(caller, (self._need,))
        row = _in_schema(desk.catalog.named(name) if row is None else row, request.schema)
        schema = desk.storage.schema(row.schema)
        wanted = _wanted(row, schema, request.columns)
        self.schema = schema if wanted is None else pa.schema([schema.field(number) for number in wanted])
        self._bits = _bits_of_rows(self.schema)
        self._sieve: Sieve | None = None
        if request.predicate is not None:
            self._sieve = Sieve.of(decode_predicate(request.predicate), schema, wanted)
            # What is asked for decides, whether or not it is wanted.
            wanted = self._sieve.reads(schema, wanted)
        check_bounds("read", most_rows=request.most_rows, most_bytes=request.most_bytes)
        self._desk, self._caller, self._request = desk, caller, request
        self._row, self._columns = row, wanted
        self._told = NOTHING

    def bounds(self) -> tuple[dict[int, int], dict[int, int]]:
        """Where to begin, and before which offsets to end: at the latest where the topic ends now."""
        given = offsets_of(self._row, "start", self._request.start)
        heads = self._desk.storage.heads(self._row, sorted(given) or None)
        start = {partition: given.get(partition, head.begin) for partition, head in heads.items()}
        ends = offsets_of(self._row, "ends", self._request.ends)
        return start, {p: min(head.end, ends.get(p, head.end)) for p, head in heads.items()}

    def groups(
        self, start: dict[int, int], ends: dict[int, int], most_rows: int | None, most_bytes: int | None
    ) -> Iterator[list[_Sent]]:
        """Batches between these offsets until there are about so many; as many at a time as one turn has."""
        desk, between = self._desk, (self._request.low, self._request.high)
        left = most_rows if most_rows is not None else 1 << 62
        space = most_bytes if most_bytes is not None else 1 << 62
        ends = {partition: ends[partition] for partition in start}
        skip_corrupt = self._request.skip_corrupt
        reader = desk.storage.reader(
            self._row, start, self._columns, ends, _open, between, skip_corrupt=skip_corrupt
        )
        most = 0
        try:
            while left > 0 and space > 0:
                most = self._most_at_a_time(most)
                batches = reader.poll(max_rows=min(left, _POLLED), max_bytes=min(space, most))
                if not batches:
                    break
                if self._sieve is not None:
                    batches = self._sieve.sifted(batches)
                group, refused = self._paid(batches, reader)
                left -= sum(data.num_rows for data, _, _ in group)
                space -= sum(size for _, _, size in group)
                del batches
                yield group
                del group
                if refused is not None:
                    raise refused
                # Who lost the right, or whose token ended, gets no more.
                desk.gate.check(self._caller, (self._need,))
            if self._request.progress or skip_corrupt:
                nothing = pa.RecordBatch.from_pylist([], self.schema)
                yield [
                    (nothing, Piece(partition, [Run(position, position, 0, 0)], b"", self._untold(reader)), 0)
                    for partition, position in reader.positions.items()
                ]
        finally:
            reader.close()

    def _most_at_a_time(self, before: int) -> int:
        """How many bytes to read next.

        Raises:
            QuotaExceeded: There is no memory for any.
        """
        room = self._desk.room
        if room is not None and room.is_short_for_reads():
            raise QuotaExceeded(_SHORT)
        if not before or (room is not None and not room.is_ample()):
            return _FIRST_POLLED_BYTES
        return min(before * 2, _POLLED_BYTES)

    def _untold(self, reader: Reader) -> tuple[int, int, int] | None:
        """What was passed over since that was told last; nothing where that is nothing."""
        told, self._told = self._told, reader.skipped
        if self._told == told:
            return None
        now = self._told
        return now.batches - told.batches, now.rows - told.rows, now.offsets - told.offsets

    def _paid(self, batches: list[LogBatch], reader: Reader) -> tuple[list[_Sent], MambaStreamError | None]:
        """What of these goes out, and why no more of them does: what was counted is sent before that is told."""
        group: list[_Sent] = []
        for together, size in _gathered(batches, self._bits):
            try:
                self._desk.gate.spend(self._caller, sent=size)
            except MambaStreamError as error:
                return group, error
            data = together[0].data if len(together) == 1 else pa.concat_batches([b.data for b in together])
            kept = _offsets(together) if self._request.offsets else b""
            runs = [_run(part) for batch in together for part in batch.appended()]
            piece = Piece(together[0].partition, runs, kept, self._untold(reader))
            group.append((data, piece, size))
        return group, None


def _open() -> None:
    """A read that was begun goes on to its end, also while the server is being stopped."""


def _request(ticket: bytes) -> Read:
    # A bare name is a ticket, too: all rows of the topic, as they are now.
    if ticket[:1] and ticket[0] < 0x80 and ticket[0] >= 0x20:
        try:
            return Read(name=ticket.decode())
        except UnicodeDecodeError as error:
            raise InvalidInput("a ticket is a topic's name, or a Read message") from error
    request = decode(ticket, Read)
    _check(request)
    return request


def _check(request: Read) -> None:
    if (request.topic is None) == (request.name is None):
        raise InvalidInput("a ticket names a topic by topic= (its number) or by name=, one of them")


def _in_schema(row: TopicRow, schema: int | None) -> TopicRow:
    """The topic with the columns of one of its schemas: whoever reads goes on with those that it began with."""
    if schema is None or schema == row.schema:
        return row
    if schema not in (number for number, _ in row.versions):
        raise InvalidInput(f"topic {row.name!r} has no schema of the number {schema}: ask for the topic anew")
    return msgspec.structs.replace(row, schema=schema)


def _wanted(row: TopicRow, schema: pa.Schema, columns: list[str] | None) -> tuple[int, ...] | None:
    if columns is None:
        return None
    for column in columns:
        if column not in schema.names:
            raise SchemaMismatch(
                f"topic {row.name!r} has no column {column!r:.80}{did_you_mean(column, schema.names)}; "
                f"it has {', '.join(schema.names)}"
            )
    if len(set(columns)) != len(columns):
        raise SchemaMismatch(f"topic {row.name!r}: columns={columns} names a column twice")
    return tuple(schema.get_field_index(column) for column in columns)


def _gathered(batches: list[LogBatch], bits: int | None) -> Iterator[tuple[list[LogBatch], int]]:
    """Neighbours of one partition that are best sent together, and their bytes."""
    together: list[LogBatch] = []
    size = 0
    for batch in batches:
        this = _size(batch.data, bits)
        if together and (
            together[-1].partition != batch.partition or this > _SMALL or size + this > _TOGETHER
        ):
            yield together, size
            together, size = [], 0
        together.append(batch)
        size += this
    if together:
        yield together, size


def _bits_of_rows(schema: pa.Schema) -> int | None:
    """How many bits a row has, nulls not counted; ``None`` where rows differ in that."""
    if not all(pat.is_primitive(kind) for kind in schema.types):
        return None
    bits: int = sum(kind.bit_width for kind in schema.types)
    return bits


def _size(data: pa.RecordBatch, bits: int | None) -> int:
    """The bytes of a batch; of a small one, of what it may be a part of: to add up buffers costs as much as reading."""
    if bits is not None:
        whole: int = (data.num_rows * bits + 7) // 8
        return whole
    size: int = data.get_total_buffer_size()
    return size if size <= _EXACT else data.nbytes


def _offsets(batches: list[LogBatch]) -> bytes:
    """The offset of each row, where rows were left out."""
    if all(batch.kept is None for batch in batches):
        return b""
    return b"".join(batch.offsets.astype("<i8").tobytes() for batch in batches)


def _run(batch: LogBatch) -> Run:
    return Run(batch.offset, batch.next_offset, batch.data.num_rows, batch.append_time)


def descriptor_of(desk: Desk, caller: Caller, descriptor: flight.FlightDescriptor) -> TopicRow:
    """The topic that a descriptor's path names, if the caller may see it."""
    if len(descriptor.path or ()) != 1:
        raise InvalidInput("a descriptor's path is the topic's name, and nothing else")
    name = descriptor.path[0].decode(errors="replace")
    desk.gate.check(caller, (need_of_topic("describe", name),))
    return desk.catalog.named(name)
