"""Consumer: Kafka's shape. It reads topics in order, partition by partition, alone or as one of a group."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, MambaStreamError, PartitionNotFound
from mamba_stream.log import Log
from mamba_stream.log.opening import Place, locate
from mamba_stream.messaging.books import LogBook
from mamba_stream.messaging.feed import FeedStatistics, Partition, Pulse, Run, Settings, Start
from mamba_stream.messaging.fitting import check_named
from mamba_stream.messaging.interest import Interest, interest_in
from mamba_stream.messaging.members import BALANCED, Member
from mamba_stream.messaging.membership import LogTopics, Membership, check_group
from mamba_stream.messaging.message import Message, Rule
from mamba_stream.messaging.partitionfeed import PartitionFeed
from mamba_stream.messaging.sharedfeed import SharedFeed
from mamba_stream.messaging.sharing import Policy, Sharing, SharingStatistics

_AGES: Final = float("inf")
_FORGOTTEN: Final = 5.0
"""Seconds that a consumer which was forgotten keeps whoever collects it."""
_OVER: Final = (
    "this loop over consume() is over, as consume() or poll() was called within it: its message was delivered again "
    "there. Read with one loop at a time, or use another consumer"
)


class Consumer:
    """Receives the messages of topics, in the order of each partition.

    With a group, every partition goes to one of the group's consumers, in whichever processes they run, and the group
    remembers how far it has read: what was acknowledged is committed at most once a second, and whenever partitions
    change hands; of bounded topics, whose senders may wait for that, also whenever there is nothing more to read. A
    consumer that dies, or is silent for ``session_timeout``, loses its partitions to the others; what it had not
    committed is delivered again there, and it cannot commit it any more. Without a group a consumer is alone, reads
    everything, and remembers nothing.

    Messages come in the order of their offsets: delays and priorities are for shared consumption.

    A consumer belongs to one thread; its messages may be acknowledged from any.

    Args:
        place: Where the log is: a directory, an open log, or nothing for the default.
        group: The group that it is one of.
        start: Where a group that has read nothing yet begins, or a consumer without group: ``"earliest"``, ``"latest"``
            or a time. Topics that come later are read from their beginning.
        commit: How often acknowledged messages are committed; ``None``: only by :meth:`commit` and in transactions.
        session_timeout: A consumer whose process is silent for so long is taken for dead.
        max_poll_interval: One that does not ask for another message for so long is taken for stuck.
        max_rows: How many rows are read at once, roughly.
        shared: Share the messages with the group one by one, as subscribers do, instead of dividing the partitions:
            each message is leased, and acknowledged, retried or rejected by itself. The arguments that follow are
            those of a :class:`Subscriber`.
        visibility: How long a message may be in hand.
        attempts: After so many deliveries a message goes to the dead letters.
        backoff: How long the first retry waits, and the longest.
        dead_letter: The topic of the dead letters.
        ordered: Keep messages of a key in order.
        name: What to call it in statistics.
        clock: Tells the time; for tests.

    Example:
        >>> import mamba_stream as mamba, polars as pl, tempfile
        >>> log = mamba.open(tempfile.mkdtemp())
        >>> numbers = log.create_topic("numbers", {"n": pl.Int64})
        >>> _ = numbers.append([{"n": 1}, {"n": 2}])
        >>> with mamba.Consumer(log) as consumer:
        ...     consumer.subscribe("numbers")
        ...     [message.value for message in consumer.consume(until="empty")]
        [{'n': 1}, {'n': 2}]
        >>> log.close()
    """

    def __init__(
        self,
        place: Place = None,
        *,
        group: str | None = None,
        start: Start = "earliest",
        commit: str | timedelta | None = "1s",
        session_timeout: str | timedelta = "10s",
        max_poll_interval: str | timedelta = "5m",
        max_rows: int = 8192,
        shared: bool = False,
        visibility: str | timedelta = "30s",
        attempts: int = 5,
        backoff: tuple[str | timedelta, str | timedelta] = ("1s", "5m"),
        dead_letter: str | None = None,
        ordered: bool = True,
        name: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._group = "" if group is None else check_group(group)
        if start not in ("earliest", "latest") and not isinstance(start, datetime | date):
            raise InvalidInput(f"start={start!r}: choose 'earliest', 'latest' or a datetime; or use seek()")
        if not is_whole(max_rows, 1):
            raise InvalidInput(f"max_rows={max_rows!r}: give a number from 1 on")
        every = None if commit is None else duration_us(commit, what="commit") / 1e6
        self._settings = Settings(start=start, commit=every, max_rows=int(max_rows))
        duration_us(max_poll_interval, what="max_poll_interval", zero=False)
        duration_us(session_timeout, what="session_timeout", zero=False)
        self._session_timeout = session_timeout
        self._max_poll_interval = max_poll_interval
        self._policy = Policy.of(visibility, attempts, backoff, dead_letter, ordered) if shared else None
        self._name = name
        self._rule: Rule | None = None
        self._polled: list[tuple[Run, int]] = []
        self._loops = 0
        self._feed: PartitionFeed | SharedFeed | None = None
        self._closed = False
        self._seen = -1
        self._log = locate(place)
        self._clock = clock or self._log.clock
        self._own_log = not isinstance(place, Log)
        self._finalizer: weakref.finalize[..., Any] | None = None

    def __repr__(self) -> str:
        group = f", group={self._group!r}" if self._group else ""
        return f"Consumer({self._log.place!r}{group})"

    def subscribe(self, topics: Any) -> None:
        """Reads these topics, instead of what it read before.

        A topic that does not exist is read once it does.

        Args:
            topics: A name; a glob (``"orders.*"``) or compiled regular expression that whole names must match, for
                topics that come later too; or a list of names and globs.

        Raises:
            ColumnNotFound: The filter rule looks at a column that one of the named topics does not have.
            InvalidInput: The topics cannot be right, or the rule cannot judge the rows of one that is named.
        """
        interest = interest_in(topics)
        reads = "shared" if self._policy is not None else BALANCED
        self._read(interest, reads if self._group else "alone", None)

    def assign(self, partitions: Mapping[str, Collection[int]]) -> None:
        """Reads these partitions, ``{topic: [partition, ...]}``, instead of what it read before.

        In a group they are taken as soon as no other consumer has them.
        """
        if self._policy is not None:
            raise InvalidInput(
                "a consumer that shares its messages is not assigned partitions: subscribe(topic)"
            )
        given: Any = partitions
        if not isinstance(given, Mapping) or not given:
            raise InvalidInput(f"assign({partitions!r:.80}): give {{topic: [partition, ...]}}")
        pinned = set()
        for name, numbers in partitions.items():
            check_name(name, "topic")
            for number in numbers:
                if not is_whole(number):
                    raise InvalidInput(f"topic {name!r}: a partition is a number from 0 on, not {number!r}")
                pinned.add((name, int(number)))
            if name in self._there() and (most := max(numbers, default=0)) >= self._log[name].partitions:
                raise PartitionNotFound(
                    f"topic {name!r} has no partition {most}: it has {self._log[name].partitions}, counted from 0"
                )
        self._read(interest_in(list(partitions)), "assigned", pinned)

    def consume(
        self,
        *,
        max_messages: int | None = None,
        timeout: str | timedelta | None = None,
        until: str | None = None,
    ) -> Iterator[Message]:
        """Messages, one after the other, for ever unless told otherwise.

        Asking for the next message acknowledges the one before. Leaving the loop, by ``break`` or an exception, does
        not: that one is delivered again, by the next ``consume()`` or, after the process ended, to whoever reads on.
        There is one loop at a time: where ``consume()`` or ``poll()`` is called within it, it ends with
        ``InvalidInput``.

        Args:
            max_messages: End after so many.
            timeout: End when none came for so long.
            until: ``"empty"``: end when everything that is there now has been read.
        """
        most = at_most(max_messages, "max_messages")
        wait = _AGES if timeout is None else duration_us(timeout, what="timeout") / 1e6
        if until not in (None, "empty"):
            raise InvalidInput(f"until={until!r}: choose 'empty', or leave it out to go on for ever")
        self._fed()
        return self._consume(most, wait, until == "empty")

    def poll(self, timeout: str | timedelta = "0s", *, max_messages: int = 500) -> list[Message]:
        """The next messages, as many as there are; waits at most ``timeout`` for the first.

        Asking again acknowledges those of the last time, but for those that were given back by ``nack()``.

        Args:
            timeout: How long to wait.
            max_messages: At most so many.
        """
        most = at_most(max_messages, "max_messages")
        wait = duration_us(timeout, what="timeout") / 1e6
        feed = self._begin()
        deadline = self._clock.monotonic() + wait
        while True:
            if self._clock.monotonic() >= feed.due:
                feed.tick()
            messages: list[Message] = []
            polled: list[tuple[Run, int]] = []
            try:
                while len(messages) < most and (run := feed.take()) is not None:
                    messages += run.messages(most - len(messages))
                    polled.append((run, run.handed))
            except MambaStreamError:
                # What came before it is not withheld: the next poll meets the error again.
                if not messages:
                    raise
            if messages or not self._wait(deadline):
                # Only what the caller gets can be done when it asks again.
                self._polled = polled
                return messages

    def commit(self, messages: Message | Iterable[Message] | None = None) -> None:
        """Commits what was acknowledged, now.

        Args:
            messages: To be acknowledged before.

        Raises:
            StaleLease: Some partitions belong to another consumer now; what was done in the others is committed.
            InvalidInput: There is no group whose offsets they would be.
        """
        if not self._group:
            raise InvalidInput(
                "commit() needs a group, whose offsets are committed: mamba.Consumer(..., group=)"
            )
        if messages is not None:
            for message in [messages] if isinstance(messages, Message) else messages:
                message.ack()
        self._fed().commit()

    def seek(self, to: Mapping[Partition, int | Start] | Start) -> None:
        """Goes on from elsewhere, back or forth; in a group this is committed as reading is.

        Args:
            to: ``{(topic, partition): offset}``, or instead of an offset ``"earliest"``, ``"latest"`` or a time; or one
                of these for all partitions that it reads. Times go by the topic's time, or when it was appended.
        """
        # Not by what it knew a moment ago: a topic may be gone.
        self._partitions().look_soon()
        feed = self._looked()
        wanted = to if isinstance(to, Mapping) else dict.fromkeys(feed.lanes, to)
        targets = []
        for place, start in wanted.items():
            lane = feed.find(place)
            if not isinstance(start, str | datetime | date) and not is_whole(start):
                raise InvalidInput(f"{start!r}: choose 'earliest', 'latest', an offset or a datetime")
            targets.append((lane, feed.resolve(lane, start)))
        for lane, offset in targets:
            lane.seek(offset)

    def position(self) -> dict[Partition, int]:
        """Where it has come: the offset before which everything is acknowledged, by topic and partition."""
        return {place: lane.position for place, lane in self._looked().lanes.items()}

    def committed(self) -> dict[Partition, int]:
        """Where its group would go on, by topic and partition; of all its topics and consumers."""
        return self._there().group_offsets(self._group) if self._group else {}

    def assignment(self) -> list[Partition]:
        """The partitions that it reads now, as (topic, partition)."""
        return list(self._looked().lanes)

    def pause(self, partitions: Collection[Partition] | None = None) -> None:
        """Hands out no more messages of these partitions, or of any, until :meth:`resume`; it keeps them.

        A partition that goes to another consumer of the group and comes back is still paused.
        """
        self._looked().pause(partitions, True)

    def resume(self, partitions: Collection[Partition] | None = None) -> None:
        """Goes on with what was paused."""
        self._looked().pause(partitions, False)

    def set_filter_rule(self, rule: Rule | None) -> None:
        """From now on receives only messages that a rule accepts; the others count as done. ``None`` takes all.

        A topic that is read by its name and whose rows the rule cannot judge is an error, here or when it is subscribed
        to or comes; one that only a pattern matches is left out when it comes, with a warning.

        Raises:
            ColumnNotFound: The rule looks at a column that a topic does not have which is read now.
            InvalidInput: A condition is of the wrong type for its column.
        """
        self._there()
        if isinstance(self._feed, SharedFeed):
            raise InvalidInput(
                "a consumer that shares keeps the rule that it subscribed with: set it before subscribe"
            )
        if self._feed is not None:
            self._feed.set_rule(rule)
        self._rule = rule

    def statistics(self) -> FeedStatistics | SharingStatistics:
        """What it did so far."""
        return self._fed().statistics()

    def close(self) -> None:
        """Commits what was acknowledged (unless ``commit=None``), and gives its partitions up."""
        if self._closed:
            return
        self._closed = True
        try:
            self._leave()
        finally:
            if self._own_log:
                self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _consume(self, most: int, patience: float, until_empty: bool) -> Iterator[Message]:
        monotonic = self._clock.monotonic
        self._begin()
        loop = self._loops
        left = most
        deadline = monotonic() + patience
        while left and not self._closed:
            feed = self._fed()
            if monotonic() >= feed.due:
                feed.tick()
            run = feed.take()
            if run is None:
                if (until_empty and feed.at_end()) or not self._wait(deadline):
                    return
                continue
            block = run.block
            # A run may shrink under our hands: messages are given back, partitions given up.
            while (row := run.handed) < run.count:
                run.handed = row + 1
                left -= 1
                yield Message(block, row, run)
                if self._loops != loop:
                    raise InvalidInput(_OVER)
                if row >= run.count:
                    break
                run.done = row + 1
                if not left:
                    break
                if monotonic() >= feed.due:
                    feed.tick()
            if patience < _AGES:
                deadline = monotonic() + patience

    def _begin(self) -> PartitionFeed | SharedFeed:
        """What was polled before is done now; what a loop left unfinished comes again."""
        feed = self._fed()
        self._loops += 1
        for run, upto in self._polled:
            run.finish(upto)
        self._polled.clear()
        feed.begin()
        return feed

    def _wait(self, deadline: float) -> bool:
        """Waits for news, or for the feed to be due; whether it is not too late by now."""
        if self._closed:
            return False
        self._fed().rest()
        now = self._clock.monotonic()
        if now >= deadline:
            return False
        until = min(deadline, self._fed().due)
        # What was committed since we last looked ends the wait at once.
        self._seen = self._log.wait(self._seen, max(0.0, until - now))
        return True

    def _read(self, interest: Interest, reads: str, pinned: Collection[Partition] | None) -> None:
        log = self._there()
        check_named(self._rule, interest, log)
        self._leave()
        book, pulse = LogBook(log), Pulse()
        member = Member(
            book,
            self._clock,
            kind="consumer",
            group=self._group,
            name=self._name,
            reads=reads,
            interest=interest,
            lease=self._session_timeout,
            pulse=pulse,
            patience=self._max_poll_interval,
        )
        try:
            self._feed = self._fed_by(log, book, member, interest, pinned, pulse)
        except BaseException:
            # Nobody else would end it: its lease would go on, and partitions be kept for it.
            member.close()
            raise
        # A consumer that nobody closes leaves when it is forgotten, or the process ends.
        self._finalizer = weakref.finalize(self, _close_forgotten, self._feed)

    def _fed_by(
        self,
        log: Log,
        book: LogBook,
        member: Member,
        interest: Interest,
        pinned: Collection[Partition] | None,
        pulse: Pulse,
    ) -> PartitionFeed | SharedFeed:
        if self._policy is not None:
            start = self._settings.start
            sharing = Sharing(log, self._clock, interest, self._group or None, start)
            return SharedFeed(self._clock, sharing, member, self._policy, self._rule, pulse)
        membership = Membership(book, LogTopics(log), self._group, member.id) if self._group else None
        feed = PartitionFeed(
            log, self._clock, self._settings, interest, member, membership, self._group, pinned, pulse
        )
        feed.set_rule(self._rule)
        return feed

    def _leave(self) -> None:
        self._polled.clear()
        feed, finalizer, self._feed, self._finalizer = self._feed, self._finalizer, None, None
        if feed is not None and finalizer is not None and finalizer.detach() is not None:
            feed.close()

    def _there(self) -> Log:
        if self._closed:
            raise MambaStreamError("this consumer was closed: make another")
        return self._log

    def _fed(self) -> PartitionFeed | SharedFeed:
        self._there()
        if self._feed is None:
            raise InvalidInput('this consumer reads nothing yet: subscribe("topic"), or assign(...), first')
        return self._feed

    def _partitions(self) -> PartitionFeed:
        feed = self._fed()
        if isinstance(feed, SharedFeed):
            raise InvalidInput(
                "a consumer that shares its messages has no partitions of its own, and cannot seek or pause: "
                "leave shared=True out to read by partition"
            )
        return feed

    def _looked(self) -> PartitionFeed:
        """The feed, which knows its partitions."""
        feed = self._partitions()
        if self._clock.monotonic() >= feed.due:
            feed.tick()
        return feed


def _close_forgotten(feed: PartitionFeed | SharedFeed) -> None:
    """Closes in a thread of its own: garbage is collected anywhere, also in a thread that holds locks of the log."""

    def close() -> None:
        # What cannot be given up ends with its lease.
        with contextlib.suppress(MambaStreamError):
            feed.close()

    thread = threading.Thread(target=close, name="mamba-stream forgotten consumer", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter ends.
        close()
    else:
        thread.join(_FORGOTTEN)


def at_most(value: int | None, what: str) -> int:
    """The number, checked; as good as endless where it is not given."""
    if value is None:
        return 1 << 62
    if not is_whole(value, 1):
        raise InvalidInput(f"{what}={value!r}: give a number from 1 on")
    return int(value)
