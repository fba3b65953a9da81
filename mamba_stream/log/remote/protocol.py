"""The messages between a log's clients and its server: what travels beside the rows, as msgpack maps.

``docs/protocol.md`` describes them for clients in any language. A field that a server or a client does not know
is ignored; what changes the meaning of what is there raises :data:`VERSION`.
"""

from __future__ import annotations

from typing import Any, Final, SupportsIndex, TypeVar

import msgspec

from mamba_stream.core.changes import ChangeSet, Forget, TopicSettings
from mamba_stream.core.durability import Durability
from mamba_stream.errors import InvalidInput
from mamba_stream.log.rows import TopicRow

VERSION: Final = 1
"""Of this protocol; hello refuses a client whose version the server does not speak."""

LOG_HEADER: Final = "mamba-log"
"""The header of a call that is meant for one log, whose own identity it has; a server with another refuses it."""

LONGEST_WAIT: Final = 60.0
"""Seconds that a server lets a caller wait in one call."""

_T = TypeVar("_T")


class Nothing(msgspec.Struct):
    """The request of an action that takes no arguments; its body may be empty."""


class Hello(msgspec.Struct):
    """The first call of a client: what it speaks, and who it is in logs."""

    protocol: int
    client: str = ""


class Welcome(msgspec.Struct):
    """The answer to hello.

    ``boot`` names this life of the server: it remembers the answers to commits only within it. ``now`` is its
    clock, in microseconds since the epoch. ``log`` is the log's own identity, whatever address it is reached at.
    """

    protocol: int
    version: str
    boot: str
    log: str
    now: int
    lsn: int
    most_bytes: int
    """Of one commit's rows, or of one piece of them, as they come over the wire."""
    pieces: bool = False
    """Whether a commit may come in pieces."""
    beyond: bool = False
    """Whether what is asked for together may wait for a commit."""
    paced: bool = False
    """Whether it tells how many pieces of a commit it can take."""


class ListTopics(msgspec.Struct):
    """Which topics: those of the engine as well, or not."""

    internal: bool = False


class Named(msgspec.Struct):
    """A topic by its name."""

    name: str


class Numbered(msgspec.Struct):
    """A topic, or a schema, by its number."""

    number: int


class TopicInfo(msgspec.Struct):
    """A topic; ``columns`` is its schema as an Arrow IPC message."""

    topic: TopicRow
    columns: bytes


class AskHeads(msgspec.Struct):
    """The state of a topic's partitions: of these, or all."""

    topic: int
    partitions: list[int] | None = None


class HeadInfo(msgspec.Struct):
    """The state of a partition: what ``PartitionHead`` says of them."""

    topic: int
    begin: int
    end: int
    rows: int
    size: int
    append_time: int
    ended: bool


class NamedHead(msgspec.Struct):
    """The state of a partition, with its place."""

    name: str
    partition: int
    head: HeadInfo


class AskOffsetsAt(msgspec.Struct):
    """Where a topic's time (``by="time"``) or time of appending (``by="append"``) reaches these ticks."""

    topic: int
    ticks: int
    by: str


class Description(msgspec.Struct):
    """A ``TopicDescription``; values of the topic's own types travel as Arrow IPC streams of one row."""

    name: str
    partitions: dict[int, tuple[int, int]]
    key: tuple[str, ...]
    time: str | None
    compression: str
    ended: bool
    rows: int
    size: int
    batches: int
    last_append: float | None
    times: bytes | None
    disorder: dict[float, float]
    skew: tuple[float, bytes] | None
    sampled: int
    columns: bytes
    settings: TopicSettings = TopicSettings()
    schemas: list[tuple[int, bytes]] = []
    """Its schemas as IPC messages, each with when it came, the first one first."""
    parts: dict[int, tuple[int, int, int]] = {}
    """Of each partition rows, bytes and batches."""


class AskGroup(msgspec.Struct):
    """A group of consumers."""

    group: str


class GroupPlace(msgspec.Struct):
    """What a group reads next of a partition."""

    topic: str
    partition: int
    offset: int


class AskRecord(msgspec.Struct):
    """One record."""

    namespace: str
    key: str


class AskRecords(msgspec.Struct):
    """The records of a namespace, in the order of keys: those before a key, at most so many."""

    namespace: str
    before: str | None = None
    limit: int | None = None


class Prefix(msgspec.Struct):
    """How names begin."""

    prefix: str = ""


class AskWait(msgspec.Struct):
    """Until the log is past a commit, for at most so many seconds."""

    lsn: int
    timeout: float


class LockName(msgspec.Struct):
    """A lock: what kind of thing it locks, and its name."""

    space: str
    name: str


class TakeLock(LockName):
    """A lock that is to be taken: ``holder`` says in words by whom, for whoever finds it taken."""

    holder: str = ""


class Maintain(msgspec.Struct):
    """What the log needs is to be done; ``budget`` is about how many bytes may be written anew."""

    budget: int | None = None


class Scrub(msgspec.Struct):
    """How many bytes are to be looked at, about; to the end without."""

    most: int | None = None


class Rows(msgspec.Struct):
    """Rows for one topic, as an uncompressed Arrow IPC stream; without a partition they go where their key says."""

    topic: int
    data: memoryview
    partition: int | None = None
    expect: dict[int, int] = {}


class Commit(msgspec.Struct):
    """A change set and the rows that it appends, all or nothing.

    ``client`` and ``number`` name it, so that it can be sent again when its answer was lost; ``boot`` is then the
    life of the server that it was first sent to. The first time that is empty.
    """

    change: ChangeSet
    rows: list[Rows] = []
    client: str = ""
    number: int = 0
    boot: str = ""


