"""Who is there: every client has a record with a lease, which it renews while it lives.

Records of the namespace ``clients``, by the client's id. A client whose lease ended is gone for everybody else,
whatever it thinks itself; its record is swept by whoever notices. Leases go by the wall clock of the machine: one
that jumps, forth or back, ends leases early, which moves work, and loses none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import msgspec

from mamba_stream.core.changes import MAX_RECORD_BYTES
from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import duration_us
from mamba_stream.errors import (
    ForkedProcess,
    InvalidInput,
    LogClosed,
    LogFailed,
    LogReplaced,
    MambaStreamError,
    PreconditionFailed,
)
from mamba_stream.messaging.books import Book, Change, Place
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.latency import Latencies, merged

CLIENTS: Final = "clients"
SESSIONS: Final[Place] = ("sessions", "next")
LEASE: Final = "10s"
BALANCED: Final = "balanced"
_WINDOW: Final = 60_000_000
"""Microseconds that rates are told of."""
_APART: Final = 1_000_000
"""Microseconds between two samples."""
_SILENT: Final = 5_000_000
_BACK: Final = 10_000_000
"""Microseconds by which a clock may go back at least, before leases of then are over."""
_MOST_TOPICS: Final = 16
"""Of more topics latencies are told of all together only."""
_FEW_BUCKETS: Final = 16
_NO_RATES: Final = frozenset({"latency_sum", "latency_count", "p50", "p99"})
_OVER: Final = (LogClosed, LogFailed, LogReplaced, ForkedProcess)
"""After these nothing can be written any more. A server that is away comes back, and then must know who is there."""
_RENEWALS: Final = 0.3
"""When a lease is renewed, as a share of it: two renewals may fail."""


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A client as its record says.

    Attributes:
        id: Its key.
        session: A number unique in the log; later clients have higher ones.
        kind: ``publisher``, ``producer``, ``subscriber`` or ``consumer``.
        name: What its user calls it.
        group: Its group; empty where it has none.
        reads: How it receives: ``balanced`` (its group's partitions are divided among such), ``assigned`` (it says
            which), ``shared`` (message by message), ``alone`` (everything, without a group); empty where it sends.
        interest: The topics it receives, or sends to.
        host: The machine it runs on.
        pid: Its process there.
        since: When it came, in microseconds since the epoch.
        until: When its lease ends, if it is not renewed.
        lease: How long its lease was when it was renewed last, in microseconds; 0: not known.
        counters: What it says of itself: ``sent``, ``received``, ``acknowledged``, ``latency_sum``, ...
        rates: How fast these grew in the last minute, by the second.
        latency: How long messages took that were done in the last minute, as :class:`Latencies` counts.
        by_topic: The same by topic, where it may receive several, as far as there is room; empty where it is not told.
    """

    id: str = ""
    session: int = 0
    kind: str
    name: str = ""
    group: str = ""
    reads: str = ""
    interest: Interest = Interest()
    host: str = ""
    pid: int = 0
    since: int = 0
    until: int = 0
    lease: int = 0
    counters: dict[str, float] = {}
    rates: dict[str, float] = {}
    latency: dict[int, int] = {}
    by_topic: dict[str, dict[int, int]] = {}


@dataclass(frozen=True, slots=True)
class _Sample:
    """What a client had counted at some time, in microseconds since the epoch."""

    at: int
    counters: Mapping[str, float]
    latencies: Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class _Lately:
    """What happened in the last minute: growth by the second, and latencies of all topics and of each."""

    rates: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[int, int] = field(default_factory=dict)
    by_topic: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


