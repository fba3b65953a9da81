"""What a log asks of where it is stored: a directory of this machine, or a server's.

`Log`, `Topic` and `Transaction` check what they are given and speak to this; nothing above them knows which
storage it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
import pyarrow as pa

from mamba_stream.core.changes import Applied, ChangeSet, Once
from mamba_stream.core.clock import Clock
from mamba_stream.core.predicates import Predicate
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.looking import Question
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.skipping import Skipped
from mamba_stream.log.upkeep import Maintained

if TYPE_CHECKING:
    from mamba_stream.log.description import TopicDescription
    from mamba_stream.log.scrubbing import Scrubbed


@dataclass(frozen=True)
class LogStatistics:
    """What a log holds, and what this process did with it since it opened it.

    Attributes:
        lsn: The number of the last commit.
        flushed_lsn: That of the last one that is on the disk, which no loss of power can undo.
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
        commit_times: How many groups of change sets took how long, by the buckets of ``core.histogram``.
        upkeep_runs: How often this process did what the log needs.
        trimmed_rows: Rows that retention removed then.
        unread_rows: Those of them that groups had yet to read.
        compacted_rows: Rows that compaction removed.
        written_bytes: What was written anew to seal and to compact.
        skipped_batches: Damaged batches that readers of this process passed over, told to ``skip_corrupt``.
        skipped_rows: Their rows.
        skipped_offsets: Their offsets, and those that the index has lost.
        scrubbed_batches: Batches that this process looked at when it scrubbed the log.
        scrubbed_bytes: Their bytes.
        scrub_findings: What it found damaged or missing then.
        disk_bytes: How large the log's disk is; 0 where the system does not say.
        disk_free: What is left of it.
        disk_state: Which mark of it is reached: ``ample`` for none, ``soft`` or ``hard``.
        ballast_bytes: What the ballast takes there.
        disk_refused: Change sets that were refused for a mark.
        quota_refused: Change sets that were refused for the quota of a topic.
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
    commit_times: tuple[int, ...] = ()
    flushed_lsn: int = 0
    upkeep_runs: int = 0
    trimmed_rows: int = 0
    unread_rows: int = 0
    compacted_rows: int = 0
    written_bytes: int = 0
    skipped_batches: int = 0
    skipped_rows: int = 0
    skipped_offsets: int = 0
    scrubbed_batches: int = 0
    scrubbed_bytes: int = 0
    scrub_findings: int = 0
    disk_bytes: int = 0
    disk_free: int = 0
    disk_state: str = "ample"
    ballast_bytes: int = 0
    disk_refused: int = 0
    quota_refused: int = 0


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
        ended: Whether the topic is closed to appends.
    """

    topic: int
    begin: int
    end: int
    rows: int
    bytes: int
    append_time: int
    ended: bool = False


class Reader(Protocol):
    """Reads partitions from given offsets on, in the order of offsets within each.

    A reader belongs to one thread, and holds no lock between calls.
    """

    @property
    def topic(self) -> str:
        """The topic's name."""
        ...

    @property
    def positions(self) -> dict[int, int]:
        """The next offset to read, by partition."""
        ...

    @property
    def at_end(self) -> bool:
        """Whether every partition is read to where it ends now (or to this reader's end)."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether nothing can come any more: the topic was ended, or this reader's end reached."""
        ...

    @property
    def skipped(self) -> Skipped:
        """What was damaged or lost, and passed over."""
        ...

    def poll(self, *, max_rows: int = 65_536, max_bytes: int | None = None) -> list[LogBatch]:
        """The batches that come next, around ``max_rows`` rows together; none at the end.

        The partitions take turns, so that none starves. Nothing is waited for that is not there yet.

        Raises:
            OffsetTrimmed: The rows to read next were trimmed away.
            DataCorrupted: Stored bytes are damaged, and not to be skipped; ``seek`` behind them to go on.
            InvalidInput: A bound is not a number.
        """
        ...

    def seek(self, positions: Mapping[int, int]) -> None:
        """Goes on from these offsets; partitions that are not named stay where they are."""
        ...

    def close(self) -> None:
        """Lets go of what was looked up ahead."""
        ...