class Part(msgspec.Struct):
    """One message of a commit that comes in pieces: rows, and in the end the change set, without any of its own.

    With ``continues`` the rows are more of those before, with whose first conditions on where partitions end came.
    """

    rows: Rows | None = None
    continues: bool = False
    commit: Commit | None = None


class Goodbye(msgspec.Struct):
    """The last call of a client: the names of producers that it gave itself, which nobody will use again."""

    client: str
    forgets: tuple[Forget, ...] = ()


class Read(msgspec.Struct):
    """A ticket: which rows of a topic are wanted.

    ``topic`` is its number, or ``name`` its name. ``start`` gives ``{partition: offset}``; without, partitions are
    read from their begin, all of them. ``ends`` stops before offsets; without, at the end there is when it is read.
    ``predicate`` is a predicate's own encoding. The stream ends after about ``most_bytes`` bytes or ``most_rows``
    rows; whoever wants more comes again. ``low`` and ``high`` are ticks of the time column, inclusive: batches
    with no row between them are left out. With ``progress`` a stream's last message of a partition says how far
    was looked, even if that gave no rows. With ``offsets`` each row's is told, where a predicate left some out.
    ``schema`` is the number of the topic's schema whose columns are meant, of which it has several if it was altered;
    without, that which it has now. With ``skip_corrupt`` what is damaged or lost is passed over and
    counted, and progress is told.
    """

    topic: int | None = None
    name: str | None = None
    start: dict[int, int] | None = None
    ends: dict[int, int] | None = None
    columns: list[str] | None = None
    predicate: bytes | None = None
    most_rows: int | None = None
    most_bytes: int | None = None
    low: int | None = None
    high: int | None = None
    progress: bool = False
    offsets: bool = False
    schema: int | None = None
    skip_corrupt: bool = False


class Run(msgspec.Struct, array_like=True):
    """Rows of a batch that were appended together: offsets from ``offset`` on, and where to read on behind them."""

    offset: int
    next_offset: int
    rows: int
    append_time: int


class Piece(msgspec.Struct, omit_defaults=True):
    """What lies beside a batch of a read: the partition, and the runs that its rows are made of, in order."""

    partition: int
    runs: list[Run]
    offsets: bytes = b""
    """That of each row, as 64-bit little-endian numbers, if they were asked for and a predicate left rows out."""
    skipped: tuple[int, int, int] | None = None
    """Batches, rows and offsets that were passed over before these rows, of any partition, and were not told yet."""


class RowsRead(msgspec.Struct):
    """The answer to ``rows``: batches as an Arrow IPC stream, and the pieces that lie beside them."""

    pieces: list[Piece]
    data: memoryview


class Write(msgspec.Struct):
    """The command of a DoPut: every batch is an append of its own, in order, acknowledged by an :class:`Ack`."""

    topic: str
    partition: int | None = None
    durability: Durability = "commit"


class WriteBatch(msgspec.Struct):
    """What may lie beside a batch of a DoPut: as the arguments of ``Topic.append``."""

    partition: int | None = None
    producer: str | None = None
    sequence: int | None = None
    expect: dict[int, int] = {}


class Failure(msgspec.Struct):
    """What lies beside every error: the name of our own error, and what to do about it."""

    code: str
    message: str
    retriable: bool = False
    retry_after_ms: int | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


class Asked(msgspec.Struct, array_like=True):
    """One of several actions that are asked for together: its name, and what its body would hold."""

    action: str
    request: msgspec.Raw


class Together(msgspec.Struct):
    """Several actions, done one after the other: once the log is past a commit, or so many seconds are over."""

    asks: list[Asked]
    beyond: int | None = None
    timeout: float = 0.0


class Told(msgspec.Struct, array_like=True):
    """What one of several actions came to: its result, or what was wrong."""

    answer: msgspec.Raw = msgspec.Raw(b"\xc0")
    failure: Failure | None = None


class Ack(msgspec.Struct, omit_defaults=True):
    """Batches are durable, in the order in which they were written: the offsets of each by partition.

    ``lsn`` is the commit that made them so. With a ``failure`` the next batch was not appended, and the stream ends.
    """

    lsn: int
    offsets: list[dict[int, tuple[int, int]]]
    failure: Failure | None = None


class Watch(msgspec.Struct):
    """The command of a DoExchange that gives the number of the last commit whenever there is a new one."""

    lsn: int


class Pieces(msgspec.Struct):
    """The command of a DoExchange that takes a commit in pieces, each a :class:`Part`.

    To who asks to be ``paced`` the server says how many messages with rows it may have sent by then, again and again.
    """

    paced: bool = False


class Calls(msgspec.Struct):
    """The command of a DoExchange over which calls are made: each an :class:`Asked`, answered by a :class:`Told`."""


class Exchange(msgspec.Struct):
    """The command of a DoExchange: one of these."""

    watch: Watch | None = None
    lock: TakeLock | None = None
    pieces: Pieces | None = None
    calls: Calls | None = None


def encode(message: object) -> bytes:
    """The message as msgpack."""
    return _encoder.encode(message)


def _plain(value: Any) -> Any:
    """What only behaves like a text or a number, as NumPy's do, as what it is."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, SupportsIndex):
        return value.__index__()
    raise TypeError(f"{type(value).__name__} does not travel")


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_plain)


def decode(data: Any, kind: type[_T]) -> _T:
    """The message in these bytes.

    Raises:
        InvalidInput: They hold something else.
    """
    try:
        return msgspec.msgpack.decode(memoryview(data), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidInput(f"not a {getattr(kind, '__name__', kind)} message: {error!s:.200}") from error
