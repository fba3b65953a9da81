"""Names of producers that clients are done with: they go with the next commit, and so cost none of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from mamba_stream.core.changes import ChangeSet, Forget

_AT_ONCE: Final = 256
"""At most so many go with one commit."""


class Forgetting:
    """What is to be forgotten; any thread may add to it, and take from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Forget] = []

    def add(self, forgets: Sequence[Forget]) -> None:
        """Notes names that nobody will use again."""
        with self._lock:
            self._waiting.extend(forgets)

    @contextmanager
    def along(self, change: ChangeSet) -> Iterator[ChangeSet]:
        """The change set with some of it: what could not be committed waits on."""
        taken = self._take()
        if not taken:
            yield change
            return
        try:
            yield msgspec.structs.replace(change, forgets=change.forgets + tuple(taken))
        except BaseException:
            self.add(taken)
            raise

    def rest(self) -> Iterator[ChangeSet]:
        """Change sets of all that waits, for when no commit will come."""
        while taken := self._take():
            yield ChangeSet(forgets=tuple(taken))

    def _take(self) -> list[Forget]:
        with self._lock:
            taken, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            return taken
