"""Upkeep in the background: a thread that does what the log needs now and then, a little at a time."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from mamba_stream.core.clock import Clock
from mamba_stream.errors import LogClosed, MambaStreamError
from mamba_stream.log import maintaining
from mamba_stream.log.pacing import Pace
from mamba_stream.log.registrar import IndexRegistrar
from mamba_stream.log.scrubbing import scrub
from mamba_stream.log.sealing import YOUNG
from mamba_stream.log.upkeep import Maintained

if TYPE_CHECKING:
    from mamba_stream.log.store import Store

EVERY: Final = 60.0
"""Seconds between two rounds, where there is nothing left to do."""
BUDGET: Final = 64 << 20
"""Bytes that a round writes anew at most."""
_SHARE: Final = 0.25
"""Of the time that a round with something left to do may take: appends come first."""
_LEAST_PAUSE: Final = 0.2
_SHORT_OF_ROOM: Final = 5.0
"""Seconds between rounds while the disk is nearly full: what is deleted gives its room a minute later."""

SCRUBBED: Final = 2 << 20
"""Bytes a second that are looked at for damage."""
_LOOKED_AT: Final = 16 << 20
"""So many at a time: who ends upkeep waits for them."""
_REST: Final = 3600.0
"""Seconds between two rounds through all of the log."""

_logger = logging.getLogger(__name__)


class Caretaker:
    """Does upkeep as long as somebody wants it."""

    def __init__(
        self, maintain: Callable[[int, Pace], Maintained], lsn: Callable[[], int], clock: Clock, every: float
    ) -> None:
        """Nothing is done yet.

        Args:
            maintain: Does what there is to do, within so many bytes, at this pace.
            lsn: Gives the number of the last commit.
            clock: Tells how long a round took.
            every: Seconds between rounds.
        """
        self._maintain = maintain
        self._lsn = lsn
        self._pace: Pace | None = None
        self._clock = clock
        self._every = every
        self._over = False
        self._called = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mamba-stream upkeep", daemon=True)

    def start(self) -> None:
        """Begins; the first round comes after a pause, so that whoever is there for a moment only does none."""
        self._thread.start()

    def hurry(self) -> None:
        """Has the next round begin at once."""
        self._called.set()

    def stop(self) -> None:
        """Ends it, once the round is over that is under way."""
        self._over = True
        self._called.set()
        if (pace := self._pace) is not None:
            pace.hurry()
        self._thread.join()

    def _work(self) -> None:
        pause = self._every
        while True:
            self._called.wait(pause)
            if self._over:
                return
            self._called.clear()
            began = self._clock.monotonic()
            pause = self._every
            try:
                self._pace = Pace(self._lsn, self._clock)
                if self._over:
                    return
                found = self._maintain(BUDGET, self._pace)
            except LogClosed:
                return
            except MambaStreamError as error:
                # A full disk, above all: retention may make room the next time.
                _logger.warning("upkeep: %s", error)
                continue
            if found.short_of_room:
                pause = min(self._every, _SHORT_OF_ROOM)
            elif not found.done and found.busy is None:
                took = self._clock.monotonic() - began - self._pace.rested
                pause = min(self._every, max(_LEAST_PAUSE, took * (1 / _SHARE - 1)))


class Tending:
    """Upkeep of a log in the background, as long as somebody in this process wants it: by one thread for all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._wanted = 0
        self._caretaker: Caretaker | None = None

    @contextlib.contextmanager
    def wanted(self, every: float, scrub: int) -> Iterator[None]:
        """Has it done meanwhile.

        Args:
            every: Seconds between rounds.
            scrub: How many bytes are looked at for damage, a second.
        """
        with self._lock:
            self._wanted += 1
            if self._caretaker is None and isinstance(self._store.registrar, IndexRegistrar):
                self._caretaker = self._begun(every, scrub)
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= 1
                over = None
                if not self._wanted:
                    over, self._caretaker = self._caretaker, None
            if over is not None:
                over.stop()

    def _begun(self, every: float, scrub: int) -> Caretaker:
        store, looking = self._store, _Looking(self._store, scrub)

        def tend(budget: int, pace: Pace) -> Maintained:
            store.committer.roll(older_than=YOUNG / 1e6)
            found = maintaining.maintain(store, budget, patient=True, step=pace)
            looking.look(pace)
            return found

        caretaker = Caretaker(tend, store.lsn, store.clock, every)
        store.room.narrowed = caretaker.hurry
        caretaker.start()
        if store.room.state != "ample":
            caretaker.hurry()
        return caretaker


class _Looking:
    """Scrubbing, a little in each round."""

    def __init__(self, store: Store, rate: int) -> None:
        self._store = store
        self._rate = rate
        self._last = store.clock.monotonic()

    def look(self, pace: Pace) -> None:
        """Looks at as much as there was time for since the last round; what it finds is said."""
        now = self._store.clock.monotonic()
        left = int(self._rate * min(now - self._last, EVERY))
        while left > 0 and not pace.hurried:
            self._last = now
            found = scrub(self._store, min(left, _LOOKED_AT), pace)
            for finding in found.findings:
                where = f"topic {finding.topic!r}, partition {finding.partition}, offset {finding.offset}"
                _logger.error(
                    "stored bytes are damaged: %s: %s. Run: mamba-stream doctor", where, finding.what
                )
            if found.busy is not None or found.done:
                # The next round of the whole log can wait.
                self._last = now + _REST
                return
            left -= found.bytes
