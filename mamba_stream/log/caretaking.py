"""Upkeep in the background: a thread that does what the log needs now and then, a little at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.errors import LogClosed, MambaStreamError
from mamba_stream.log.pacing import Pace
from mamba_stream.log.upkeep import Maintained

EVERY: Final = 60.0
"""Seconds between two rounds, where there is nothing left to do."""
BUDGET: Final = 64 << 20
"""Bytes that a round writes anew at most."""
_SHARE: Final = 0.25
"""Of the time that a round with something left to do may take: appends come first."""
_LEAST_PAUSE: Final = 0.2
_SHORT_OF_ROOM: Final = 5.0
"""Seconds between rounds while the disk is nearly full: what is deleted gives its room a minute later."""

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
