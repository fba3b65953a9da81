"""The log: topics, transactions, groups' offsets and records under one directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from mamba_stream.core.changes import ChangeSet, CreateTopic
from mamba_stream.core.keys import hash_keys
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.core.schemas import canonical_schema, describe_difference, schema_bytes, time_type_of
from mamba_stream.errors import AlreadyExists, InvalidInput, LogClosed, SchemaMismatch, TopicNotFound
from mamba_stream.log import rows, sealing
from mamba_stream.log.asked import text_of
from mamba_stream.log.index import CLOSED
from mamba_stream.log.rows import FileRow, TopicRow
from mamba_stream.log.store import Store, release
from mamba_stream.log.topic import Topic
from mamba_stream.log.transaction import Transaction

COMPRESSIONS = ("none", "lz4", "zstd")
_MOST_PARTITIONS = 65_536
_MOST_KEYED = 256


@dataclass(frozen=True)
class LogStatistics:
    """What a log holds, and what this process did with it since it opened it.

    Attributes:
        lsn: The number of the last commit.
        topics: Topics, without internal ones.
        rows: Rows that can be read, without internal ones.
        bytes: What all topics take on disk.
        batches: Batches of all topics.
        commit_files: Files that commits go to.
        segments: Sealed files.
        trash: Files that wait for their removal.
        index_bytes: What the index takes on disk.
        readers: Places in the index's table of readers, over all processes.
        commits: Synced transactions of this process.
        changes: Change sets in them: callers that arrive together share a commit.
        refused: Change sets that were refused.
        appended_rows: Rows that this process appended.
        appended_bytes: Bytes of them.
        commit_seconds: Time spent writing, syncing and applying.
    """

    lsn: int
    topics: int
    rows: int
    bytes: int
    batches: int
    commit_files: int
    segments: int
    trash: int
    index_bytes: int
    readers: int
    commits: int
    changes: int
    refused: int
    appended_rows: int
    appended_bytes: int
    commit_seconds: float


@dataclass(frozen=True, slots=True)
class PartitionHead:
    """The state of a partition.

    Attributes:
        topic: The number of its topic.
        begin: The first offset there is.
        end: The next one to be given.
        rows: Rows that are stored, some of which may lie before ``begin``.
        bytes: What they take on disk.
        append_time: When rows were last appended, in microseconds since the epoch; 0 for never.
    """

    topic: int
    begin: int
    end: int
    rows: int
    bytes: int
    append_time: int


class Log:
    """A durable log of Arrow record batches in a directory.

    Any number of processes and threads may use one directory at once. Opening a directory twice in a
    process shares what is open; each handle is closed on its own.
    """

    def __init__(self, store: Store) -> None:
        self._shared = store
        self._open = True
        self._topics: dict[str, Topic] = {}

    def __repr__(self) -> str:
        return f"Log({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The directory."""
        return self._shared.path

    def create_topic(
        self,
        name: str,
        schema: Any,
        *,
        partitions: int = 1,
        key: str | Sequence[str] | None = None,
        time: str | None = None,
        compression: str = "none",
        exist_ok: bool = False,
        internal: bool = False,
    ) -> Topic:
        """Creates a topic.

        Args:
            name: Letters, digits, ``.``, ``_`` and ``-``; at most 200. Two names may not differ only in case.
            schema: An Arrow or Polars schema, a dict of Polars types, or a frame.
            partitions: How many; at most 256 with a key.
            key: Columns whose equal values go to one partition, in every process and version.
            time: The column that holds the time of a row: a timestamp or a date.
            compression: ``none`` (read without a copy), ``lz4`` or ``zstd``.
            exist_ok: Return the topic if it exists with this schema, these partitions, key and time.
            internal: For the engine's own topics, whose names begin with ``_``.

        Raises:
            AlreadyExists: There is one, and ``exist_ok`` is not set, or it is another.
            UnsupportedType: A column cannot be stored.
        """
        check_name(name, "topic", internal=internal)
        arrow = canonical_schema(schema)
        columns = _key(key, arrow.names)
        if columns:
            # Refuses, before the first row does, what has no hash.
            hash_keys([pa.array([], arrow.field(column).type) for column in columns])
        if time is not None:
            _known(name, "time", time, arrow.names)
            time_type_of(arrow, time)
        if compression not in COMPRESSIONS:
            raise InvalidInput(
                f"topic {name!r}: compression={compression!r}; choose one of {', '.join(COMPRESSIONS)}"
            )
        most = _MOST_KEYED if columns else _MOST_PARTITIONS
        if not is_whole(partitions, 1, most):
            raise InvalidInput(
                f"topic {name!r}: partitions={partitions!r}; choose 1 to {most}"
                f"{' (a topic with a key has at most 256)' if columns else ''}"
            )
        existing = self._row(name)
        if existing is None:
            change = CreateTopic(
                name=name,
                partitions=int(partitions),
                key=columns,
                time=time,
                compression=compression,
                schema=schema_bytes(arrow),
                internal=internal,
                created=self._store.clock.now(),
            )
            try:
                self._store.commit(ChangeSet(creates=(change,)))
                return self[name]
            except AlreadyExists:
                # Another process was faster, or a name differs only in case.
                existing = self._row(name)
                if existing is None or not exist_ok:
                    raise
        if not exist_ok:
            raise AlreadyExists(f"topic {name!r} exists; pass exist_ok=True to use it, or delete it first")
        topic = self[name]
        _same(topic, arrow, partitions, columns, time)
        return topic

    def __getitem__(self, name: str) -> Topic:
        row = self._row(name)
        if row is None:
            names = self.topics(internal=str(name).startswith("_"))
            raise TopicNotFound(
                f"no topic {name!r:.80} in {self.path}{did_you_mean(str(name), names)}; "
                + (
                    f"it has {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
                    if names
                    else "it has none"
                )
            )
        known = self._topics.get(name)
        if known is None or known._row != row:
            known = self._topics[name] = self._bind(row)
        return known

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._row(name) is not None

    def topics(self, internal: bool = False) -> list[str]:
        """The names of the topics, sorted."""
        return sorted(row.name for row in self._store.topics() if internal or not row.internal)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic with its rows, and what groups and producers know of it."""
        self._store.commit(ChangeSet(drops=(self[name]._row.id,)))
        self._topics.pop(name, None)

    def transaction(self) -> Transaction:
        """Begins a transaction: ``with log.transaction() as tx: ...``."""
        return Transaction(self)

    def lsn(self) -> int:
        """The number of the last commit."""
        return self._store.lsn()

    def settle(self) -> None:
        """Waits for a commit in flight, and makes visible the last one of a process that was killed in it."""
        self._store.index.settle()

    def wait(self, lsn: int, timeout: float) -> int:
        """Waits until the log is past ``lsn``, at most ``timeout`` seconds; returns the lsn it is at."""
        return self._store.wait(lsn, timeout)

    def groups(self) -> list[str]:
        """The names of the groups that have committed offsets."""
        return sorted(group.decode() for group in self._store.openings(rows.OFFSET))

    def group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        """The next offset that a group reads, by (topic, partition)."""
        check_name(group, "group")
        names: dict[int, str | None] = {}
        found = {}
        for key, value in self._store.items(rows.OFFSET + group.encode() + b"\0"):
            _, topic, partition = rows.offset_place(key)
            if topic not in names:
                row = self._store.get(rows.number_key(rows.TOPIC, topic))
                names[topic] = None if row is None else rows.unpack(TopicRow, row).name
            # Where the topic was deleted since, this went with it.
            if (name := names[topic]) is not None:
                found[name, partition] = int.from_bytes(value, "big")
        return found

    def record(self, namespace: str, key: str) -> bytes | None:
        """A small value stored by a transaction."""
        return self._store.get(rows.record_key(text_of(namespace), text_of(key)))

    def records(
        self, namespace: str, *, before: str | None = None, limit: int | None = None
    ) -> dict[str, bytes]:
        """Small values of a namespace by key, in the order of keys, of one moment.

        Args:
            namespace: The namespace.
            before: Only keys that sort before this one.
            limit: At most so many.
        """
        prefix = rows.record_key(text_of(namespace), "")
        stop = None if before is None else rows.record_key(namespace, text_of(before))
        found = self._store.items(prefix, stop=stop, limit=limit)
        return {key[len(prefix) :].decode(): value for key, value in found}

    def namespaces(self, prefix: str = "") -> list[str]:
        """The namespaces that hold records and begin so, sorted; costs what there are, however full they are."""
        start = prefix.encode()
        return [(start + rest).decode() for rest in self._store.openings(rows.RECORD + start)]

    def heads(self, *, internal: bool = False) -> dict[tuple[str, int], PartitionHead]:
        """What the index knows of every partition without a look at its rows, by (topic, partition), of one moment."""
        names = {row.id: row.name for row in self._store.topics() if internal or not row.internal}
        found = {}
        for key, value in self._store.items(rows.HEAD):
            topic, partition = rows.partition_place(key)
            if topic in names:
                head = rows.unpack_head(value)
                found[names[topic], partition] = PartitionHead(
                    topic, head.begin, head.end, head.rows, head.size, head.append_time
                )
        return found

    def numbered(self, number: int) -> bool:
        """Whether the topic of this number (``topic.number``) is there; numbers are never given twice."""
        return self._store.get(rows.number_key(rows.TOPIC, number)) is not None

    def seal(self) -> int:
        """Repacks commit files into one segment per partition, which any Arrow tool opens.

        A segment is an ordinary Arrow IPC stream under ``files/``, with a table of contents beside it.
        Files of living writers in other processes are left alone. Returns how many files were repacked.
        """
        self._store.committer.roll()
        return sealing.seal(self._store)

    def statistics(self) -> LogStatistics:
        """What the log holds, and what this process did with it."""
        topics = {row.id: row for row in self._store.topics()}
        heads = [
            (topics[place[0]], rows.unpack_head(value))
            for key, value in self._store.items(rows.HEAD)
            if (place := rows.partition_place(key))[0] in topics
        ]
        files = [rows.unpack(FileRow, value) for _, value in self._store.items(rows.FILE)]
        counts = self._store.committer.counts
        return LogStatistics(
            lsn=self._store.lsn(),
            topics=sum(not row.internal for row in topics.values()),
            rows=sum(head.end - head.begin for row, head in heads if not row.internal),
            bytes=sum(head.size for _, head in heads),
            batches=sum(head.entries for _, head in heads),
            commit_files=sum(file.kind == "commit" and file.state != "trash" for file in files),
            segments=sum(file.kind == "segment" and file.state != "trash" for file in files),
            trash=sum(file.state == "trash" for file in files),
            index_bytes=self._store.index.size(),
            readers=self._store.index.readers(),
            commits=counts.commits,
            changes=counts.changes,
            refused=counts.refused,
            appended_rows=counts.rows,
            appended_bytes=counts.bytes,
            commit_seconds=counts.seconds,
        )

    def close(self) -> None:
        """Closes this handle; what is committed stays."""
        if self._open:
            self._open = False
            release(self._shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _store(self) -> Store:
        # Another handle may keep the store open; this one is over.
        if not self._open:
            raise LogClosed(CLOSED)
        return self._shared

    def _row(self, name: str) -> TopicRow | None:
        return self._store.topic(name)

    def _bind(self, row: TopicRow) -> Topic:
        return Topic(self, self._store, row)


def _key(key: Any, names: list[str]) -> tuple[str, ...]:
    if key is None:
        return ()
    columns = tuple(key) if isinstance(key, Iterable) and not isinstance(key, str) else (key,)
    for column in columns:
        _known("", "key", column, names)
    if len(set(columns)) != len(columns):
        raise InvalidInput(f"key={list(columns)} names a column twice")
    return columns


def _known(topic: str, what: str, column: str, names: list[str]) -> None:
    if column not in names:
        raise SchemaMismatch(
            f"{f'topic {topic!r}: ' if topic else ''}{what}={column!r} is not a column"
            f"{did_you_mean(str(column), names)}; there are {', '.join(names)}"
        )


def _same(topic: Topic, schema: Any, partitions: int, key: tuple[str, ...], time: str | None) -> None:
    if not topic.schema.equals(schema):
        raise SchemaMismatch(
            f"topic {topic.name!r} exists with another schema: {describe_difference(schema, topic.schema)}"
        )
    for what, have, want in (
        ("partitions", topic.partitions, partitions),
        ("key", topic.key, key),
        ("time", topic.time, time),
    ):
        if have != want:
            raise AlreadyExists(f"topic {topic.name!r} exists with {what}={have!r}, not {want!r}")
