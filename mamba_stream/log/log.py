"""The log: topics, transactions, groups' offsets and records in one storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from mamba_stream.core.changes import AlterTopic, ChangeSet
from mamba_stream.core.clock import Clock
from mamba_stream.core.durability import Durability, check_durability
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.core.schemas import canonical_schema, schema_bytes
from mamba_stream.core.sizes import size_of
from mamba_stream.errors import (
    AlreadyExists,
    InvalidInput,
    LogClosed,
    PreconditionFailed,
    TopicNotFound,
)
from mamba_stream.log.altering import UNSET, Unset, altered
from mamba_stream.log.asked import check_bounds, text_of
from mamba_stream.log.creating import check_same, checked_topic
from mamba_stream.log.evolving import wanted_schema
from mamba_stream.log.index import CLOSED
from mamba_stream.log.looking import Look
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.storage import Lock, LogStatistics, PartitionHead, Storage
from mamba_stream.log.topic import Topic
from mamba_stream.log.transaction import Transaction
from mamba_stream.log.upkeep import Maintained

if TYPE_CHECKING:
    from mamba_stream.log.backing import BackedUp
    from mamba_stream.log.copying import Copied, Starts
    from mamba_stream.log.scrubbing import Scrubbed


class Log:
    """A durable log of Arrow record batches in a directory.

    Any number of processes and threads may use one directory at once. Opening a directory twice in a
    process shares what is open; each handle is closed on its own.
    """

    def __init__(self, store: Storage, durability: Durability = "commit", upkeep: bool = True) -> None:
        self._shared = store
        self.durability = check_durability(durability)
        """What has to be so before a commit through this handle returns, unless told otherwise."""
        self.upkeep = upkeep
        """Whether jobs over this handle have :meth:`maintain` done in the background."""
        self._open = True
        self._topics: dict[str, Topic] = {}

    def __repr__(self) -> str:
        return f"Log({self.place!r})"

    @property
    def place(self) -> str:
        """Where it is: a directory, or an address."""
        return self._shared.place

    @property
    def path(self) -> Path:
        """The directory; a log that is served has none here.

        Raises:
            InvalidInput: The log is a server's.
        """
        if self._shared.directory is None:
            raise InvalidInput(f"the log at {self.place} is a server's: it has no directory here")
        return self._shared.directory

    @property
    def clock(self) -> Clock:
        """The time by which rows are appended and leases end: for all who share the log, the same."""
        return self._store.clock

    def create_topic(
        self,
        name: str,
        schema: Any,
        *,
        partitions: int = 1,
        key: str | Sequence[str] | None = None,
        strict_key: bool = False,
        time: str | None = None,
        compression: str = "none",
        exist_ok: bool = False,
        internal: bool = False,
        retention: str | timedelta | None = None,
        retention_bytes: int | str | None = None,
        quota: int | str | None = None,
        compact: bool = False,
        compact_after: str | timedelta = "1m",
        tombstones: str | timedelta = "1d",
        seal_compression: str | None = None,
        compatibility: str = "backward",
    ) -> Topic:
        """Creates a topic.

        Args:
            name: Letters, digits, ``.``, ``_`` and ``-``; at most 200. Two names may not differ only in case.
            schema: An Arrow or Polars schema, a dict of Polars types, or a frame.
            partitions: How many; at most 256 with a key.
            key: Columns whose equal values go to one partition, in every process and version.
            strict_key: Refuse an append whose ``partition=`` is not that of its rows' keys. Workers then find rows with
                equal keys in one place, and need not bring them together.
            time: The column that holds the time of a row: a timestamp or a date.
            compression: ``none`` (read without a copy), ``lz4`` or ``zstd``.
            exist_ok: Return the topic if it exists with this schema, or had it before it was altered, and with these
                partitions, key and time; and with a strict key, if that is asked for. How it is kept stays as it is:
                :meth:`alter_topic` changes that.
            internal: For the engine's own topics, whose names begin with ``_``.
            retention: For how long rows are kept after they were appended, as ``"7d"``. What is older goes in
                :meth:`maintain`.
            retention_bytes: What a partition may take on disk, as ``"10GB"``; its first rows go when it is more.
            quota: What the topic may take on disk, as ``"50GB"``; appends beyond that are refused.
            compact: Keep only the latest row of each key. A row that has only its key deletes that key.
            compact_after: For how long after they were appended rows are left alone by that.
            tombstones: For how long a row that deletes its key is kept.
            seal_compression: How batches are compressed when they are sealed: ``none``, ``lz4`` or ``zstd``; as they
                were appended unless told otherwise.
            compatibility: What altering the columns has to leave possible: ``backward``, ``forward``, ``full`` or
                ``none`` (docs/schemas.md).

        Raises:
            AlreadyExists: There is one, and ``exist_ok`` is not set, or it is another.
            UnsupportedType: A column cannot be stored.
        """
        change = checked_topic(
            name,
            canonical_schema(schema),
            partitions=partitions,
            key=key,
            strict_key=strict_key,
            time=time,
            compression=compression,
            internal=internal,
            created=self._store.clock.now(),
            changes={
                "retention": retention,
                "retention_bytes": retention_bytes,
                "quota": quota,
                "compact": compact,
                "compact_after": compact_after,
                "tombstones": tombstones,
                "seal_compression": seal_compression,
                "compatibility": compatibility,
            },
        )
        existing = self._row(name)
        if existing is None:
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
        check_same(topic, change)
        return topic

    def alter_topic(
        self,
        name: str,
        *,
        schema: Any = None,
        add: Any = None,
        retention: str | timedelta | Unset | None = UNSET,
        retention_bytes: int | str | Unset | None = UNSET,
        quota: int | str | Unset | None = UNSET,
        compact: bool | Unset = UNSET,
        compact_after: str | timedelta | Unset = UNSET,
        tombstones: str | timedelta | Unset = UNSET,
        seal_compression: str | Unset | None = UNSET,
        compatibility: str | Unset = UNSET,
    ) -> Topic:
        """Changes the columns of a topic, and how it is kept; what is not named stays as it is.

        Columns come behind those that are there, and are null in earlier rows; types may become wider. Whoever has the
        topic open goes on with the columns that it has there. How it is kept takes effect with the next
        :meth:`maintain`.

        Args:
            name: The topic.
            schema: All its columns, in any order; what is another type there is widened.
            add: Columns to be added.
            retention: As for :meth:`create_topic`.
            retention_bytes: As for :meth:`create_topic`.
            quota: As for :meth:`create_topic`.
            compact: As for :meth:`create_topic`.
            compact_after: As for :meth:`create_topic`.
            tombstones: As for :meth:`create_topic`.
            seal_compression: As for :meth:`create_topic`.
            compatibility: As for :meth:`create_topic`; these columns are judged by it already.

        Returns:
            The topic as it is now.

        Raises:
            SchemaMismatch: It cannot get these columns; all that is in the way is named, and nothing was changed.
            InvalidInput: It cannot be kept so; nothing was changed.
        """
        changes = {
            "retention": retention,
            "retention_bytes": retention_bytes,
            "quota": quota,
            "compact": compact,
            "compact_after": compact_after,
            "tombstones": tombstones,
            "seal_compression": seal_compression,
            "compatibility": compatibility,
        }
        while True:
            topic = self[name]
            row = topic._row
            settings = altered(name, row.key, row.settings, changes)
            change = AlterTopic(row.id, row.settings, settings)
            wanted = wanted_schema(row, topic.schema, schema, add, settings.compatibility)
            if wanted is not topic.schema:
                change = msgspec.structs.replace(change, schema=schema_bytes(wanted), schema_seen=row.schema)
            elif settings == row.settings:
                return topic
            try:
                self._store.commit(ChangeSet(alters=(change,)))
            except PreconditionFailed:
                # Somebody else altered it in between: what is to be changed is changed in what it is now.
                continue
            return self[name]

    def __getitem__(self, name: str) -> Topic:
        row = self._row(name)
        if row is None:
            names = self.topics(internal=str(name).startswith("_"))
            raise TopicNotFound(
                f"no topic {name!r:.80} in {self.place}{did_you_mean(str(name), names)}; "
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

    def transaction(self, *, durability: Durability | None = None) -> Transaction:
        """Begins a transaction: ``with log.transaction() as tx: ...``.

        Args:
            durability: What has to be so before its commit returns; what the log was opened with unless told otherwise.
        """
        return Transaction(self, durability)

    def flush(self) -> None:
        """Has everything on the disk that was committed, by whichever process, at whatever durability."""
        self._store.flush()

    def lsn(self) -> int:
        """The number of the last commit."""
        return self._store.lsn()

    def heard(self) -> int:
        """A number that the log has reached: of the last commit, or of one a moment before it.

        For whoever looks and then waits for what comes: ``wait`` behind it returns at once where there was more. Over
        a network it costs nothing, where :meth:`lsn` is a call.
        """
        return self._store.heard()

    def settle(self) -> None:
        """Waits for a commit in flight, and makes visible the last one of a process that was killed in it."""
        self._store.settle()

    def wait(self, lsn: int, timeout: float, called: Callable[[], bool] | None = None) -> int:
        """Waits until the log is past ``lsn``, at most ``timeout`` seconds; returns the lsn it is at.

        Args:
            lsn: A number of :meth:`heard` or :meth:`lsn`.
            timeout: Seconds.
            called: Says whether something else has come that is worth to stop waiting for. It is asked before each
                wait; whoever changes its answer calls :meth:`rouse` behind that.
        """
        return self._store.wait(lsn, timeout, called)

    def rouse(self) -> None:
        """Has all who wait in this process ask whether they were ``called``."""
        self._store.rouse()

    def groups(self) -> list[str]:
        """The names of the groups that have committed offsets."""
        return self._store.groups()

    def group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        """The next offset that a group reads, by (topic, partition)."""
        check_name(group, "group")
        return self._store.group_offsets(group)

    def record(self, namespace: str, key: str) -> bytes | None:
        """A small value stored by a transaction."""
        return self._store.record(text_of(namespace), text_of(key))

    def records(
        self, namespace: str, *, before: str | None = None, limit: int | None = None
    ) -> dict[str, bytes]:
        """Small values of a namespace by key, in the order of keys, of one moment.

        Args:
            namespace: The namespace.
            before: Only keys that sort before this one.
            limit: At most so many.

        Raises:
            InvalidInput: The namespace is none, or the limit is no number.
        """
        check_bounds("records", limit=limit)
        before = None if before is None else text_of(before)
        return self._store.records(text_of(namespace), before, limit)

    def look(self, beyond: int | None = None, timeout: float = 0.0) -> Look:
        """Begins a look at several things at once, which over a network is one trip.

        Args:
            beyond: Look once the log is past the commit of this number, or ``timeout`` seconds are over; without, at
                once.
            timeout: Seconds.
        """
        return Look(self._store, beyond, timeout)

    def namespaces(self, prefix: str = "") -> list[str]:
        """The namespaces that hold records and begin so, sorted; costs what there are, however full they are."""
        return self._store.namespaces(prefix)

    def heads(self, *, internal: bool = False) -> dict[tuple[str, int], PartitionHead]:
        """What the index knows of every partition without a look at its rows, by (topic, partition), of one moment."""
        return self._store.all_heads(internal=internal)

    def numbered(self, number: int) -> bool:
        """Whether the topic of this number (``topic.number``) is there; numbers are never given twice."""
        return self._store.numbered(number)

    def lock(self, space: str, name: str) -> Lock | None:
        """Takes a lock among all who use the log; ``None`` where somebody has it.

        It is let go by ``release()`` on it, and when the process that took it dies.

        Args:
            space: What kind of thing is locked; names of one kind do not meet those of another.
            name: The name.
        """
        for text in (space, name):
            check_name(text, "lock")
        return self._store.lock(space, name)

    def lock_holder(self, space: str, name: str) -> str | None:
        """Who has a lock now, in words; ``None`` where nobody has."""
        return self._store.lock_holder(space, name)

    def seal(self) -> int:
        """Repacks commit files into one segment per partition, which any Arrow tool opens.

        A segment is an ordinary Arrow IPC stream under ``files/``, with a table of contents beside it.
        Files of living writers in other processes are left alone. Returns how many files were repacked.
        """
        return self._store.seal()

    def maintain(self, budget: int | str | None = None, *, scrub: int | str | None = None) -> Maintained:
        """Does what the log needs: removes what its topics do not keep any more, seals, compacts and merges.

        One process at a time does it, and whoever comes meanwhile does nothing and is told who. It may be interrupted
        anywhere; the next run goes on.

        Args:
            budget: About how many bytes may be written anew, as ``"100MB"``; without, all that there are.
            scrub: About how many bytes are looked at for damage then, as by :meth:`scrub`; none, unless told otherwise.

        Raises:
            InvalidInput: One of them is no size.
        """
        looked_at = None if scrub is None else int(size_of(scrub))
        found = self._store.maintain(None if budget is None else int(size_of(budget)))
        if looked_at is None or found.busy is not None:
            return found
        scrubbed = self._store.scrub(looked_at)
        return replace(found, scrubbed_bytes=scrubbed.bytes, findings=scrubbed.findings)

    def copy(self, topics: str | Sequence[str], into: Log, *, start: Starts | None = None) -> Copied:
        """Copies what topics hold now into another log, at the same offsets; what was copied before is not again.

        It may be interrupted anywhere and be called again: each row lands once.

        Args:
            topics: Their names, which they keep.
            into: The other log, in a directory or a server's.
            start: ``{topic: {partition: offset}}`` for topics that are not there yet: where each begins; at its first
                row unless told otherwise.

        Raises:
            AlreadyExists: There is a topic of that name which is no copy of this one.
            InvalidInput: Rows were compacted away in the middle, so that the copy would have other offsets.
            OffsetTrimmed: The rows that come next were trimmed away since the last copy.
            PreconditionFailed: Somebody else appended to the copy.
        """
        from mamba_stream.log.copying import copy

        return copy(self, topics, into, start)

    def scrub(self, most: int | str | None = None) -> Scrubbed:
        """Looks at what is stored, before somebody needs it: every byte of batches, against their checksums.

        It begins where the last look at this log ended, whoever did it, and at the end begins anew.

        Args:
            most: Stop after about so many bytes, as ``"64MB"``; without, at the end of the log.

        Raises:
            InvalidInput: ``most`` is no size.
        """
        return self._store.scrub(None if most is None else int(size_of(most)))

    def backup(self, target: object, *, keep: int | None = None) -> BackedUp:
        """Backs the log up, of one moment, while it is in use; what was backed up before is not copied again.

        Args:
            target: A directory, the address of an object store such as ``s3://bucket/logs``, or a store of ``obstore``.
            keep: Keep so many backups there, the newest ones; all unless told otherwise.

        Raises:
            InvalidInput: The target is the log itself, or keeps another log's backups; or the log is a server's.
            LogInUse: Another backup of the log is under way.
        """
        from mamba_stream.log.backing import backup

        return backup(self, target, keep=keep)

    def tended(self) -> AbstractContextManager[None]:
        """Has :meth:`maintain` and :meth:`scrub` done in the background meanwhile, now and then and a little at a time.

        As jobs and servers have it. Over a network the server does it.

        Example:
            >>> import mamba_stream as mamba, tempfile
            >>> with mamba.open(tempfile.mkdtemp()) as log, log.tended():
            ...     _ = log.create_topic("t", {"n": int}, retention="7d").append([{"n": 1}])
        """
        return self._store.tended() if self.upkeep else nullcontext()

    def statistics(self) -> LogStatistics:
        """What the log holds, and what this process did with it."""
        return self._store.statistics()

    def close(self) -> None:
        """Closes this handle; what is committed stays."""
        if self._open:
            self._open = False
            self._shared.release()

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
    def _store(self) -> Storage:
        # Another handle may keep the store open; this one is over.
        if not self._open:
            raise LogClosed(CLOSED)
        return self._shared

    def _row(self, name: str) -> TopicRow | None:
        return self._store.topic(name)

    def _bind(self, row: TopicRow) -> Topic:
        return Topic(self, self._store, row)
