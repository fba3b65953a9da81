"""What the commits of a process came to, counted."""

from __future__ import annotations

from dataclasses import dataclass

from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.core.histogram import Durations
from mamba_stream.errors import DiskNearlyFull, TopicFull


@dataclass(frozen=True)
class CommitCounts:
    """What the commits of this process came to. Times in seconds."""

    commits: int = 0
    """Synced transactions; each carried one change set or more."""
    changes: int = 0
    refused: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    times: tuple[int, ...] = ()
    """How many took how long, by the buckets of :mod:`mamba_stream.core.histogram`."""
    disk_refused: int = 0
    """Change sets that were refused for a mark of the disk."""
    quota_refused: int = 0
    """Change sets that were refused for the quota of a topic."""


class CommitTally:
    """Counts; it belongs to whoever leads."""

    def __init__(self) -> None:
        self._commits = self._changes = self._refused = self._rows = self._bytes = 0
        self._disk = self._quota = 0
        self._seconds = 0.0
        self._times = Durations()

    @property
    def counts(self) -> CommitCounts:
        """What it came to so far."""
        return CommitCounts(
            self._commits,
            self._changes,
            self._refused,
            self._rows,
            self._bytes,
            self._seconds,
            self._times.counts,
            self._disk,
            self._quota,
        )

    def add(self, change: ChangeSet, outcome: Applied | BaseException | None, rows: int, size: int) -> bool:
        """Counts a change set with what was written for it; whether it was applied now."""
        if not isinstance(outcome, Applied):
            self._refused += 1
            self._disk += isinstance(outcome, DiskNearlyFull)
            self._quota += isinstance(outcome, TopicFull)
            return False
        if outcome.repeated:
            return False
        self._rows += rows
        self._bytes += size
        # What was written before.
        for append in change.appends:
            self._rows += append.rows
            self._bytes += append.length
        self._changes += 1
        return True

    def took(self, seconds: float, *, committed: bool) -> None:
        """Counts the group that they were."""
        self._commits += committed
        self._seconds += seconds
        self._times.add(seconds)