class _Recent:
    """How fast counters grew lately. Any thread may tell and ask."""

    def __init__(self, now: int) -> None:
        self._samples = deque([_Sample(now, {}, {})])
        self._latencies: dict[str, Latencies] = {}
        self._lock = threading.Lock()

    def tell(
        self, now: int, counters: Mapping[str, float], latencies: Mapping[str, Latencies] | None
    ) -> None:
        """They are that now; latencies by topic."""
        with self._lock:
            if latencies is not None:
                if len(latencies) > _MOST_TOPICS:
                    latencies = {"": merged(latencies.values())}
                self._latencies = {topic: Latencies(each.buckets()) for topic, each in latencies.items()}
            samples = self._samples
            if len(samples) > 1 and now - samples[-2].at < _APART:
                samples.pop()
            buckets = {topic: each.buckets() for topic, each in self._latencies.items()}
            samples.append(_Sample(now, dict(counters), buckets))

    def lately(self, now: int) -> _Lately:
        """What happened in the last minute."""
        with self._lock:
            samples = self._samples
            while len(samples) > 1 and samples[1].at <= now - _WINDOW:
                samples.popleft()
            first, last = samples[0], samples[-1]
            if first is last:
                return _Lately()
            # Who told us a moment ago is told of as of then; who is silent slows down.
            seconds = max(last.at if now - last.at < _SILENT else now, first.at + _APART) - first.at
            every: Counter[int] = Counter()
            for buckets in first.latencies.values():
                every.update(buckets)
            by_topic = {
                topic: since
                for topic, each in self._latencies.items()
                if topic and (since := each.since(first.latencies.get(topic, {}), _FEW_BUCKETS))
            }
            return _Lately(
                {
                    name: (value - first.counters.get(name, 0)) * 1e6 / seconds
                    for name, value in last.counters.items()
                    if value > first.counters.get(name, 0) and name not in _NO_RATES
                },
                merged(self._latencies.values()).since(every),
                by_topic,
            )


_decoder = msgspec.msgpack.Decoder(Client)
_NOTHING: Final = Interest()


def place_of(client: str) -> Place:
    """Where the record of a client is."""
    return CLIENTS, client


def alive(records: Mapping[str, bytes], now: int) -> dict[str, Client]:
    """Those of the records of ``clients`` whose leases last, by id.

    Args:
        records: What ``book.records(CLIENTS)`` gave.
        now: Microseconds since the epoch.
    """
    return {
        key: client for key, value in records.items() if (client := _read(value)) and not _over(client, now)
    }


def sweep(book: Book, records: Mapping[str, bytes], now: int) -> None:
    """Removes the records of those whose leases ended, if they still are as they were read."""
    over = {
        place_of(key): value
        for key, value in records.items()
        if (client := _read(value)) and _over(client, now)
    }
    if over:
        # Where one was renewed or swept meanwhile, the next look finds the others.
        with contextlib.suppress(PreconditionFailed):
            book.commit(Change(requires={**over}, records=dict.fromkeys(over)))


def _over(client: Client, now: int) -> bool:
    """Whether a lease ended, or lasts longer than any does: it was given before the clock went back.

    Whoever died with such a one would keep what it had until the clock is there again; whoever lives renews it.
    """
    late = bool(client.lease) and client.until > now + client.lease + max(client.lease, _BACK)
    return client.until <= now or late


def _read(value: bytes) -> Client | None:
    try:
        return _decoder.decode(value)
    except msgspec.MsgspecError:
        # Written by a version that is to come.
        return None


