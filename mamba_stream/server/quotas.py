"""Quotas: how much a user may have at a time. Bytes are counted in buckets that fill as time passes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from mamba_stream.core.clock import Clock
from mamba_stream.errors import InvalidInput, QuotaExceeded

Way = Literal["received", "sent"]

_FORGOTTEN: Final = 60.0
"""Seconds without a call after which a connection counts no more: nobody tells when one is closed."""


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a user may have; ``None`` is no limit.

    Attributes:
        received: Bytes of rows a second that the server takes from the user.
        sent: Bytes of rows a second that the user gets.
        burst: Seconds of that at once, after a pause.
        connections: Connections that made a call in the last minute.
        topics: Topics that the user made and that are still there.
    """

    received: int | None = None
    sent: int | None = None
    burst: float = 1.0
    connections: int | None = None
    topics: int | None = None

    def __post_init__(self) -> None:
        for name in ("received", "sent", "connections", "topics"):
            value = getattr(self, name)
            least = 0 if name == "topics" else 1
            if value is not None and value < least:
                raise InvalidInput(f"quota {name}={value}: give a number from {least} on, or leave it out")
        if not 0 < self.burst <= 3600:
            raise InvalidInput(f"quota burst={self.burst}: give seconds, more than 0 and at most an hour")


NO_QUOTA: Final = Quota()


@dataclass(slots=True)
class Bucket:
    """Bytes that may be had now; they come back as time passes.

    What is asked for is given whole as long as anything is there, and what it was more than that is a debt: a batch
    larger than the bucket goes through, and delays what comes after it.

    Attributes:
        level: What is there, negative where more was taken.
        at: When that was so, in seconds of the monotonic clock.
    """

    level: float
    at: float

    def take(self, size: int, rate: float, most: float, now: float) -> float:
        """Takes bytes; returns 0, or, having taken none, the seconds until there are some.

        Args:
            size: How many.
            rate: How many come a second.
            most: How many there may be.
            now: The time, in seconds of the monotonic clock.
        """
        if now > self.at:
            self.level = min(most, self.level + (now - self.at) * rate)
            self.at = now
        self.level = min(self.level, most)
        if self.level <= 0:
            return max(-self.level / rate, 1e-3)
        self.level -= size
        return 0.0


@dataclass(slots=True)
class _Usage:
    """What one user has had lately."""

    buckets: dict[Way, Bucket] = field(default_factory=dict)
    connections: OrderedDict[str, float] = field(default_factory=OrderedDict)


class Quotas:
    """What all users have had lately. It outlives changes of their quotas; any thread may ask.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._users: dict[str, _Usage] = {}
        self._lock = threading.Lock()

    def spend(self, user: str, quota: Quota, received: int = 0, sent: int = 0) -> None:
        """Counts bytes.

        Raises:
            QuotaExceeded: The user has had too many; these do not count, and may go after ``retry_after``.
        """
        now = self._clock.monotonic()
        with self._lock:
            asked: tuple[tuple[Way, int, int | None], ...] = (
                ("received", received, quota.received),
                ("sent", sent, quota.sent),
            )
            for way, size, rate in asked:
                if not size or rate is None:
                    continue
                most = rate * quota.burst
                buckets = self._usage(user).buckets
                bucket = buckets.setdefault(way, Bucket(most, now))
                if wait := bucket.take(size, rate, most, now):
                    raise QuotaExceeded(
                        f"user {user!r} has {'sent' if way == 'received' else 'had'} more than {rate:,} bytes a "
                        f"second: go on in {wait:.3g} s",
                        retry_after=wait,
                    )

    def connect(self, user: str, quota: Quota, peer: str) -> None:
        """Counts the connection from an address, by a call on it.

        Raises:
            QuotaExceeded: It is one more than the user may have.
        """
        if quota.connections is None:
            return
        now = self._clock.monotonic()
        with self._lock:
            known = self._usage(user).connections
            while known and next(iter(known.values())) <= now - _FORGOTTEN:
                known.popitem(last=False)
            if peer not in known and len(known) >= quota.connections:
                oldest = next(iter(known.values()))
                raise QuotaExceeded(
                    f"user {user!r} has {len(known)} connections, as many as it may: close one, and try again "
                    "within a minute",
                    retry_after=max(oldest + _FORGOTTEN - now, 1.0),
                )
            known[peer] = now
            known.move_to_end(peer)

    def keep(self, users: Mapping[str, Quota]) -> None:
        """Forgets everybody who is not among these."""
        with self._lock:
            for gone in self._users.keys() - users.keys():
                del self._users[gone]

    def _usage(self, user: str) -> _Usage:
        return self._users.setdefault(user, _Usage())


def check_topics(user: str, quota: Quota, there: int, more: int) -> None:
    """Whether a user who made so many topics may make more.

    Raises:
        QuotaExceeded: They would be too many.
    """
    if more and quota.topics is not None and there + more > quota.topics:
        raise QuotaExceeded(
            f"user {user!r} has made {there:,} topics that are still there, and may have {quota.topics:,}: "
            "delete one first",
            retry_after=60.0,
        )
