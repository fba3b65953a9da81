"""Messages waiting to be sent: gathered for a moment, committed together by one thread, bounded in bytes.

What is asked of a sender holds here: whatever was put in is sent by the time the program ends, unless it is killed;
what could not be sent is heard of (from its handle, else from the next send, from flush or from close); and who
sends faster than the log takes it waits.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa

from mamba_stream.core.clock import Clock
from mamba_stream.core.ending import at_end_of_child
from mamba_stream.core.names import check_name
from mamba_stream.errors import ForkedProcess, MambaStreamError, NotFound
from mamba_stream.log import Log
from mamba_stream.messaging.books import LogBook
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.members import Member
from mamba_stream.messaging.parcel import Lane, Parcel, Piece, Sent, SentMany
from mamba_stream.messaging.routing import Partitions, RoutingPolicy, check_route
from mamba_stream.messaging.sending import Bundle, Sender

_AWAKE, _IDLE, _GATHERING = range(3)
_LONG_WAIT: Final = 1.0
"""Seconds after which a wait for room looks whether the log was closed meanwhile."""
_LOOK_AGAIN: Final = 0.05
"""Seconds between two looks for room where no thread waits for it."""
_QUIET_EXIT: Final = 2.0
"""Seconds after which a program that ends says what it waits for."""
_SETTLED: Final = "1s"
"""A sender that is gone by then is not told of to others."""
_MOST_TOLD: Final = 1_000
"""Bytes of names of topics that others are told of."""
_open: set[Outbox] = set()


class Outbox:
    """What one sender has to send, and the thread that sends it.

    Args:
        log: The log.
        linger: Seconds to wait for company, from the first message on.
        batch_bytes: So many bytes end the wait.
        max_bytes: So many may be under way before who sends has to wait.
        idempotent: Whether what is tried again lands once.
        clock: The clock.
        owned: Whether the log is closed with it.
    """

    def __init__(
        self,
        log: Log,
        *,
        linger: float,
        batch_bytes: int,
        max_bytes: int,
        idempotent: bool,
        clock: Clock,
        owned: bool,
    ) -> None:
        self.log = log
        self.lanes: dict[str, Lane] = {}
        self.sent = 0
        self.sent_bytes = 0
        self.failed = 0
        self._linger = linger
        self._batch_bytes = batch_bytes
        self._max_bytes = max_bytes
        self._clock = clock
        self._owned = owned
        self._policy: RoutingPolicy | None = None
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._change = threading.Condition(self._lock)
        self._sender = Sender(log, idempotent=idempotent, settle=self._settle)
        self._thread: threading.Thread | None = None
        self._member: Member | None = None
        self._told = 0
        self._state = _AWAKE
        self._filling: dict[Lane, Parcel] = {}
        self._filling_bytes = 0
        self._ready: deque[Bundle] = deque()
        self._waiting: list[Bundle] = []
        self._watched = False
        self._room = False
        self._hurry = False
        self._unsettled: dict[Parcel, None] = {}
        self._rows = 0
        self._bytes = 0
        self._failures: deque[Piece] = deque()
        self._trouble = False
        """Whether a send must look before it is taken: something failed, or this is over."""
        self._closing = False
        self._retired = False
        self._forked = False
        _open.add(self)
        self._forget_end = at_end_of_child(self, self.finish, priority=10)

    # --- putting in -----------------------------------------------------------------------------------------

    def lane(self, name: Any) -> Lane:
        """The topic as it is known here, looked up where it is not."""
        lane = self.lanes.get(name) if isinstance(name, str) else None
        if lane is not None:
            return lane
        self.check()
        topic = self.log[check_name(name)]
        lane = Lane(topic, self.log.lsn(), None)
        with self._lock:
            # Under the lock: another thread may just set another policy.
            route = None if self._policy is None else self._policy.route(name)
            if route is not None:
                check_route(route, name, topic.schema, topic.partitions)
                lane.route = route
            return self.lanes.setdefault(name, lane)

    def put(self, lane: Lane, row: tuple[Any, ...], size: int) -> Sent:
        """Takes a message."""
        with self._lock:
            if self._trouble:
                self._raise()
            if self._bytes + size > self._max_bytes and self._bytes:
                self._wait_for_room(size)
            parcel = lane.parcel
            if parcel is None:
                parcel = self._begin(lane)
            self._bytes += size
            self._filling_bytes += size
            at = parcel.add(row, size)
            if self._state and (self._state == _IDLE or self._filling_bytes >= self._batch_bytes):
                self._state = _AWAKE
                self._work.notify()
        return Sent(parcel, at)

    def put_batch(
        self, lane: Lane, batch: pa.RecordBatch, given: Partitions | int | None, size: int
    ) -> SentMany:
        """Takes rows of the topic's schema."""
        with self._lock:
            if self._trouble:
                self._raise()
            if self._bytes + size > self._max_bytes and self._bytes:
                self._wait_for_room(size)
            parcel = lane.parcel
            if parcel is None:
                parcel = self._begin(lane)
            self._bytes += size
            self._filling_bytes += size
            at = parcel.add_batch(batch, given, size)
            if self._state and (self._state == _IDLE or self._filling_bytes >= self._batch_bytes):
                self._state = _AWAKE
                self._work.notify()
        return SentMany(parcel, at, at + batch.num_rows)

    def submit(self, bundle: Bundle) -> None:
        """Takes what goes together, after all that was put in before, and waits until it is durable."""
        size = sum(parcel.size for parcel in bundle.parcels)
        with self._lock:
            self._raise_if_over()
            if self._bytes + size > self._max_bytes and self._bytes:
                self._wait_for_room(size)
            self._seal()
            self._start()
            # Interrupted before, nothing of it is sent; after it, all of it.
            self._ready.append(bundle)
            for parcel in bundle.parcels:
                parcel.home = self
                self._unsettled[parcel] = None
            self._bytes += size
            self._wake()
            self._change.wait_for(lambda: bundle.done or self._forked)
            if bundle.error is not None:
                for parcel in bundle.parcels:
                    for piece in parcel.pieces:
                        self._forget(piece)
                raise bundle.error
        self._check_forked()

    def set_policy(self, policy: RoutingPolicy) -> None:
        """From now on messages are routed by this policy, as it is now."""
        routes = {name: policy.route(name) for name in policy.topics}
        for name, route in routes.items():
            if route is not None and name in self.log:
                topic = self.log[name]
                check_route(route, name, topic.schema, topic.partitions)
        with self._lock:
            # What was sent before goes where it would have gone.
            self._seal()
            self._policy = policy
            for name, lane in self.lanes.items():
                lane.route = routes.get(name)

    # --- waiting --------------------------------------------------------------------------------------------

    def wait(self, parcel: Parcel, row: int, timeout: float | None) -> None:
        """Waits until a row is settled; nobody else's company is waited for meanwhile."""
        with self._lock:
            self._wake()
            done = self._change.wait_for(lambda: parcel.settled > row or self._forked, timeout)
        self._check_forked()
        if not done:
            raise TimeoutError(
                f"a message to topic {parcel.lane.name!r} is still under way after {timeout} seconds"
            )

    def listen(self, parcel: Parcel, row: int, callback: Callable[[], object]) -> bool:
        """Calls back once a row is settled; says no where it is already."""
        self._check_forked()
        with self._lock:
            if parcel.settled > row:
                return False
            parcel.callbacks.append((row, callback))
            self._wake()
        return True

    def heard(self, piece: Piece, rows: range) -> None:
        """The senders of these rows know what was wrong; nobody else need hear of it."""
        with self._lock:
            piece.seen.update(rows)
            if len(piece.seen) >= piece.stop - piece.start:
                self._forget(piece)

    def flush(self, timeout: float | None = None) -> None:
        """Waits until all that was put in is durable, and raises what was wrong with any."""
        self._check_forked()
        with self._lock:
            self._settled(timeout)
            if self._failures:
                self._raise_failure()

    def close(self, timeout: float | None = None) -> None:
        """Flushes, ends the thread, and lets go of the log."""
        self._check_forked()
        with self._lock:
            self._closing = self._trouble = True
            try:
                self._settled(timeout)
            except BaseException:
                # The thread goes on, and ends when it is done.
                self._retired = True
                raise
            finally:
                self._wake()
        if self._thread is not None:
            self._thread.join()
        self._end()
        with self._lock:
            if self._failures:
                self._raise_failure()

    def retire(self) -> None:
        """Nobody holds it any more: sends what is left, then ends. May be called from within a collection."""
        # Whoever is interrupted by it may hold the lock. As the program ends there is no thread, but finish().
        if self in _open:
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self._retire, name="mamba-stream retiring", daemon=True).start()

    def _retire(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = self._trouble = self._retired = True
            self._wake()
            if self._thread is not None:
                return
        self._end()

    def finish(self) -> None:
        """The program ends: sends what is left, and says what it waits for if that takes long."""
        try:
            self.close(_QUIET_EXIT)
        except TimeoutError:
            with self._lock:
                full = sorted(
                    {repr(parcel.lane.name) for bundle in self._waiting for parcel in bundle.parcels}
                )
            if full:
                sys.stderr.write(
                    f"mamba-stream: {self.waiting[0]} messages wait for room in topic {', '.join(full)}; Ctrl-C gives "
                    "them up\n"
                )
            self.flush()

    def has_room(self, size: int) -> bool:
        """Whether so many bytes can be put in without waiting, unless others are faster."""
        return not self._bytes or self._bytes + size <= self._max_bytes

    @property
    def waiting(self) -> tuple[int, int]:
        """Messages and bytes that are under way."""
        with self._lock:
            return sum(parcel.count - parcel.settled for parcel in self._unsettled), self._bytes

    @property
    def commits(self) -> int:
        """Change sets that were committed."""
        return self._sender.commits

    # --- under the lock -------------------------------------------------------------------------------------

    def _begin(self, lane: Lane) -> Parcel:
        if self.lanes.get(lane.name) is not lane:
            # Its topic was deleted since.
            raise self._gone(lane)
        self._start()
        parcel = Parcel(lane, self, self._clock.monotonic())
        self._unsettled[parcel] = None
        lane.parcel = self._filling[lane] = parcel
        return parcel

    def _gone(self, lane: Lane) -> MambaStreamError:
        return MambaStreamError(f"topic {lane.name!r} changed while a message was sent to it: send it again")

    def _seal(self) -> None:
        """What is being filled is ready."""
        if self._filling:
            parcels = []
            for lane, parcel in self._filling.items():
                lane.parcel = None
                if parcel.count:
                    parcels.append(parcel)
                else:
                    # Who began it was interrupted before it put anything in.
                    self._unsettled.pop(parcel, None)
            self._filling = {}
            if parcels:
                self._ready.append(Bundle(parcels))
        self._filling_bytes = 0
        self._hurry = False

    def _wake(self) -> None:
        self._hurry = True
        if self._state:
            self._state = _AWAKE
            self._work.notify()

    def _wait_for_room(self, size: int) -> None:
        self._wake()
        self._change.wait_for(
            lambda: not self._bytes or self._bytes + size <= self._max_bytes or self._trouble
        )
        if self._trouble:
            self._raise()

    def _settled(self, timeout: float | None) -> None:
        self._wake()
        parcels = [(parcel, parcel.count) for parcel in self._unsettled]
        done = self._change.wait_for(
            lambda: self._forked or all(parcel.settled >= count for parcel, count in parcels), timeout
        )
        if not done:
            raise TimeoutError(f"some messages are still under way after {timeout} seconds")

    def _raise(self) -> None:
        self._raise_if_over()
        if self._failures:
            self._raise_failure()

    def _raise_if_over(self) -> None:
        if self._forked:
            self._check_forked()
        if self._closing:
            raise MambaStreamError("this sender was closed, and sends nothing any more: make another")

    def _raise_failure(self) -> None:
        error = self._failures[0].error
        assert error is not None
        # Its notes name all that it befell.
        self._failures = deque(piece for piece in self._failures if piece.error is not error)
        self._trouble = bool(self._failures) or self._closing
        raise error

    def _forget(self, piece: Piece) -> None:
        if piece in self._failures:
            self._failures.remove(piece)
            self._trouble = bool(self._failures) or self._closing

    # --- the thread -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="mamba-stream outbox", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise MambaStreamError(
                    f"nothing was sent: {error}. Send something earlier where a program sends as it ends"
                ) from error
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._lock:
                bundle = self._next()
            if bundle is None:
                break
            self._send(bundle)
            # What cannot be told to others (no thread can start as the program ends) must not end the sending.
            with contextlib.suppress(MambaStreamError, RuntimeError):
                self._tell()
        if self._retired:
            self._end()
            if self._failures:
                # Nobody is left who could be told: threading's excepthook is.
                self._raise_failure()

    def _tell(self) -> None:
        """Tells the log that somebody sends, and how much: not for those who are gone within a moment."""
        if self._member is None:
            self._member = Member(LogBook(self.log), self._clock, kind="producer", delay=_SETTLED)
        interest = None
        if len(self.lanes) != self._told:
            names = list(self.lanes)
            self._told = len(names)
            room = itertools.accumulate(map(len, names))
            interest = Interest(
                tuple(name for name, size in zip(names, room, strict=True) if size <= _MOST_TOLD)
            )
        self._member.report({"sent": self.sent, "failed": self.failed}, interest=interest)

    def _next(self) -> Bundle | None:
        """What is to be sent now; waits for it. ``None`` where nothing will come any more."""
        while True:
            if self._room and self._waiting:
                self._room = False
                self._ready.extendleft(reversed(self._waiting))
                self._waiting = []
            if self._ready:
                return self._ready.popleft()
            left = None
            if self._filling:
                oldest = next(iter(self._filling.values())).started
                left = oldest + self._linger - self._clock.monotonic()
                if left <= 0 or self._hurry or self._closing or self._filling_bytes >= self._batch_bytes:
                    self._seal()
                    continue
            elif self._closing and not self._waiting:
                return None
            self._hurry = False
            self._state = _IDLE if left is None else _GATHERING
            alone = bool(self._waiting) and not self._watched
            if alone:
                left = _LOOK_AGAIN if left is None else min(left, _LOOK_AGAIN)
            self._work.wait(left)
            self._room |= alone
            self._state = _AWAKE

    def _send(self, bundle: Bundle) -> None:
        held = {id(parcel.lane) for other in self._waiting for parcel in other.parcels}
        behind = [parcel for parcel in bundle.parcels if id(parcel.lane) in held]
        if behind:
            # Nothing overtakes what waits for room in its topic.
            if bundle.together:
                self._hold(bundle)
                return
            self._hold(Bundle(behind))
            bundle = Bundle([parcel for parcel in bundle.parcels if id(parcel.lane) not in held])
        try:
            left = self._sender.send(bundle)
        except BaseException as error:  # noqa: BLE001 - whoever sent it hears of it; the thread goes on for others
            self._sender.fail(bundle, error)
            left = None
        if left is not None:
            self._hold(left)
            self._watch_for_room()
        if bundle.together:
            with self._lock:
                self._change.notify_all()

    def _hold(self, bundle: Bundle) -> None:
        """Keeps it until there may be room."""
        with self._lock:
            self._waiting.append(bundle)

    def _watch_for_room(self) -> None:
        with self._lock:
            if self._watched:
                return
            self._watched = True
        try:
            threading.Thread(target=self._watch, name="mamba-stream room", daemon=True).start()
        except RuntimeError:
            # The program ends: it is looked for room now and then.
            with self._lock:
                self._watched = False

    def _watch(self) -> None:
        """Tells the thread of every commit, as long as something waits for room."""
        lsn = -1
        while True:
            before, over = lsn, False
            try:
                # At first it tells at once: what came since the thread looked is not missed.
                lsn = self.log.wait(lsn, _LONG_WAIT)
            except MambaStreamError:
                # The thread meets the same error, and says so to whoever waits.
                over = True
            with self._lock:
                if over or not self._waiting:
                    self._watched = False
                if over or lsn > before:
                    self._room = True
                    if self._state:
                        self._state = _AWAKE
                        self._work.notify()
                if not self._watched:
                    return

    def _settle(self, parcel: Parcel, piece: Piece) -> None:
        with self._lock:
            before = parcel.settled
            ready = parcel.settle(piece)
            rows = piece.stop - piece.start
            size = parcel.size * piece.stop // parcel.count - parcel.size * before // parcel.count
            self._bytes -= size
            if piece.error is None:
                self.sent += rows
                self.sent_bytes += size
            else:
                self.failed += rows
                self._failures.append(piece)
                self._trouble = True
                if isinstance(piece.error, NotFound) and self.lanes.get(parcel.lane.name) is parcel.lane:
                    # The next send looks again whether there is one.
                    del self.lanes[parcel.lane.name]
            if parcel.settled == parcel.count:
                self._unsettled.pop(parcel, None)
            if not self._unsettled:
                # Who was interrupted may have counted what it did not put in.
                self._bytes = 0
            self._change.notify_all()
        for callback in ready:
            callback()

    def _end(self) -> None:
        with self._lock:
            first = self in _open
            _open.discard(self)
        self._forget_end()
        if first:
            self._sender.forget()
        if first and self._member is not None:
            self._member.close()
        if first and self._owned:
            self.log.close()

    # --- forks ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises where it takes nothing, or where something failed that nobody has heard of."""
        self._check_forked()
        if self._trouble:
            with self._lock:
                self._raise()

    def _check_forked(self) -> None:
        if self._forked:
            raise ForkedProcess(
                "this process was forked from one that had this sender, whose thread and messages stayed there: "
                "make a sender of its own in each process, started with multiprocessing's 'spawn' method"
            )

    def forked(self) -> None:
        """This is a child now: locks may be held by threads that are not here."""
        self._forked = self._trouble = True
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._change = threading.Condition(self._lock)


def _finish() -> None:
    """Sends what is left when the program ends; there is nobody but its user who could hear of an error."""
    for outbox in list(_open):
        try:
            outbox.finish()
        except MambaStreamError as error:
            what = "; ".join([str(error), *getattr(error, "__notes__", ())])
            sys.stderr.write(f"mamba-stream: {type(error).__name__}: {what}\n")


def _after_fork() -> None:
    for outbox in list(_open):
        outbox.forked()
    _open.clear()


atexit.register(_finish)
os.register_at_fork(after_in_child=_after_fork)
