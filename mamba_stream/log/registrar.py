"""Who writes the index: for this process itself, what a commit changes there, and which files it goes to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.core.clock import Clock
from mamba_stream.core.durability import strictest
from mamba_stream.errors import DiskFull, MambaStreamError
from mamba_stream.log import ballast, files, growing, ledger, maintaining, sealing
from mamba_stream.log.files import CommitFile
from mamba_stream.log.flushing import Flushing
from mamba_stream.log.index import Index
from mamba_stream.log.recovery import clear, recover
from mamba_stream.log.room import Room
from mamba_stream.log.upkeep import Maintained

if TYPE_CHECKING:
    from mamba_stream.log.store import Store
    from mamba_stream.log.views import Draft


class Registrar(Protocol):
    """What a committer asks of whoever writes the index."""

    def apply(self, changes: Sequence[ChangeSet], now: int) -> list[Applied | MambaStreamError]:
        """Applies change sets in one transaction, as durably as the strictest of them asks for; what became of each.

        The bytes of their appends are on the disk already where one of them asks for ``commit``.

        Raises:
            NotCommitted: None of them happened.
            CommitUnknown: Nobody can tell.
        """
        ...

    def open_file(self, internal: bool) -> CommitFile:
        """A commit file for this process alone."""
        ...

    def close_file(self, number: int) -> None:
        """A commit file gets nothing more: it can be sealed."""
        ...

    def tidy(self) -> int:
        """Removes files that no row can lie in any more; says how many."""
        ...

    def settle(self) -> None:
        """Waits for a commit in flight, and makes visible the last one of a process that was killed in it."""
        ...

    def flush(self) -> None:
        """Has everything on the disk that was committed."""
        ...

    def seal(self, store: Store) -> int:
        """Repacks files that no living process commits to; says how many."""
        ...

    def maintain(self, store: Store, budget: int | None) -> Maintained:
        """Does what the log needs, within about so many bytes."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""
        ...

    def check(self) -> None:
        """Raises where nothing can be committed any more."""
        ...

    def fail(self, reason: Exception) -> None:
        """From now on every use raises this."""
        ...


_RECLAIM_SECONDS: Final = 30.0


class IndexRegistrar:
    """Writes the index that this process has open."""

    def __init__(self, index: Index, directory: Path, clock: Clock, room: Room) -> None:
        self._index = index
        self._files = directory
        self._room = room
        self._clock = clock
        self._reclaimed = clock.monotonic()
        self._flushing = Flushing(index.flush)

    def apply(self, changes: Sequence[ChangeSet], now: int) -> list[Applied | MambaStreamError]:
        try:
            return self._applied(changes, now)
        except DiskFull as error:
            deleting = [growing.deletes(value) for value in changes]
            if not any(deleting) or not ballast.give_up(self._room.log):
                raise
            # What the ballast gave is for them alone.
            answers = iter(self._applied([v for v, mine in zip(changes, deleting, strict=True) if mine], now))
            return [next(answers) if mine else error for mine in deleting]

    def _applied(self, changes: Sequence[ChangeSet], now: int) -> list[Applied | MambaStreamError]:
        answers: list[Applied | MambaStreamError] = []
        tight = self._room.tight()

        def change(draft: Draft) -> None:
            answers.clear()
            book = ledger.Ledger(draft, now)
            for value in changes:
                try:
                    if tight and (what := growing.growth(book, value)) is not None:
                        raise self._room.growth(what)
                    answers.append(ledger.apply(book, value))
                except MambaStreamError as error:
                    answers.append(error)
            book.flush()

        durability = strictest([value.durability for value in changes])
        if durability == "commit":
            self._index.update(change)
        else:
            files = {append.file for value in changes for append in value.appends}
            self._index.update(change, durable=False, unsynced=files)
            if durability == "interval":
                self._flushing.ask()
        if self._clock.monotonic() - self._reclaimed >= _RECLAIM_SECONDS:
            # What a reader saw that was killed while it looked is kept on disk until somebody does this.
            self._index.reclaim()
            self._reclaimed = self._clock.monotonic()
        return answers

    def open_file(self, internal: bool) -> CommitFile:
        return files.open_commit_file(self._index, self._files, self._clock.now(), internal)

    def close_file(self, number: int) -> None:
        now = self._clock.now()

        def close(draft: Draft) -> None:
            book = ledger.Ledger(draft, now)
            row = book.file(number)
            if row is not None and row.state == "open":
                book.set_file(number, msgspec.structs.replace(row, state="closed", since=now))
            book.flush()

        # Upkeep begins with that.
        ballast.relieved(self._room.log, lambda: self._index.update(close))

    def tidy(self) -> int:
        clear(self._index, self._files, self._clock)
        return recover(self._index, self._files, self._clock)

    def settle(self) -> None:
        self._index.settle()

    def seal(self, store: Store) -> int:
        return sealing.seal(store)

    def maintain(self, store: Store, budget: int | None) -> Maintained:
        return maintaining.maintain(store, budget)

    def flush(self) -> None:
        self._index.flush()

    def close(self) -> None:
        """Has all of it on the disk. The index is closed by whoever opened it."""
        self._flushing.close()
        # One that failed has nothing to say any more.
        with contextlib.suppress(MambaStreamError):
            self._index.flush()

    def check(self) -> None:
        self._index.check()

    def fail(self, reason: Exception) -> None:
        self._index.fail(reason)
