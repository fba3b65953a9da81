"""Hands out the messages of shared groups, and keeps their leases while they are in hand: the live half of a group.

A thread of its own writes acknowledgements, a few milliseconds' worth at a time, renews the leases of messages that
wait in this process, and gives a message back whose handler takes longer than the visibility. Where the disk is full
it tries again and again; until there is room leases may end, and their messages come again.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from contextlib import suppress

from mamba_stream.core.clock import Clock
from mamba_stream.errors import DiskFull, StaleLease
from mamba_stream.messaging.lease import Lease
from mamba_stream.messaging.message import Message
from mamba_stream.messaging.shared import SharedGroup

_LINGER = 0.005
"""Seconds that acknowledgements wait for company."""
_PULSE = 0.5
_LEAST, _MOST = 4, 4_096
_MOST_BYTES = 64 << 20
"""Bytes of the messages that are here; where one is larger, that one."""
_QUICK, _SLOW = 50_000, 500_000
"""Microseconds: messages that last less are taken in larger numbers the next time, those that last more in fewer."""
_OFTEN = 1_000_000
"""Microseconds: where messages came within these, the next are expected as soon."""
_logger = logging.getLogger("mamba_stream.messaging")


class Courier:
    """Messages in the hands of one process.

    One thread fetches; any thread may ask for the next message, finish one, and settle.

    Args:
        clock: The clock.
        visibility: Microseconds that a message may be in hand.
        slots: How many may be in hand at once.
    """

    def __init__(self, clock: Clock, visibility: int, slots: int = 1) -> None:
        self._clock = clock
        self._visibility = visibility
        self._slots = slots
        self._groups: list[SharedGroup] = []
        self._turn = 0
        self._lock = threading.Lock()
        self._queue: deque[tuple[Lease, Message]] = deque()
        self._inhand: dict[Message, tuple[Lease, int]] = {}
        self._busy: dict[tuple[int, int], deque[tuple[Lease, Message]]] = {}
        """The key groups of which a message is in hand, and what waits behind it."""
        self._leases: list[tuple[SharedGroup, Lease]] = []
        self._appetite = _LEAST
        self._taken_at = 0
        self._found_at = 0
        self._hung = False
        self._full = False
        self._error: BaseException | None = None
        self._bell = threading.Event()
        self._over = threading.Event()
        self._keeper: threading.Thread | None = None

    def add(self, group: SharedGroup) -> None:
        """From now on messages of this group are fetched too."""
        self._groups.append(group)

    def remove(self, group: SharedGroup) -> None:
        """From now on no messages of this group are fetched; what is in hand of it is settled."""
        self._groups.remove(group)

    @property
    def empty(self) -> bool:
        """Whether no message waits here to be handed out."""
        with self._lock:
            return not self._queue and not any(self._busy.values())

    @property
    def inhand(self) -> int:
        """How many messages are handed out and not finished."""
        return len(self._inhand)

    def check(self) -> None:
        """Raises what stopped the thread that keeps the leases, once: whoever goes on has them kept again."""
        error, self._error = self._error, None
        if error is not None:
            self._keeper = None
            raise error
        if self._keeper is None and self._leases:
            self._keep_leases()

    def fetch(self) -> bool:
        """Takes more where few are left here; whether there were any."""
        if len(self._queue) > self._appetite // 2 or not self._groups or self._hung:
            return False
        space = self._space()
        if space <= 0:
            return False
        self._adapt()
        found = False
        room = max(self._appetite, self._slots)
        for _ in range(len(self._groups)):
            group = self._groups[self._turn % len(self._groups)]
            self._turn += 1
            for lease in group.take(room, space):
                found = True
                room -= len(lease.left)
                space -= lease.size
                with self._lock:
                    self._leases.append((group, lease))
                    self._queue.extend((lease, message) for message in lease.messages())
                if self._keeper is None:
                    self._keep_leases()
            if room <= 0 or space <= 0:
                break
        self._taken_at = self._clock.now() if found else 0
        self._found_at = self._taken_at or self._found_at
        return found

    def wait(self, lsn: int, timeout: float) -> bool:
        """Waits for a commit beyond ``lsn``, or so many seconds, if messages have come of late; whether it did.

        What is to be fetched then is here already. Over a network that takes a thread of the server's, and so is not
        for those who wait long.
        """
        often = 0 <= self._clock.now() - self._found_at < _OFTEN
        if not often or len(self._groups) != 1 or (space := self._space()) <= 0:
            return False
        self._groups[0].wait(lsn, timeout, max(self._appetite, self._slots), space)
        return True

    def _space(self) -> int:
        """How many bytes of messages there is room for."""
        with self._lock:
            held: int = sum(lease.size for _, lease in self._leases if lease.left)
        return _MOST_BYTES - held

    def next(self) -> Message | None:
        """A message whose key is free, now in hand; ``None`` where there is none."""
        with self._lock:
            while self._queue:
                lease, message = self._queue.popleft()
                if message.offset not in lease.left or lease.stale:
                    # Given back meanwhile, behind a retry of its key or as its lease ended.
                    continue
                if lease.keyed and (key := _key(lease, message))[1] >= 0:
                    if key in self._busy:
                        self._busy[key].append((lease, message))
                        continue
                    self._busy[key] = deque()
                self._inhand[message] = (lease, self._clock.now())
                return message
        return None

    def finished(self, message: Message) -> None:
        """It is no longer in hand; the next of its key may be."""
        with self._lock:
            lease, _ = self._inhand.pop(message, (None, 0))
            self._hung = False
            if lease is not None and lease.keyed:
                behind = self._busy.pop(_key(lease, message), None)
                if behind:
                    self._queue.extendleft(reversed(behind))
        self._bell.set()

    def returned(self, message: Message) -> None:
        """It is no longer in hand and not done, for no fault of its own: this delivery does not count as one."""
        with self._lock:
            lease, _ = self._inhand.get(message, (None, 0))
        if lease is not None:
            self._give_back(lease, message, delivered=False)
        self.finished(message)

    def abandon(self) -> None:
        """Gives back what is in hand: nobody handles it, or has begun to."""
        for message in list(self._inhand):
            self.returned(message)

    def settle(self) -> None:
        """Writes what was settled so far."""
        with self._lock:
            leases = list(self._leases)
        changed: defaultdict[SharedGroup, list[Lease]] = defaultdict(list)
        for group, lease in leases:
            if lease.changed:
                changed[group].append(lease)
        failed: Exception | None = None
        for group, its in changed.items():
            try:
                group.settle(its)
            except DiskFull:
                raise
            except Exception as error:  # noqa: BLE001 - raised when the others are written
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Gives back what was not handed out, writes what was settled, and leaves what is in hand to its time."""
        self._over.set()
        self._bell.set()
        if self._keeper is not None:
            self._keeper.join()
        with self._lock:
            waiting = [*self._queue, *(each for behind in self._busy.values() for each in behind)]
            self._queue.clear()
            self._busy.clear()
        for lease, message in waiting:
            self._give_back(lease, message, delivered=False)
        self.settle()

    def _adapt(self) -> None:
        if not self._taken_at:
            # Nothing was there the last time.
            return
        lasted = self._clock.now() - self._taken_at
        if lasted > _SLOW:
            self._appetite = max(self._appetite // 2, _LEAST)
        elif lasted < _QUICK and not self._queue:
            self._appetite = min(self._appetite * 4, _MOST)

    def _keep_leases(self) -> None:
        self._keeper = threading.Thread(target=self._keep, name="mamba-leases", daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        try:
            while not self._over.is_set():
                if self._bell.wait(min(_PULSE, max(_LINGER, self._visibility / 4e6))):
                    # Others are about to be finished too.
                    self._over.wait(_LINGER)
                    self._bell.clear()
                self._give_up_waiting()
                self._renew()
                self._write()
                with self._lock:
                    self._leases = [(group, lease) for group, lease in self._leases if not lease.over]
        except Exception as error:  # noqa: BLE001 - whoever asks for a message next raises it
            self._error = error

    def _write(self) -> None:
        try:
            self.settle()
            self._full = False
        except DiskFull as error:
            if not self._full:
                self._full = True
                _logger.warning("what became of messages cannot be written before there is room: %s", error)

    def _give_up_waiting(self) -> None:
        """Gives back what is in hand too long; and if everything is, what waits behind it."""
        now = self._clock.now()
        with self._lock:
            late = [
                (lease, message)
                for message, (lease, since) in self._inhand.items()
                if now > max(since + self._visibility, lease.until.get(message.offset, 0))
            ]
            waiting: list[tuple[Lease, Message]] = []
            for lease, message in late:
                behind = self._busy.get(_key(lease, message))
                if behind:
                    waiting += behind
                    behind.clear()
            self._hung = len(late) >= self._slots
            if self._hung:
                waiting += self._queue
                self._queue.clear()
        for lease, message in late:
            self._give_back(lease, message, delivered=True)
        for lease, message in waiting:
            self._give_back(lease, message, delivered=False)

    def _renew(self) -> None:
        now = self._clock.now()
        with self._lock:
            leases = list(self._leases)
        for _, lease in leases:
            lease.renew(now, self._visibility)

    @staticmethod
    def _give_back(lease: Lease, message: Message, *, delivered: bool) -> None:
        # Where it was settled, or somebody has it already, nothing is to be given.
        with suppress(StaleLease):
            lease.release(message.offset, delivered=delivered)


def _key(lease: Lease, message: Message) -> tuple[int, int]:
    """The key group of a message, and whose it is: -1 where it has none."""
    return id(lease.keeper), lease.group_of(message.offset)
