"""Messages of a shared group for a consumer that asks for them: each is leased, and settled by itself."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta

from mamba_stream.core.clock import Clock
from mamba_stream.errors import LogUnavailable, StaleLease
from mamba_stream.messaging.courier import Courier
from mamba_stream.messaging.feed import Pulse
from mamba_stream.messaging.members import Member
from mamba_stream.messaging.message import Message, Rule
from mamba_stream.messaging.outputs import MessageTransaction
from mamba_stream.messaging.sharing import Policy, Sharing, SharingStatistics


class InHand:
    """One message that was handed out: what a consumer's loop touches, and what stands behind the message."""

    def __init__(self, courier: Courier, message: Message) -> None:
        self._courier = courier
        self._message = message
        self._lease = message._delivery
        self.block = message._block
        self.attempt = message.attempt
        self.handed = message._row
        self.count = message._row + 1
        self.open = True

    @property
    def done(self) -> int:
        """How far its rows are done."""
        return self.count - self.open

    @done.setter
    def done(self, upto: int) -> None:
        self.finish(upto)

    def messages(self, most: int) -> list[Message]:
        """Hands it out."""
        if self.handed == self.count:
            return []
        self.handed = self.count
        return [Message(self.block, self.count - 1, self)]

    def finish(self, upto: int) -> None:
        """It is done, unless it was settled otherwise."""
        if self.open and upto >= self.count:
            # Where its lease ended it is another's, and done again there.
            with contextlib.suppress(StaleLease):
                self.ack(self._message.offset)

    def ack(self, offset: int) -> None:
        self._settled(lambda: self._lease.ack(offset))

    def nack(self, offset: int, delay: str | timedelta | None, cause: str) -> None:
        self._settled(lambda: self._lease.nack(offset, delay, cause))

    def reject(self, offset: int, cause: str) -> None:
        self._settled(lambda: self._lease.reject(offset, cause))

    def extend(self, offset: int, by: str | timedelta) -> None:
        self._lease.extend(offset, by)

    @contextlib.contextmanager
    def transaction(self, offset: int) -> Iterator[MessageTransaction]:
        with self._lease.transaction(offset) as transaction:
            yield transaction
        self._settled(lambda: None)

    def give_back(self) -> None:
        """It is to be delivered again, at once."""
        if self.open:
            with contextlib.suppress(StaleLease):
                self.nack(self._message.offset, "0s", "the consumer left its loop")

    def _settled(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except StaleLease:
            self._finished()
            raise
        # Whatever else is raised (by a delay without a unit) settled nothing: the message is in hand as before.
        self._finished()

    def _finished(self) -> None:
        self.open = False
        self._courier.finished(self._message)


class SharedFeed:
    """A session's part in a shared group, as a consumer's feed.

    Args:
        clock: The clock.
        sharing: The topics that are shared.
        member: Who we are.
        policy: How they are shared.
        rule: Which messages there are for the group; ``None``: all.
        pulse: To be kept changing, for the member to see that we are not stuck.
    """

    def __init__(
        self,
        clock: Clock,
        sharing: Sharing,
        member: Member,
        policy: Policy,
        rule: Rule | None,
        pulse: Pulse,
    ) -> None:
        self._clock = clock
        self._sharing = sharing
        self._member = member
        self._pulse = pulse
        self._courier = Courier(clock, policy.visibility)
        self._inhand: deque[InHand] = deque()
        sharing.join(member, self._courier, lambda topic: policy.terms(topic, rule), rule)
        self.due = clock.monotonic()

    def begin(self) -> None:
        """Gives back what was handed out and is not done."""
        for each in self._inhand:
            each.give_back()
        self._inhand.clear()

    def take(self) -> InHand | None:
        """The next message; none where there is none now."""
        self._pulse.beat += 1
        self._courier.check()
        message = self._courier.next()
        if message is None and self._courier.fetch():
            message = self._courier.next()
        if message is None:
            return None
        while self._inhand and not self._inhand[0].open:
            self._inhand.popleft()
        self._inhand.append(InHand(self._courier, message))
        return self._inhand[-1]

    def tick(self) -> None:
        """Looks around."""
        self._pulse.beat += 1
        self._member.revive()
        self._sharing.look()
        self.due = self._clock.monotonic() + self._sharing.pause()

    def rest(self) -> None:
        """Nothing: what is done is written within milliseconds anyway."""

    def at_end(self) -> bool:
        """Whether every message of these topics is done, also those that wait for a retry or for their time."""
        if not self._courier.empty or any(each.open for each in self._inhand):
            return False
        self._courier.settle()
        return self._sharing.idle()

    def commit(self) -> None:
        """Writes what was settled."""
        self._courier.settle()

    def close(self) -> None:
        """Gives back what was not done, and leaves."""
        try:
            with contextlib.suppress(LogUnavailable):
                self.begin()
                self._courier.close()
        finally:
            self._member.close()

    def statistics(self) -> SharingStatistics:
        """What became of its messages."""
        return self._sharing.statistics()
