"""A transaction: any number of appends, offsets and records that become visible together, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mamba_stream.core.changes import (
    MAX_RECORD_BYTES,
    Applied,
    ChangeSet,
    Forget,
    GroupOffset,
    Record,
    Sequence as ProducerSequence,
    Trim,
)
from mamba_stream.core.durability import Durability, check_durability
from mamba_stream.core.names import check_name
from mamba_stream.errors import InvalidInput, MambaStreamError, TopicNotFound
from mamba_stream.log.asked import offset_of, offsets_of, partition_of, text_of
from mamba_stream.log.topic import Topic, producer_sequences

if TYPE_CHECKING:
    from mamba_stream.log.log import Log


class Transaction:
    """Collects changes and commits them in one change set.

    As a context manager it commits at the end of the block, and an exception aborts it. Rows are encoded
    when they are appended, and written when the transaction commits.

    Attributes:
        lsn: The number of the commit, once it happened.
        offsets: ``{(topic, partition): (first, next)}`` of the appended rows, once it happened.
    """

    def __init__(self, log: Log, durability: Durability | None = None) -> None:
        self._log = log
        self._durability = log.durability if durability is None else check_durability(durability)
        self._topic = log.__getitem__
        self._batches: list[Any] = []
        self._sequences: list[ProducerSequence] = []
        self._offsets: list[GroupOffset] = []
        self._records: dict[tuple[str, str], Record] = {}
        self._requires: list[Record] = []
        self._trims: list[Trim] = []
        self._forgets: list[Forget] = []
        self._names: dict[int, str] = {}
        self._done = False
        self.lsn: int | None = None
        self.offsets: dict[tuple[str, int], tuple[int, int]] = {}

    def append(
        self,
        topic: str | Topic,
        data: Any,
        *,
        partition: int | None = None,
        producer: str | None = None,
        sequence: int | None = None,
        expect: Mapping[int, int] | None = None,
    ) -> None:
        """Appends rows to a topic when the transaction commits; arguments as for ``Topic.append``.

        A topic is named, or passed as ``log["name"]`` gave it, which saves looking it up.
        """
        self._check_open()
        into = topic if isinstance(topic, Topic) else self._topic(topic)
        if into.log is not self._log:
            raise InvalidInput(f"topic {into.name!r} was opened from another handle: name it")
        sequences = producer_sequences(into._row.id, producer, sequence)
        if any((s.topic, s.producer) == (into._row.id, producer) for s in self._sequences if sequences):
            raise InvalidInput(
                f"topic {into.name!r}, producer {producer!r}: a transaction takes one sequence of a producer "
                "for each topic: append all its rows at once"
            )
        batches = into._intake.batches(data, partition, expect)
        self._names[into._row.id] = into.name
        self._sequences.extend(sequences)
        self._batches.extend(batches)

    def commit_offsets(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Sets the next offset that a group reads, by (topic, partition)."""
        self._check_open()
        check_name(group, "group")
        if not _are_places(offsets):
            raise InvalidInput(f"group {group!r}: give {{(topic, partition): offset}}, not {offsets!r:.80}")
        found = []
        for (name, number), value in offsets.items():
            row = self._topic(name)._row
            partition = partition_of(row, number)
            found.append(GroupOffset(group, row.id, partition, offset_of(row, partition, value)))
            self._names[row.id] = name
        self._offsets += found

    def delete_offsets(self, group: str, places: Iterable[tuple[str, int]]) -> None:
        """Forgets what the group reads next of these, each a (topic, partition)."""
        self._check_open()
        check_name(group, "group")
        found = []
        for name, number in places:
            row = self._topic(name)._row
            found.append(GroupOffset(group, row.id, partition_of(row, number), None))
            self._names[row.id] = name
        self._offsets += found

    def put_record(self, namespace: str, key: str, value: bytes) -> None:
        """Stores a small value (at most 2 KB) under (namespace, key)."""
        self._check_open()
        if not _fits(value):
            raise InvalidInput(
                f"the record {namespace}/{key} must be bytes, at most {MAX_RECORD_BYTES} of them: put the data "
                "into a topic and a pointer to it into the record"
            )
        record = Record(text_of(namespace), text_of(key), value)
        self._records[namespace, key] = record

    def delete_record(self, namespace: str, key: str) -> None:
        """Deletes the value under (namespace, key), if there is one."""
        self._check_open()
        record = Record(text_of(namespace), text_of(key), None)
        self._records[namespace, key] = record

    def require_record(self, namespace: str, key: str, value: bytes | None) -> None:
        """Commits only if the record has exactly this value then (``None``: does not exist)."""
        self._check_open()
        if value is not None and not isinstance(value, bytes):
            raise InvalidInput(
                f"the record {namespace}/{key} is bytes, or None where there is none, not {value!r}"
            )
        self._requires.append(Record(text_of(namespace), text_of(key), value))

    def trim(self, topic: str, before: Mapping[int, int]) -> None:
        """Removes the rows before ``{partition: offset}``."""
        self._check_open()
        row = self._topic(topic)._row
        bounds = offsets_of(row, "before", before)
        self._names[row.id] = row.name
        self._trims += [Trim(row.id, partition, offset) for partition, offset in bounds.items()]

    def forget_producer(self, topic: str, producer: str) -> None:
        """Forgets the sequences of a producer that appends nothing to the topic any more, and the room they take."""
        self._check_open()
        row = self._topic(topic)._row
        (known,) = producer_sequences(row.id, producer, 0)
        self._forgets.append(Forget(known.topic, known.producer))

    def commit(self) -> None:
        """Makes everything visible, as durably as the transaction was begun.

        Raises:
            PreconditionFailed: A required record or an expected end is not so; nothing was changed.
            NotCommitted: Nothing was changed.
            CommitUnknown: It may or may not have happened.
        """
        try:
            answer = self._log._store.commit(*self._taken())
        except TopicNotFound as error:
            raise self._not_found() from error
        self._settle(answer)

    def _taken(self) -> tuple[ChangeSet, list[Any]]:
        """What is to be committed, once."""
        self._check_open()
        self._done = True
        change = ChangeSet(
            sequences=tuple(self._sequences),
            trims=tuple(self._trims),
            offsets=tuple(self._offsets),
            records=tuple(self._records.values()),
            requires=tuple(self._requires),
            forgets=tuple(self._forgets),
            durability=self._durability,
        )
        return change, self._batches

    def _not_found(self) -> TopicNotFound:
        there = {row.id for row in self._log._store.topics()}
        gone = ", ".join(repr(name) for number, name in self._names.items() if number not in there)
        return TopicNotFound(f"topic {gone} was deleted; nothing was committed")

    def _settle(self, answer: Applied) -> None:
        self._batches = []
        self.lsn = answer.lsn
        for topic, partition, first, following in answer.ranges:
            place = (self._names[topic], partition)
            known = self.offsets.get(place)
            self.offsets[place] = (first if known is None else known[0], following)

    def abort(self) -> None:
        """Forgets everything; nothing was written."""
        self._done = True
        self._batches = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._done:
            return
        if error is None:
            self.commit()
        else:
            self.abort()

    def _check_open(self) -> None:
        if self._done:
            raise MambaStreamError("this transaction is over: begin another with log.transaction()")


def commit_together(log: Log, transactions: Sequence[Transaction]) -> list[BaseException | None]:
    """Commits several transactions, each by itself: one that is refused does not disturb the others.

    In a directory that costs about what one costs.

    Args:
        log: Their log.
        transactions: The transactions, which are over behind this.

    Returns:
        For each, what :meth:`Transaction.commit` would raise; ``None`` where it is committed.

    Raises:
        MambaStreamError: Nothing was committed, for a reason that holds for all.
    """
    outcomes = log._store.commit_together([transaction._taken() for transaction in transactions])
    found: list[BaseException | None] = []
    for transaction, outcome in zip(transactions, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            found.append(transaction._not_found() if isinstance(outcome, TopicNotFound) else outcome)
        else:
            transaction._settle(outcome)
            found.append(None)
    return found


def _are_places(offsets: object) -> bool:
    if not isinstance(offsets, Mapping):
        return False
    return all(isinstance(place, tuple) and len(place) == 2 for place in offsets)


def _fits(value: object) -> bool:
    return isinstance(value, bytes) and len(value) <= MAX_RECORD_BYTES