class Registration:
    """A client's own record: no thread, and time is an argument.

    Args:
        book: Where clients are registered.
        client: What to say; id, session and times are given here.
        lease: In microseconds.
    """

    def __init__(self, book: Book, client: Client, lease: int) -> None:
        self._book = book
        self._lease = lease
        self.client = client
        self.present = False

    def enter(self, now: int) -> None:
        """Takes a session, and registers."""
        while True:
            known = self._book.get(SESSIONS)
            session = 1 if known is None else int(known)
            self.client = msgspec.structs.replace(
                self.client,
                id=f"{session:08x}",
                session=session,
                since=now,
                until=now + self._lease,
                lease=self._lease,
            )
            change = Change(
                requires={SESSIONS: known},
                records={
                    SESSIONS: b"%d" % (session + 1),
                    place_of(self.client.id): self._packed(self.client),
                },
            )
            try:
                self._book.commit(change)
            except PreconditionFailed:
                # Somebody else has that session.
                continue
            self.present = True
            return

    def renew(
        self,
        now: int,
        *,
        interest: Interest | None = None,
        reads: str | None = None,
        counters: Mapping[str, float] | None = None,
        rates: Mapping[str, float] | None = None,
        latency: Mapping[int, int] | None = None,
        by_topic: Mapping[str, Mapping[int, int]] | None = None,
    ) -> None:
        """Renews the lease, even one that ended and was swept: who took what it had keeps it."""
        known = self.client
        client = msgspec.structs.replace(
            known,
            until=now + self._lease,
            interest=known.interest if interest is None else interest,
            reads=known.reads if reads is None else reads,
            counters=known.counters if counters is None else dict(counters),
            rates=dict(rates or {}),
            latency=dict(latency or {}),
            by_topic={topic: dict(buckets) for topic, buckets in (by_topic or {}).items()},
        )
        if len(msgspec.msgpack.encode(client)) > MAX_RECORD_BYTES:
            client = msgspec.structs.replace(client, by_topic={})
        if len(msgspec.msgpack.encode(client)) > MAX_RECORD_BYTES:
            # Better alive than well known.
            client = msgspec.structs.replace(client, rates={}, latency={})
        self._book.commit(Change(records={place_of(client.id): self._packed(client)}))
        self.client = client
        self.present = True

    def check(self, counters: Mapping[str, float]) -> None:
        """Raises ``InvalidInput`` where these counters would not fit."""
        self._packed(msgspec.structs.replace(self.client, counters=dict(counters)))

    def leave(self) -> None:
        """Removes the record."""
        self.present = False
        self._book.commit(Change(records={place_of(self.client.id): None}))

    def _packed(self, client: Client) -> bytes:
        value = msgspec.msgpack.encode(client)
        if len(value) > MAX_RECORD_BYTES:
            raise InvalidInput(
                f"what {client.kind} {client.name!r} tells of itself takes {len(value)} bytes, more than "
                f"{MAX_RECORD_BYTES}: shorten its name, topics or counters"
            )
        return value


