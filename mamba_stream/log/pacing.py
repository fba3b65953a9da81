"""Upkeep gives way to those who commit: it works a moment and rests for several, as long as somebody does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from mamba_stream.core.clock import Clock

SHARE: Final = 0.2
"""Of the time that upkeep works while others commit."""
_MOMENT: Final = 0.003
"""Seconds of work between two rests: so long somebody who commits may have to wait for the interpreter."""
_LONGEST: Final = 0.25

Step = Callable[[], None]
"""Called between two pieces of work."""


def at_once() -> None:
    """The step of whoever waits for no one."""


class Pace:
    """A step that rests while others commit.

    Attributes:
        rested: Seconds that it did.
    """

    def __init__(self, lsn: Callable[[], int], clock: Clock) -> None:
        """Nothing was done yet.

        Args:
            lsn: Gives the number of the last commit.
            clock: Tells how long work took.
        """
        self.rested = 0.0
        self._lsn = lsn
        self._clock = clock
        self._seen = lsn()
        self._since = clock.monotonic()
        self._hurried = threading.Event()

    def __call__(self) -> None:
        worked = self._clock.monotonic() - self._since
        if worked < _MOMENT:
            return
        seen, self._seen = self._seen, self._lsn()
        if self._seen != seen:
            pause = min(_LONGEST, worked * (1 / SHARE - 1))
            if not self._hurried.wait(pause):
                self.rested += pause
        self._since = self._clock.monotonic()

    @property
    def hurried(self) -> bool:
        """Whether somebody waits for the end."""
        return self._hurried.is_set()

    def hurry(self) -> None:
        """No more rests: somebody waits for the end."""
        self._hurried.set()
