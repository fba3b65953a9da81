"""What is left on a log's disk, and what may still be committed with that.

Behind the soft mark no rows are taken: what is left is for deleting, offsets, small records, and upkeep's copies.
Behind the hard one nothing is taken that makes the index larger. While rows are taken the disk is looked at once a
second, and when as many bytes of them came as were left, so that it costs a commit next to nothing; while they are not,
at each attempt.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mamba_stream.core.clock import Clock
from mamba_stream.core.diskmarks import DiskMarks
from mamba_stream.core.sizes import Share, in_words
from mamba_stream.errors import DiskNearlyFull
from mamba_stream.log import ballast

State = Literal["ample", "soft", "hard"]
"""What is reached: nothing, the soft mark, or the hard one too."""

_EVERY: Final = 1.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as it was when it was looked at, in bytes."""

    size: int
    free: int


def look(path: Path) -> Disk | None:
    """What the system says of the disk there, as it is for whoever is not root; ``None`` where it does not say."""
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    size = status.f_blocks - status.f_bfree + status.f_bavail
    return Disk(size * status.f_frsize, status.f_bavail * status.f_frsize) if status.f_blocks else None


class Room:
    """The room of one log, for all threads of a process."""

    def __init__(self, log: Path, marks: DiskMarks, clock: Clock) -> None:
        """Nothing is looked at yet.

        Args:
            log: Its directory.
            marks: Its disk's marks.
            clock: Says when it is time to look again.
        """
        self.log = log
        self.marks = marks
        self._clock = clock
        self._disk: Disk | None = None
        self._state: State = "ample"
        self._until = -math.inf
        self._left = math.inf
        """How many bytes of rows may come before it is time to look again."""
        self.narrowed: Callable[[], None] = lambda: None
        """Is called when a mark was reached that was not before."""
        self.index_bytes: Callable[[], int] | None = None
        """Where ballast is to be kept: gives how large the index is that it has to be enough for."""

    def refusal(self, size: int) -> DiskNearlyFull | None:
        """Why rows of so many bytes are not taken; ``None`` where they are, which is for good."""
        self._left -= size
        if self._left >= 0 and self._clock.monotonic() < self._until:
            return None
        self.look()
        self._left -= size
        if self._left >= 0:
            return None
        # They were not written.
        self._left += size
        return self._refused("rows", self._first, size)

    def tight(self) -> bool:
        """Whether the hard mark is reached."""
        if self._state == "hard" or self._clock.monotonic() >= self._until:
            self.look()
        return self._state == "hard"

    def growth(self, what: str) -> DiskNearlyFull:
        """Why that is not taken, behind the hard mark."""
        return self._refused(what, self.marks.hard, 0)

    def within(self, budget: int | None) -> int | None:
        """What of a budget of bytes, ``None`` for any number, may be written before the hard mark is reached."""
        disk = self.look()
        if disk is None or self.marks.hard is None:
            return budget
        left = max(0, disk.free - self.marks.kept(self.marks.hard, disk.size))
        return left if budget is None else min(budget, left)

    def look(self) -> Disk | None:
        """Looks at the disk now."""
        self._until = self._clock.monotonic() + _EVERY
        disk = look(self.log)
        if disk is None:
            self._left = math.inf
            self._state = "ample"
            return None
        first, self._disk = self._disk is None, disk
        soft, hard = (self.marks.kept(mark, disk.size) for mark in (self.marks.soft, self.marks.hard))
        kept = max(soft, hard)
        self._left = disk.free - kept if kept else math.inf
        before = self._state
        self._state = "hard" if disk.free < hard else "soft" if disk.free < kept else "ample"
        if self._state != before:
            # What is so from the beginning whoever opens the log is told when it matters.
            self._turned(before, None if first else disk)
        if self._state == "ample" and self.index_bytes is not None:
            self._left -= self._keep_ballast(self.index_bytes(), disk, kept)
        return disk

    @property
    def state(self) -> State:
        """What is reached, as of the last look."""
        return self._state

    @property
    def _first(self) -> Share | None:
        """The mark from which on no rows are taken."""
        return self.marks.hard if self.marks.soft is None else self.marks.soft

    def _turned(self, before: State, disk: Disk | None) -> None:
        if self._state == "ample":
            return
        if disk is not None:
            _logger.warning(
                "%s: %s of %s are free on the disk: its %s mark is reached",
                self.log,
                in_words(disk.free),
                in_words(disk.size),
                self._state,
            )
        if self._state == "hard" or before == "ample":
            self.narrowed()

    def _keep_ballast(self, index: int, disk: Disk, kept: int) -> int:
        """Sees to it that there is ballast; how many bytes it took for that."""
        wanted = int(self.marks.ballast)
        if wanted < 0:
            wanted = ballast.of_use(self.log, index, disk.size)
        elif wanted == 0:
            ballast.give_up(self.log)
        more = wanted - ballast.size(self.log)
        if more <= 0 or disk.free - more <= kept:
            return 0
        ballast.make(self.log, wanted)
        return more

    def _refused(self, what: str, mark: Share | None, size: int) -> DiskNearlyFull:
        disk = self._disk
        assert disk is not None  # A mark is reached where it was looked at.
        more = f", and {in_words(size)} are to come" if size else ""
        name = "soft" if mark is self.marks.soft else "hard"
        return DiskNearlyFull(
            f"{self.log}: {in_words(disk.free)} of {in_words(disk.size)} are free on the disk{more}; behind its {name} "
            f"mark, {in_words(self.marks.kept(mark, disk.size))}, it takes no {what}; nothing was committed. Free some "
            "space: outside of the log, or by a shorter retention, topic.trim(...), log.delete_topic(...) and "
            "mamba-stream maintain, which go on, as reading and offsets do"
        )