class Member:
    """A client that is there: registered, and kept so by a thread until it is closed.

    Args:
        book: Where clients are registered.
        clock: Tells the time.
        kind: ``publisher``, ``producer``, ``subscriber`` or ``consumer``.
        group: Its group, if it has one.
        name: What its user calls it.
        reads: How it receives, as in :class:`Client`.
        interest: Its topics.
        lease: How long it is taken for alive after its last renewal.
        renew: How often it renews; three in ten of the lease, unless told otherwise.
        pulse: Something that changes as the client does its work. Where it has not for ``patience``, the client is
            stuck, and its record is removed until :meth:`revive`.
        patience: See ``pulse``; ``None``: for ever.
        delay: It registers so much later, from its thread, if it is still there then.
    """

    def __init__(
        self,
        book: Book,
        clock: Clock,
        *,
        kind: str,
        group: str = "",
        name: str = "",
        reads: str = "",
        interest: Interest = _NOTHING,
        lease: str | timedelta = LEASE,
        renew: str | timedelta | None = None,
        pulse: Callable[[], object] | None = None,
        patience: str | timedelta | None = None,
        delay: str | timedelta | None = None,
    ) -> None:
        length = duration_us(lease, what="lease", zero=False)
        every = (
            length * _RENEWALS if renew is None else duration_us(renew, what="the time to renew", zero=False)
        )
        if every >= length:
            raise InvalidInput(f"a lease of {lease!r} would end before it is renewed, every {renew!r}")
        client = Client(
            kind=kind,
            group=group,
            name=name,
            reads=reads,
            interest=interest,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._clock = clock
        self._registration = Registration(book, client, length)
        self._pulse = pulse
        self._patience = (
            None if patience is None else duration_us(patience, what="patience", zero=False) / 1e6
        )
        self._every = every / 1e6
        self._counters: Mapping[str, float] | None = None
        self._interest: Interest | None = None
        self._recent = _Recent(clock.now())
        self._delay = 0.0 if delay is None else duration_us(delay, what="delay") / 1e6
        self._turn = threading.Lock()
        self._bell = threading.Event()
        self._beat: object = None if pulse is None else pulse()
        self._excused = clock.monotonic() + (self._patience or 0)
        self._failure: MambaStreamError | None = None
        self._entered = delay is None
        if self._entered:
            self._registration.enter(clock.now())
        self._thread = threading.Thread(target=self._live, name=f"mamba-stream {kind} {self.id}", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """Its id."""
        return self._registration.client.id

    @property
    def session(self) -> int:
        """Its session."""
        return self._registration.client.session

    @property
    def client(self) -> Client:
        """Its record, as it was last written."""
        return self._registration.client

    @property
    def failure(self) -> MambaStreamError | None:
        """Why its last renewal did not happen; ``None`` where it did."""
        return self._failure

    def report(
        self,
        counters: Mapping[str, float],
        latencies: Mapping[str, Latencies] | None = None,
        interest: Interest | None = None,
    ) -> None:
        """Puts these counters into its record at the next renewal, and how fast they grow.

        Args:
            counters: What it counted so far.
            latencies: How long the messages took that it has done so far, by topic.
            interest: Its topics, if they are others than before.

        Raises:
            InvalidInput: They do not fit.
        """
        self._registration.check(counters)
        self._counters = dict(counters)
        self._interest = interest or self._interest
        self._recent.tell(self._clock.now(), counters, latencies)

    def change(self, interest: Interest, reads: str) -> None:
        """Tells everybody of other topics, at once."""
        with self._turn:
            self._interest = interest
            self._write(reads)

    def revive(self) -> None:
        """Registers again, where it was taken for stuck."""
        if self._registration.present:
            return
        with self._turn:
            self._excused = max(self._excused, self._clock.monotonic() + (self._patience or 0))
            self._write()

    def excuse(self, seconds: float) -> None:
        """It is not stuck before so many seconds from now."""
        self._excused = max(self._excused, self._clock.monotonic() + seconds)

    def close(self) -> None:
        """Ends the thread, and removes the record."""
        if self._bell.is_set():
            return
        self._bell.set()
        self._thread.join()
        # A record that cannot be removed ends with its lease.
        if self._entered:
            with contextlib.suppress(MambaStreamError):
                self._registration.leave()

    def _live(self) -> None:
        if not self._entered and self._bell.wait(self._delay):
            return
        while not self._entered:
            try:
                with self._turn:
                    self._registration.enter(self._clock.now())
                    self._entered = True
                    self._write()
            except _OVER as error:
                self._failure = error
                return
            except MambaStreamError as error:
                self._failure = error
                if self._bell.wait(self._every):
                    return
        while not self._bell.wait(self._every):
            try:
                self._renew()
                self._failure = None
            except _OVER as error:
                self._failure = error
                return
            except MambaStreamError as error:
                # The next renewal may succeed (DiskFull, or a server that comes back); where none does, the lease ends.
                self._failure = error

    def _renew(self) -> None:
        with self._turn:
            if self._stuck():
                if self._registration.present:
                    self._registration.leave()
            elif self._registration.present:
                self._write()

    def _write(self, reads: str | None = None) -> None:
        now = self._clock.now()
        lately = self._recent.lately(now)
        interest = self._interest or self.client.interest
        several = interest.open or len(interest.topics) > 1
        self._registration.renew(
            now,
            interest=self._interest,
            reads=reads,
            counters=self._counters,
            rates=lately.rates,
            latency=lately.latency,
            by_topic=lately.by_topic if several else None,
        )

    def _stuck(self) -> bool:
        if self._pulse is None or self._patience is None:
            return False
        beat, now = self._pulse(), self._clock.monotonic()
        if beat != self._beat:
            self._beat = beat
            self._excused = max(self._excused, now + self._patience)
        return now > self._excused
