"""The topics that a session shares with its group: found by name and pattern, joined as they come, fetched from."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from mamba_stream.core.clock import Clock
from mamba_stream.core.deadletters import DEAD
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, TopicNotFound
from mamba_stream.log import Log, Topic
from mamba_stream.messaging.books import LogBook, PrivateBook
from mamba_stream.messaging.courier import Courier
from mamba_stream.messaging.fitting import fits
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.latency import Latencies, merged
from mamba_stream.messaging.members import Member
from mamba_stream.messaging.message import Rule
from mamba_stream.messaging.shared import SharedGroup, begin_together
from mamba_stream.messaging.sweeping import sweep_deleted
from mamba_stream.messaging.terms import Counts, Terms

LOOK: Final = 0.2
"""Seconds between two looks at topics that may have come or gone."""
_REPORT: Final = 1.0
_logger = logging.getLogger("mamba_stream.messaging")


@dataclass(frozen=True)
class SharingStatistics:
    """What became of the messages that one subscriber, or one consumer that shares, got.

    Attributes:
        delivered: Messages handed out, each time they were.
        acknowledged: Messages that were done, and are written as such.
        retried: Deliveries that failed, or were given back.
        dead: Messages that went to the dead letters.
        expired: Messages taken from others whose leases had ended.
        stale: Acknowledgements that came too late: the messages were another's.
        trimmed: Messages that were gone before they could be delivered.
        inhand: Messages that are being handled now.
        paused: Topics whose group has so much open that it takes nothing new.
        latency: Seconds from the append to the acknowledgement: ``latency_sum``, ``latency_count``, ``p50``, ``p99``.
    """

    delivered: int
    acknowledged: int
    retried: int
    dead: int
    expired: int
    stale: int
    trimmed: int
    inhand: int
    paused: tuple[str, ...]
    latency: Mapping[str, float]


@dataclass(frozen=True)
class Policy:
    """How messages are shared, as users say it: for each topic it makes terms. Times in microseconds."""

    visibility: int
    attempts: int
    backoff: tuple[int, int]
    dead_letter: str | None
    ordered: bool

    @classmethod
    def of(
        cls,
        visibility: str | timedelta,
        attempts: int,
        backoff: tuple[str | timedelta, str | timedelta],
        dead_letter: str | None,
        ordered: bool,
    ) -> Policy:
        """The policy that these arguments of a subscriber or consumer say.

        Raises:
            InvalidInput: They cannot be right.
        """
        if not is_whole(attempts, 1):
            raise InvalidInput(f"attempts={attempts!r}: give a number from 1 on")
        return cls(
            duration_us(visibility, what="visibility", zero=False),
            int(attempts),
            _backoff(backoff),
            None if dead_letter is None else check_name(dead_letter),
            ordered,
        )

    def terms(self, topic: Topic, rule: Rule | None) -> Terms:
        """The terms for a topic."""
        return Terms(
            dead_letter=self.dead_letter or f"{topic.name}.dead",
            visibility=self.visibility,
            attempts=self.attempts,
            backoff=self.backoff,
            ordered=self.ordered,
            rule=rule,
        )


class Sharing:
    """One session's part of a group, over all its topics.

    Args:
        log: The log.
        clock: The clock.
        interest: The topics.
        group: The group; ``None``: the session is alone, and keeps its books in memory.
        start: Where the group begins in topics that are there now: ``"earliest"``, ``"latest"`` or a time. In those
            that come later it begins at the beginning.
    """

    def __init__(
        self, log: Log, clock: Clock, interest: Interest, group: str | None, start: str | datetime | date
    ) -> None:
        self._log = log
        self._clock = clock
        self._interest = interest
        self._group = group
        self._book = PrivateBook(log) if group is None else LogBook(log)
        self._start = start
        self._groups: dict[str, SharedGroup] = {}
        self._gone: list[SharedGroup] = []
        self._left_out: set[int] = set()
        """Numbers of topics whose rows the rule cannot judge."""
        self._seen = -1
        self._paused: set[str] = set()
        self._next_look = self._next_report = 0.0
        self.begins: dict[int, dict[int, int]] = {}
        """Where the group begins in topics that were there at first, by the number of the topic."""
        for topic in self._topics():
            with suppress(TopicNotFound):
                self.begins[topic.number] = self._begin_of(topic)

    @property
    def groups(self) -> Mapping[str, SharedGroup]:
        """What is shared now, by topic."""
        return dict(self._groups)

    def join(
        self, member: Member, courier: Courier, terms: Callable[[Topic], Terms], rule: Rule | None
    ) -> None:
        """Begins to take part: from now on the courier gets messages of these topics.

        Args:
            member: Who we are.
            courier: Who hands the messages out.
            terms: How a topic is shared.
            rule: What must be able to judge the rows of the topics.

        Raises:
            ColumnNotFound: It looks at a column that a topic does not have which is named; also when that comes later.
            InvalidInput: A condition is of the wrong type for its column; the same.
        """
        self._member, self._courier, self._terms, self._rule = member, courier, terms, rule
        self._left_out.clear()
        self._groups.clear()
        self._gone.clear()
        self._seen = -1
        self._next_look = self._next_report = 0.0
        if self._group is not None:
            sweep_deleted(self._log, self._group, self._clock.now())
        self.look()

    def look(self) -> None:
        """Finds topics that came and went, where it is time to look."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        lsn = self._log.heard()
        if lsn != self._seen:
            for name, known in list(self._groups.items()):
                if known.gone or known.deleted():
                    # Another of its name is another topic.
                    del self._groups[name]
                    self._gone.append(known)
                    self._courier.remove(known)
            self._share(self._topics())
            self._seen = lsn
        self._say_what_pauses()
        if now >= self._next_report:
            self._next_report = now + _REPORT
            counts = self._counts()
            latencies = merged(each.latencies for each in counts)
            received, done = sum(c.delivered for c in counts), sum(c.acknowledged for c in counts)
            counters = {"received": received, "acknowledged": done, **latencies.counters()}
            by_topic: defaultdict[str, Latencies] = defaultdict(Latencies)
            for group, each in zip(self._all(), counts, strict=True):
                by_topic[group.topic.name].merge(each.latencies)
            self._member.report(counters, by_topic)

    def idle(self) -> bool:
        """Whether everything is done: nothing is new, leased, or waits."""
        return all(group.idle() for group in self._groups.values())

    def pause(self) -> float:
        """Seconds until there may be something to take, or it is time to look around, whichever is first."""
        due = [due for group in self._groups.values() if (due := group.next_change()) is not None]
        soon = (min(due) - self._clock.now()) / 1e6 if due else LOOK
        return max(0.001, min(soon, LOOK))

    def statistics(self) -> SharingStatistics:
        """What became of the messages since it joined."""
        counts = self._counts()
        return SharingStatistics(
            delivered=sum(c.delivered for c in counts),
            acknowledged=sum(c.acknowledged for c in counts),
            retried=sum(c.retried for c in counts),
            dead=sum(c.dead for c in counts),
            expired=sum(c.expired for c in counts),
            stale=sum(c.stale for c in counts),
            trimmed=sum(c.trimmed for c in counts),
            inhand=self._courier.inhand if self._groups else 0,
            paused=tuple(name for name, group in self.groups.items() if group.full),
            latency=merged(each.latencies for each in counts).counters(),
        )

    def _counts(self) -> list[Counts]:
        return [group.counted() for group in self._all()]

    def _all(self) -> list[SharedGroup]:
        # Any thread may ask, while topics come and go.
        return [*self.groups.values(), *self._gone]

    def _say_what_pauses(self) -> None:
        full = {name for name, group in self._groups.items() if group.full}
        for name in sorted(full - self._paused):
            _logger.warning(
                "group %r has as many leases, retries and delayed messages open in topic %r as it may: it takes "
                "nothing new until some are done; 'mamba-stream group pending' lists them",
                self._group,
                name,
            )
        self._paused = full

    def _share(self, topics: list[Topic]) -> None:
        """Takes part in these from now on."""
        groups: list[tuple[SharedGroup, Mapping[int, int]]] = []
        for topic in topics:
            if topic.number in self._left_out:
                continue
            if not fits(self._rule, topic, self._interest):
                self._left_out.add(topic.number)
                continue
            with suppress(TopicNotFound):
                earliest = {p: begin for p, (begin, _) in topic.offsets().items()}
                groups.append((self._group_of(topic), self.begins.get(topic.number, earliest)))
        begin_together(self._book, groups)
        for group, _ in groups:
            self._groups[group.topic.name] = group
            self._courier.add(group)

    def _group_of(self, topic: Topic) -> SharedGroup:
        return SharedGroup(
            self._log,
            topic,
            self._group or f"subscriber-{self._member.id}",
            session=self._member.session,
            terms=self._terms(topic),
            book=self._book,
            clock=self._clock,
            chance=_chance,
        )

    def _topics(self) -> list[Topic]:
        """Those that are there and not shared yet."""
        names = self._log.topics() if self._interest.open else self._interest.named
        found = []
        for name in names:
            if name not in self._groups and self._interest.wants(name) and name in self._log:
                with suppress(TopicNotFound):
                    topic = self._log[name]
                    # A pattern does not mean the dead letters of what it names.
                    if name in self._interest.named or DEAD not in topic.schema.names:
                        found.append(topic)
        return found

    def _begin_of(self, topic: Topic) -> dict[int, int]:
        if isinstance(self._start, datetime | date):
            return topic.offset_at(self._start, by="time" if topic.time else "append")
        return {p: begin if self._start == "earliest" else end for p, (begin, end) in topic.offsets().items()}


def _backoff(given: Any) -> tuple[int, int]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InvalidInput(f"backoff={given!r}: give the first and the longest wait, such as ('1s', '5m')")
    first, longest = (duration_us(each, what="backoff") for each in given)
    if first > longest:
        raise InvalidInput(f"backoff={given!r}: the first wait is longer than the longest")
    return first, longest


def _chance() -> float:
    return int.from_bytes(os.urandom(4)) / (1 << 32)