class Lock(Protocol):
    """A lock that was taken."""

    def release(self) -> None:
        """Lets go. Done twice it does nothing more."""
        ...


class Intake(Protocol):
    """Prepares rows for one topic."""

    def batches(
        self,
        data: Any,
        partition: int | None = None,
        expect: Mapping[int, int] | None = None,
        *,
        at_once: bool = False,
        own: bool = False,
    ) -> list[Any]:
        """The data as batches that the same storage commits, in order; raises before anything is written.

        They may point into what the caller passed only if they are to be committed ``at_once``, or the rows are the
        caller's ``own``: validated already, and changed by nobody any more.
        """
        ...

    def together(self, batches: Sequence[pa.RecordBatch], partition: int) -> list[Any]:
        """The rows of several batches of one schema that are the caller's own, as if they were one."""
        ...


class Storage(Protocol):
    """Where a log lies. Its methods take what was checked, and may be called by any thread."""

    @property
    def place(self) -> str:
        """Where that is, as users write it: a directory, or an address."""
        ...

    @property
    def directory(self) -> Path | None:
        """The directory, where it is one of this machine."""
        ...

    @property
    def identity(self) -> str:
        """What tells this log from all others, wherever it is."""
        ...

    @property
    def clock(self) -> Clock:
        """The time by which leases end and rows are appended: for all who share the log, the same."""
        ...

    def topic(self, name: object) -> TopicRow | None:
        """The topic of exactly this name."""
        ...

    def topics(self) -> list[TopicRow]:
        """All topics, internal ones as well."""
        ...

    def numbered(self, number: int) -> bool:
        """Whether there is a topic of this number."""
        ...

    def schema(self, number: int) -> pa.Schema:
        """The columns of a schema's number, as they are stored."""
        ...

    def intake(self, topic: TopicRow) -> Intake:
        """What prepares rows for the topic."""
        ...

    def commit(self, change: ChangeSet, batches: Sequence[Any] = ()) -> Applied:
        """Commits durably, with batches of :meth:`intake` appended, and wakes whoever waits."""
        ...

    def commit_together(
        self, changes: Sequence[tuple[ChangeSet, Sequence[Any]]]
    ) -> list[Applied | BaseException]:
        """Commits several change sets, each by itself, at the cost of one where that is possible; what became of each.

        Raises:
            MambaStreamError: The storage cannot be used.
        """
        ...

    def heads(self, topic: TopicRow, partitions: Sequence[int] | None = None) -> Mapping[int, PartitionHead]:
        """The state of the topic's partitions, all of one moment."""
        ...

    def all_heads(self, *, internal: bool) -> dict[tuple[str, int], PartitionHead]:
        """The state of every partition by (topic, partition), of one moment."""
        ...

    def offsets_at(self, topic: TopicRow, ticks: int, by: str) -> dict[int, int]:
        """For each partition the first offset whose running time (or append time) has reached these ticks."""
        ...

    def reader(
        self,
        topic: TopicRow,
        positions: Mapping[int, int],
        wanted: tuple[int, ...] | None,
        ends: Mapping[int, int],
        opened: Callable[[], object],
        between: tuple[int | None, int | None] = (None, None),
        where: Predicate | None = None,
        *,
        skip_corrupt: bool = False,
    ) -> Reader:
        """A reader of these columns by number; ``opened`` raises once the handle that asked for it is closed.

        Batches that have no row ``between`` these ticks of the time column, inclusive, are left out, and rows for
        which ``where`` is not true. With ``skip_corrupt`` it goes on behind what is damaged, and counts it.
        """
        ...

    def scan(self, topic: TopicRow, opened: Callable[[], object]) -> pl.LazyFrame:
        """The topic as a lazy frame; its ends are taken when it is collected."""
        ...

    def describe(self, topic: TopicRow) -> TopicDescription:
        """The facts of a topic as they are now."""
        ...

    def groups(self) -> list[str]:
        """The names of the groups that have committed offsets."""
        ...

    def group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        """The next offset that a group reads, by (topic, partition)."""
        ...

    def record(self, namespace: str, key: str) -> bytes | None:
        """One small value."""
        ...

    def records(self, namespace: str, before: str | None, limit: int | None) -> dict[str, bytes]:
        """Small values of a namespace by key, in the order of keys, of one moment."""
        ...

    def together(
        self, questions: Sequence[Question], beyond: int | None = None, timeout: float = 0.0
    ) -> Sequence[Any] | None:
        """What each of these questions comes to, asked together, or ``None`` where that would save nothing.

        With ``beyond`` they are asked once the log is past that commit, or after ``timeout`` seconds.

        That is its answer, as the call of its own gives it; the error that this call raises; or ``ALONE`` where it is
        to be asked by itself. Answers are not of one moment: each is from when the one before it was found, or later.
        """
        ...

    def namespaces(self, prefix: str) -> list[str]:
        """The namespaces that hold records and begin so, sorted."""
        ...

    def lsn(self) -> int:
        """The number of the last commit."""
        ...

    def heard(self) -> int:
        """A number that the log has reached, as far as is known here without asking."""
        ...

    def settle(self) -> None:
        """Waits for a commit in flight, and makes visible the last one of a process that was killed in it."""
        ...

    def flush(self) -> None:
        """Has everything on the disk that was committed."""
        ...

    def wait(self, lsn: int, timeout: float, called: Callable[[], bool] | None = None) -> int:
        """Returns once the log is past ``lsn``, or after ``timeout`` seconds; the lsn it is at.

        Also where ``called`` says yes: it is asked before each wait, and :meth:`rouse` ends one.
        """
        ...

    def rouse(self) -> None:
        """Ends the waits in this process of those for whom something else has come; others wait on."""
        ...

    def lock(self, space: str, name: str, holder: str | None = None) -> Lock | None:
        """Takes the lock of this name, which is let go when its holder dies; ``None`` where it is taken.

        ``holder`` says in words who has it then: this process, unless it takes the lock for another.
        """
        ...

    def lock_holder(self, space: str, name: str) -> str | None:
        """Who has the lock of this name now, in words; ``None`` where nobody has."""
        ...

    def seal(self) -> int:
        """Repacks files that commits went to; says how many."""
        ...

    def scrub(self, most: int | None = None) -> Scrubbed:
        """Looks at the bytes of batches, from where the last look ended, until there are about so many."""
        ...

    def maintain(self, budget: int | None = None) -> Maintained:
        """Does what the log needs, writing about so many bytes anew at most; says what it did."""
        ...

    def tended(self) -> AbstractContextManager[None]:
        """Has upkeep done in the background meanwhile, if that is this process's business."""
        ...

    def statistics(self) -> LogStatistics:
        """What the log holds, and what this process did with it."""
        ...

    def release(self) -> None:
        """Gives back one handle; the last one closes the storage."""
        ...


class Stage(Protocol):
    """Rows of one commit that come in pieces. It belongs to one thread."""

    def write(self, batches: Sequence[Any]) -> None:
        """Writes batches of :meth:`Storage.intake`; nobody sees them yet."""
        ...

    def commit(self, change: ChangeSet) -> Applied:
        """Commits the change set with all that was written appended; raises if it did not happen."""
        ...

    def close(self) -> None:
        """Ends it. What was not committed is gone."""
        ...


class OwnStorage(Storage, Protocol):
    """A storage of this machine: takes a commit one piece after the other, and knows what came of others."""

    def topic_mark(self, number: int) -> bytes | None:
        """What is another whenever a topic was altered; ``None`` where no topic has this number (any more)."""
        ...

    def answered(self, once: Once) -> Applied | None:
        """What came of the change set of this name and number, if that was the name's last."""
        ...

    def stage(self) -> Stage:
        """Begins such a commit."""
        ...
