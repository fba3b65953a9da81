"""A topic: append to it, read it, ask about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import msgspec
import polars as pl
import pyarrow as pa

from mamba_stream.core.alterations import SchemaVersion, history
from mamba_stream.core.changes import Applied, ChangeSet, Sequence as ProducerSequence, Trim
from mamba_stream.core.durability import Durability, check_durability
from mamba_stream.core.durations import to_time
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.core.predicates import Predicate, check, from_expr
from mamba_stream.core.schemas import describe_difference, polars_schema
from mamba_stream.errors import ExpressionRefused, InvalidInput, SchemaMismatch, TopicNotFound
from mamba_stream.log.altering import kept_for
from mamba_stream.log.appended import Appended, merged_ranges
from mamba_stream.log.asked import LONGEST_TEXT, is_text, offset_of, offsets_of, partitions_of
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.evolving import wanted_schema
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.storage import PartitionHead, Reader, Storage
from mamba_stream.log.trimming import steps

if TYPE_CHECKING:
    from mamba_stream.log.description import TopicDescription
    from mamba_stream.log.log import Log

Start = str | int | datetime | date | Mapping[int, int]
"""Where to begin: ``"earliest"``, ``"latest"``, an offset, ``{partition: offset}`` or a time."""

_WAIT = 60.0


class Topic:
    """A durable, partitioned, append-only sequence of rows of one schema.

    Topics come from ``log.create_topic(...)`` and ``log["name"]``.
    """

    def __init__(self, log: Log, store: Storage, row: TopicRow) -> None:
        self._log = log
        self._row = row
        self._schema = store.schema(row.schema)
        self._intake = store.intake(row)

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, partitions={self.partitions}, log={self._log.place!r})"

    @property
    def log(self) -> Log:
        """The log that it was opened from."""
        return self._log

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._row.name

    @property
    def number(self) -> int:
        """The topic's number in its log: another topic that gets its name later has another."""
        return self._row.id

    @property
    def schema(self) -> pa.Schema:
        """The columns, as the log stores them."""
        return self._schema

    @property
    def polars_schema(self) -> pl.Schema:
        """The columns, as Polars sees them."""
        return polars_schema(self._schema)

    @property
    def partitions(self) -> int:
        """How many partitions there are; they are numbered from 0."""
        return self._row.partitions

    @property
    def key(self) -> tuple[str, ...]:
        """The columns whose equal values go to one partition."""
        return self._row.key

    @property
    def strict_key(self) -> bool:
        """Whether all rows lie in the partition that their key says, since no append can say otherwise."""
        return self._row.strict_key

    @property
    def time(self) -> str | None:
        """The column that holds the time of a row."""
        return self._row.time

    @property
    def compression(self) -> str:
        """``none``, ``lz4`` or ``zstd``."""
        return self._row.compression

    @property
    def retention(self) -> timedelta | None:
        """For how long rows are kept after they were appended; ``None`` for ever."""
        return kept_for(self._row.settings)

    @property
    def retention_bytes(self) -> int | None:
        """What a partition may take on disk before its first rows go; ``None`` for anything."""
        return self._row.settings.retention_bytes

    @property
    def quota(self) -> int | None:
        """What it may take on disk before appends are refused; ``None`` for anything."""
        return self._row.settings.quota

    @property
    def compact(self) -> bool:
        """Whether only the latest row of each key is kept."""
        return self._row.settings.compact

    @property
    def seal_compression(self) -> str | None:
        """How batches are compressed when they are sealed; ``None``: as they were appended."""
        return self._row.settings.seal_compression

    @property
    def compatibility(self) -> str:
        """What altering its columns has to leave possible: ``backward``, ``forward``, ``full`` or ``none``."""
        return self._row.settings.compatibility

    @property
    def internal(self) -> bool:
        """Whether the engine made this topic for itself."""
        return self._row.internal

    @property
    def ended(self) -> bool:
        """Whether the topic is finished: bounded, and closed to appends."""
        return self._heads([0])[0].ended

    def append(
        self,
        data: Any,
        *,
        partition: int | None = None,
        producer: str | None = None,
        sequence: int | None = None,
        expect: Mapping[int, int] | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Appends rows, all or none; when it returns no death of a process can lose them.

        Args:
            data: A Polars or pandas frame, an Arrow table, batch or reader of batches, or a list of dicts.
            partition: Where all rows go; with a strict key it has to be theirs. Without, rows go where their key
                says, or round-robin.
            producer: With ``sequence``: a name under which a repeated append lands only once.
            sequence: The number of this append, one more than the producer's last.
            expect: ``{partition: offset}`` where partitions must end for the append to happen.
            durability: What a loss of power can do. ``"commit"``: nothing, they are on the disk. ``"interval"``: they
                are within a second. ``"os"``: they are when the log is flushed, by ``log.flush()``, ``log.close()`` or
                a commit at ``"commit"``. The log goes back to its last flush as a whole. What the log was opened with
                unless told otherwise.

        Returns:
            ``{partition: (first offset, next offset)}`` of these rows; its ``durability``, ``promise`` and ``lsn`` say
            what else came of them.

        Raises:
            SchemaMismatch: Columns or types are not those of the topic.
            InvalidInput: A row's key does not belong to ``partition``, and the topic's key is strict.
            PreconditionFailed: A partition does not end as expected.
            SequenceGap: The sequence does not follow the producer's last one.
            TopicEnded: The topic takes no more rows.
            DiskFull: There is no room; nothing was appended.
        """
        sequences = producer_sequences(self._row.id, producer, sequence)
        batches = self._intake.batches(data, partition, expect, at_once=True)
        if not batches and not sequences:
            return Appended({}, self._store.heard(), "commit")
        level = self._log.durability if durability is None else check_durability(durability)
        answer = self._commit(ChangeSet(sequences=sequences, durability=level), batches)
        return Appended(merged_ranges(answer.ranges), answer.lsn, level)

    def check(self, data: Any, *, partition: int | None = None) -> None:
        """Does with rows what is done before they are appended, and appends nothing.

        Raises:
            SchemaMismatch: Columns, types or values are not those of the topic.
            InvalidInput: As for :meth:`append`.
        """
        self._intake.batches(data, partition)

    def difference(self, schema: pa.Schema) -> str:
        """What keeps rows of a schema from being appended, in words; empty where their columns fit.

        They do where they are those that the topic has, or had before it was altered.
        """
        found = describe_difference(schema, self.schema)
        earlier = (number for number, _ in self._row.versions if number != self._row.schema)
        if found and any(not describe_difference(schema, self._store.schema(number)) for number in earlier):
            return ""
        return found

    def altered(self, schema: Any) -> pa.Schema:
        """The columns that ``log.alter_topic(name, schema=schema)`` would give the topic; alters nothing.

        Raises:
            SchemaMismatch: It cannot get them; all that is in the way is named.
        """
        return wanted_schema(self._row, self.schema, schema, None, self.compatibility)

    def schemas(self) -> tuple[SchemaVersion, ...]:
        """The schemas that the topic had, and last the one that it has, each with when it came and what it changed."""
        return history((since, self._store.schema(number)) for number, since in self._row.versions)

    @property
    def schema_number(self) -> int:
        """The number of the schema that this handle has: that of the topic when it was looked up."""
        return self._row.schema

    def in_schema(self, number: int) -> Self:
        """The topic with the columns of an earlier schema of it; as it is, where it never had one of this number."""
        if number not in (known for known, _ in self._row.versions):
            return self
        return type(self)(self._log, self._store, msgspec.structs.replace(self._row, schema=number))

    def read(
        self,
        *,
        start: Start = "earliest",
        follow: bool = False,
        columns: Sequence[str] | None = None,
        max_rows: int | None = None,
        partitions: Sequence[int] | None = None,
        end: Mapping[int, int] | None = None,
        where: pl.Expr | None = None,
        skip_corrupt: bool = False,
    ) -> Iterator[LogBatch]:
        """Batches from ``start`` on, in the order of offsets within each partition.

        Args:
            start: ``"earliest"``, ``"latest"``, an offset (in every partition), ``{partition: offset}``
                (others from their earliest row), or a time: rows from when the topic's time, or without
                one the time of appending, first reaches it.
            follow: Wait for more at the end. Ends with the topic, or never.
            columns: Only these columns, in this order; only their bytes are read.
            max_rows: Stop after so many rows.
            partitions: Only these partitions.
            end: ``{partition: offset}`` to stop before.
            where: Only rows for which this is true, and of a server only they travel. It compares columns and
                values of single rows (docs/predicates.md); ``batch.offsets`` says which rows they are.
            skip_corrupt: Go on behind what is damaged or lost. ``skipped`` of a :meth:`reader`, and of all readers of
                this process ``log.statistics()``, count it.

        Raises:
            DataCorrupted: Stored bytes are damaged, and ``skip_corrupt`` is not set.
            ExpressionRefused: ``where`` is more than such a comparison: filter what comes instead.
        """
        if max_rows is not None and not is_whole(max_rows):
            raise InvalidInput(f"max_rows={max_rows!r}: give a number from 0 on, or leave it out for all")
        reader = self.reader(
            start=start,
            partitions=partitions,
            columns=columns,
            end=end,
            where=where,
            skip_corrupt=skip_corrupt,
        )
        return self._read(reader, follow, max_rows)

    def reader(
        self,
        *,
        start: Start = "earliest",
        partitions: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        end: Mapping[int, int] | None = None,
        where: pl.Expr | None = None,
        skip_corrupt: bool = False,
    ) -> Reader:
        """A reader to be polled; arguments as for :meth:`read`."""
        positions = self._positions(start, partitions_of(self._row, partitions))
        ends = offsets_of(self._row, "end", end)
        wanted = self._wanted(columns)
        asked = None if where is None else self._predicate(where)
        return self._store.reader(
            self._row, positions, wanted, ends, self._opened, where=asked, skip_corrupt=skip_corrupt
        )

    def scan(self) -> pl.LazyFrame:
        """The topic's rows as a lazy frame: projections, filters and limits reach into the log.

        Batches that a filter on the time column rules out are not read. Partitions come one after the
        other. The ends are taken when the frame is collected.
        """
        return self._store.scan(self._row, self._opened)

    def offsets(self) -> dict[int, tuple[int, int]]:
        """``{partition: (begin, end)}``: the first offset there is, and the next one to be given."""
        return {partition: (head.begin, head.end) for partition, head in self._heads().items()}

    def heads(self, partitions: Sequence[int] | None = None) -> Mapping[int, PartitionHead]:
        """What is known of each partition without a look at its rows, of one moment; or of these partitions only."""
        return self._heads(None if partitions is None else partitions_of(self._row, partitions))

    def sizes(self) -> dict[int, int]:
        """``{partition: bytes}``: what its rows take on disk."""
        return {partition: head.bytes for partition, head in self._heads().items()}

    def offset_at(self, when: datetime | date | str, by: str = "time") -> dict[int, int]:
        """For each partition the first offset at which its time has reached ``when``; its end if none has.

        Args:
            when: A time; naive ones are UTC.
            by: ``"time"``: the topic's time column, as the greatest time of a row and all before it.
                ``"append"``: when rows were appended, batch by batch.
        """
        if by not in ("time", "append"):
            raise InvalidInput(f"offset_at(by={by!r}): choose 'time' or 'append'")
        if by == "time" and self.time is None:
            raise InvalidInput(
                f"topic {self.name!r} has no time column: use offset_at(..., by='append'), or create topics "
                "with time="
            )
        kind = pa.timestamp("us", "UTC") if by == "append" else self.schema.field(self.time).type
        ticks = to_time(when, kind)
        return self._store.offsets_at(self._row, ticks, by)

    def end(self) -> None:
        """Marks the topic finished: it takes no more rows, and from now on it is bounded."""
        self._commit(ChangeSet(ends=(self._row.id,)))

    def trim(self, before: Mapping[int, int] | int | datetime | date) -> None:
        """Removes the rows before ``{partition: offset}``, an offset in every partition, or a time.

        Many are removed in several commits: where one of them fails, what went before stays removed.
        """
        if isinstance(before, datetime | date):
            bounds = self.offset_at(before, by="time" if self.time else "append")
        elif isinstance(before, Mapping):
            bounds = offsets_of(self._row, "before", before)
        else:
            bounds = {p: offset_of(self._row, p, before) for p in range(self.partitions)}
        for step in steps(bounds, self._heads(sorted(bounds)), self._store.clock):
            self._commit(ChangeSet(trims=tuple(Trim(self._row.id, p, o) for p, o in sorted(step.items()))))

    def describe(self) -> TopicDescription:
        """What is in the topic: rows, bytes, time range, key skew and disorder. Reads its recent rows."""
        return self._store.describe(self._row)

    def _read(self, reader: Reader, follow: bool, max_rows: int | None) -> Iterator[LogBatch]:
        left = max_rows if max_rows is not None else 1 << 62
        # What is committed after this look is either found by the next poll, or ends the wait at once.
        lsn = self._store.heard() if follow else 0
        while left > 0:
            # One batch at a time: what is looked at must not wait for what is not.
            batches = reader.poll(max_rows=1)
            for batch in batches:
                yield batch if batch.data.num_rows <= left else batch.head(left)
                left -= batch.data.num_rows
                if left <= 0:
                    # With a predicate a poll gives more than one batch.
                    return
            if not batches:
                if not follow or reader.exhausted:
                    return
                lsn = self._store.wait(lsn, _WAIT)

    def _predicate(self, where: object) -> Predicate:
        found = from_expr(where) if isinstance(where, pl.Expr) else None
        if found is None:
            raise ExpressionRefused(
                f"topic {self.name!r}: read(where={where!s:.200}) is not made of comparisons of columns and values "
                "alone, which a server may be asked: filter the rows that come, or use scan().filter(...)"
            )
        check(found, self.polars_schema)
        return found

    @property
    def _store(self) -> Storage:
        return self._log._store

    def _opened(self) -> Storage:
        """Raises once the log is closed."""
        return self._log._store

    def _commit(self, change: ChangeSet, batches: Sequence[Any] = ()) -> Applied:
        try:
            return self._store.commit(change, batches)
        except TopicNotFound as error:
            raise TopicNotFound(f"topic {self.name!r} was deleted; nothing was committed") from error

    def _heads(self, partitions: Sequence[int] | None = None) -> Mapping[int, PartitionHead]:
        return self._store.heads(self._row, partitions)

    def _positions(self, start: Start, partitions: list[int]) -> dict[int, int]:
        heads = self._store.heads(self._row, partitions)
        if isinstance(start, str):
            if start == "earliest":
                return {p: heads[p].begin for p in partitions}
            if start == "latest":
                return {p: heads[p].end for p in partitions}
            raise InvalidInput(
                f"start={start!r}: choose 'earliest', 'latest', an offset, {{partition: offset}} or a datetime"
            )
        if isinstance(start, datetime | date):
            found = self.offset_at(start, by="time" if self.time else "append")
            return {p: found[p] for p in partitions}
        if isinstance(start, Mapping):
            named = offsets_of(self._row, "start", start)
            wanted = {p: named.get(p, heads[p].begin) for p in partitions}
        elif is_whole(start):
            wanted = dict.fromkeys(partitions, int(start))
        else:
            raise InvalidInput(
                f"start={start!r}: choose 'earliest', 'latest', an offset, {{partition: offset}} or a datetime"
            )
        for p, offset in wanted.items():
            if offset > heads[p].end:
                raise InvalidInput(
                    f"topic {self.name!r}, partition {p}: start={offset} lies behind its end {heads[p].end}"
                )
        return wanted

    def _wanted(self, columns: Sequence[str] | None) -> tuple[int, ...] | None:
        if columns is None:
            return None
        if isinstance(columns, str):
            columns = [columns]
        if not isinstance(columns, Iterable):
            raise InvalidInput(f"topic {self.name!r}: columns={columns!r:.80}: give a list of names")
        columns = list(columns)
        names = self.schema.names
        for column in columns:
            if column not in names:
                raise SchemaMismatch(
                    f"topic {self.name!r} has no column {column!r:.80}{did_you_mean(str(column), names)}; "
                    f"it has {', '.join(names)}"
                )
        if len(set(columns)) != len(columns):
            raise SchemaMismatch(f"topic {self.name!r}: columns={columns} names a column twice")
        return tuple(names.index(column) for column in columns)


def producer_sequences(
    topic: int, producer: str | None, sequence: int | None
) -> tuple[ProducerSequence, ...]:
    """The change for ``producer=`` and ``sequence=``, which come together or not at all."""
    if producer is None and sequence is None:
        return ()
    if not isinstance(producer, str) or not is_text(producer):
        raise InvalidInput(
            f"producer={producer!r:.80}: give a name of 1 to {LONGEST_TEXT} bytes without NUL, together with "
            "sequence="
        )
    if not is_whole(sequence):
        raise InvalidInput(f"sequence={sequence!r}: give a number from 0 on, together with producer=")
    return (ProducerSequence(topic, producer, int(sequence)),)
