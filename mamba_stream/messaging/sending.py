"""Parcels into the log: one change set for all that is ready, once however often it is tried. No threads.

Rows that a bounded topic has no room for stay in their parcel, or are refused; a change set that is refused because
of one topic is tried again without its neighbours.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mamba_stream.errors import (
    CommitUnknown,
    MambaStreamError,
    NotCommitted,
    PreconditionFailed,
    QueueFull,
    SequenceGap,
    TopicNotFound,
)
from mamba_stream.log import Log, Topic, Transaction
from mamba_stream.messaging import bounds
from mamba_stream.messaging.parcel import Lane, Parcel, Piece
from mamba_stream.messaging.priorities import note_priorities

_TRIES_UNKNOWN: Final = 5
_TRIES: Final = 1_000
"""Each time another process made progress instead."""
_FORGOTTEN_AT_ONCE: Final = 64
"""Topics; each may have more than a hundred rows of numbers, and others wait meanwhile."""


@dataclass(slots=True)
class Bundle:
    """Parcels that are ready, at most one for a topic.

    Attributes:
        parcels: The parcels.
        together: All of it commits, or nothing does.
        offsets: (group, offsets) that commit with it.
        sequence: A producer and a number under which it commits once, whoever tries it again.
        error: Why it was not committed, where it goes together.
        done: Whether it is over, where it goes together.
    """

    parcels: list[Parcel]
    together: bool = False
    offsets: list[tuple[str, Mapping[tuple[str, int], int]]] = field(default_factory=list)
    sequence: tuple[str, int] | None = None
    error: BaseException | None = None
    done: bool = False


@dataclass(slots=True)
class Cut:
    """Rows of a parcel that go into one change set."""

    parcel: Parcel
    start: int
    stop: int
    admission: bounds.Admission | None = None


Settle = Callable[[Parcel, Piece], None]


class Sender:
    """Commits bundles; belongs to one thread.

    Args:
        log: The log.
        idempotent: Whether what is tried again lands once.
        settle: Told what became of rows.
    """

    def __init__(self, log: Log, *, idempotent: bool, settle: Settle) -> None:
        self._log = log
        self._idempotent = idempotent
        self._settle = settle
        self.commits = 0
        self._used: dict[tuple[str, int], str] = {}
        """Names that have numbers in a topic, and the topic's name."""
        self._begin()

    def send(self, bundle: Bundle) -> Bundle | None:
        """Commits what can be; gives back what must wait until a topic has room."""
        if bundle.together:
            return self._send_together(bundle)
        ready = []
        for parcel in bundle.parcels:
            try:
                parcel.build()
            except MambaStreamError as error:
                self._fail(parcel, error)
            else:
                ready.append(parcel)
        waiting: list[Parcel] = []
        for _ in range(_TRIES):
            cuts = self._cuts(ready, waiting)
            if cuts:
                self._commit_apart(cuts)
            ready = [p for p in ready if p.settled < p.count and not any(p is other for other in waiting)]
            if not ready:
                break
        for parcel in ready:
            self._fail(
                parcel, PreconditionFailed(f"topic {parcel.lane.name!r}: others were faster, again and again")
            )
        return Bundle(waiting) if waiting else None

    def fail(self, bundle: Bundle, error: BaseException) -> None:
        """Gives up what is left of a bundle."""
        for parcel in bundle.parcels:
            if parcel.settled < parcel.count:
                self._fail(parcel, error)
        bundle.error, bundle.done = error, True

    def _send_together(self, bundle: Bundle) -> Bundle | None:
        error: MambaStreamError | None = None
        for _ in range(_TRIES):
            try:
                cuts = []
                for parcel in bundle.parcels:
                    parcel.build()
                    cut = self._cut(parcel, whole=True)
                    if cut is None:
                        return bundle
                    cuts.append(cut)
                self._commit(cuts, bundle)
            except PreconditionFailed as raised:
                error = raised
                continue
            except MambaStreamError as raised:
                self.fail(bundle, raised)
                return None
            bundle.done = True
            return None
        assert error is not None
        self.fail(bundle, error)
        return None

    def _cuts(self, ready: list[Parcel], waiting: list[Parcel]) -> list[Cut]:
        """What of these parcels there is room for; the others wait, or fail."""
        cuts = []
        for parcel in ready:
            try:
                cut = self._cut(parcel, whole=False)
            except MambaStreamError as error:
                self._fail(parcel, error)
                continue
            if cut is None:
                waiting.append(parcel)
            else:
                cuts.append(cut)
        return cuts

    def _cut(self, parcel: Parcel, *, whole: bool) -> Cut | None:
        """The rows that come next; ``None`` where they have to wait."""
        topic = parcel.lane.topic
        start, rows = parcel.settled, parcel.count - parcel.settled
        limit = None if parcel.lane.unbounded else bounds.read(self._log, topic)
        if limit is None:
            parcel.lane.unbounded = True
            return Cut(parcel, start, parcel.count)
        size = max(1, parcel.size * rows // parcel.count)
        admission = bounds.admit(self._log, topic, limit, rows, size, whole=whole)
        if admission.rows:
            return Cut(parcel, start, start + admission.rows, admission)
        if limit.when_full == "reject":
            raise bounds.full(topic, limit, rows)
        return None

    def _commit_apart(self, cuts: list[Cut]) -> None:
        """Commits all of these, or else each by itself, or else says why not."""
        try:
            self._commit(cuts)
        except PreconditionFailed:
            # What was read is no longer so: looked at again.
            return
        except MambaStreamError as error:
            if len(cuts) == 1 or isinstance(error, CommitUnknown):
                for cut in cuts:
                    self._fail(cut.parcel, error)
            else:
                for cut in cuts:
                    self._commit_apart([cut])

    def _commit(self, cuts: list[Cut], bundle: Bundle | None = None) -> None:
        """One change set, which lands once however often it is tried."""
        given = None if bundle is None else bundle.sequence
        try:
            transaction = self._landed(cuts, bundle, given)
        except PreconditionFailed:
            # One of them may have got a bound.
            for cut in cuts:
                cut.parcel.lane.unbounded = False
            raise
        self.commits += 1
        for cut in cuts:
            lane = cut.parcel.lane
            if given is None:
                self._numbers[lane.topic.number] = self._number(lane) + 1
            ranges = {p: both for (name, p), both in transaction.offsets.items() if name == lane.name}
            partitions = cut.parcel.partitions
            if not isinstance(partitions, int):
                partitions = partitions[cut.start : cut.stop]
            piece = Piece(cut.start, cut.stop, {p: first for p, (first, _) in ranges.items()}, partitions)
            if given is not None and piece.counts() != {p: end - first for p, (first, end) in ranges.items()}:
                # It landed in an earlier life of the program, which routed otherwise.
                piece.landed = ranges
            self._settle(cut.parcel, piece)

    def _landed(self, cuts: list[Cut], bundle: Bundle | None, given: tuple[str, int] | None) -> Transaction:
        """The transaction once it is committed; tried again where nobody knows."""
        left = _TRIES_UNKNOWN if self._idempotent or given else 1
        perhaps = False
        while True:
            left -= 1
            try:
                return self._try(cuts, bundle, given)
            except CommitUnknown:
                perhaps = True
                if not left:
                    # Whether its numbers were used is not known: nobody may use them for something else.
                    self._begin()
                    raise
            except SequenceGap:
                if given is None:
                    self._begin()
                raise
            except NotCommitted:
                # Numbers are looked at first: this says that an earlier try had not happened either.
                raise
            except MambaStreamError as error:
                if not perhaps:
                    raise
                self._begin()
                raise CommitUnknown(
                    f"it may or may not have been sent, and could not be tried again: {error}"
                ) from error

    def _try(self, cuts: list[Cut], bundle: Bundle | None, given: tuple[str, int] | None) -> Transaction:
        transaction = self._log.transaction()
        for cut in cuts:
            self._append(transaction, cut, given)
        for group, offsets in () if bundle is None else bundle.offsets:
            transaction.commit_offsets(group, offsets)
        try:
            transaction.commit()
        except TopicNotFound:
            for cut in cuts:
                self._check_current(cut.parcel.lane)
            raise
        return transaction

    def _append(self, transaction: Transaction, cut: Cut, given: tuple[str, int] | None) -> None:
        parcel = cut.parcel
        lane = parcel.lane
        topic = lane.topic
        once: dict[str, Any] = {}
        if given is not None:
            once = {"producer": given[0], "sequence": given[1]}
        elif self._idempotent:
            once = {"producer": self._identity, "sequence": self._number(lane)}
            self._used[self._identity, topic.number] = lane.name
        if lane.messages:
            self._note_priorities(transaction, topic, cut)
        if cut.admission is None:
            bounds.require_none(transaction, topic)
        else:
            bounds.into(transaction, topic, cut.admission)
        for partition, rows in parcel.split(cut.start, cut.stop):
            # One number stands for all that a change set appends to a topic.
            transaction.append(topic, rows, partition=partition, **once)
            once = {}

    def _check_current(self, lane: Lane) -> None:
        """Says what became of a topic that is not there any more."""
        if self._log[lane.name].number != lane.topic.number:
            raise TopicNotFound(
                f"topic {lane.name!r} was deleted, and another has its name now; nothing was sent to it"
            )

    def _note_priorities(self, transaction: Transaction, topic: Topic, cut: Cut) -> None:
        """Notes where messages of a priority begin, before the first one comes: nobody looks for them earlier."""
        assert cut.parcel.batch is not None
        column = cut.parcel.batch.column("priority").slice(cut.start, cut.stop - cut.start)
        known = cut.parcel.lane.known
        # Known only once it is committed: until then it is read again.
        known.update(note_priorities(self._log, transaction, topic, column, known))

    def _fail(self, parcel: Parcel, error: BaseException) -> None:
        rows = parcel.count - parcel.settled
        if not isinstance(error, QueueFull):
            error.add_note(f"{rows} message{'s' if rows > 1 else ''} to topic {parcel.lane.name!r} not sent")
        self._settle(parcel, Piece(parcel.settled, parcel.count, error=error))

    def forget(self) -> None:
        """Nothing is sent any more: the numbers that kept it from landing twice need not stay in the log.

        Where that cannot be, they stay; nobody has those names again.
        """
        used, self._used = list(self._used.items()), {}
        with contextlib.suppress(MambaStreamError):
            for first in range(0, len(used), _FORGOTTEN_AT_ONCE):
                with self._log.transaction() as transaction:
                    for (identity, number), name in used[first : first + _FORGOTTEN_AT_ONCE]:
                        if name in self._log and self._log[name].number == number:
                            transaction.forget_producer(name, identity)

    def _begin(self) -> None:
        """Takes a name that nobody had: not even an earlier life of this program, whose numbers are used."""
        self._identity = f"sender-{os.urandom(8).hex()}"
        self._numbers: dict[int, int] = {}

    def _number(self, lane: Lane) -> int:
        return self._numbers.get(lane.topic.number, 0)
