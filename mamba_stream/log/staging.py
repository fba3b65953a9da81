"""A commit whose rows come in pieces: each is written as it comes, and all exist once the change set is applied.

The pieces lie in commit files of their own. Where the commit is given up, or whoever writes it dies, no entry names
anything in them, and they go as files go that nobody writes to any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from mamba_stream.core.changes import Append, Applied, ChangeSet
from mamba_stream.core.clock import Clock
from mamba_stream.errors import CommitUnknown, InvalidInput, MambaStreamError
from mamba_stream.log.committer import Batch
from mamba_stream.log.files import CommitFile
from mamba_stream.log.registrar import Registrar
from mamba_stream.log.room import Room

MOST_APPENDS: Final = 1 << 18
"""Of one commit: the index takes them in one transaction, which holds them in memory."""
_SYNCED_BYTES: Final = 32 << 20
"""After so many they are synced, so that the last sync is no longer than any other."""


class StagedRows:
    """The rows of one commit, on disk piece by piece. It belongs to one thread, and is closed in the end."""

    def __init__(
        self, registrar: Registrar, clock: Clock, commit: Callable[[ChangeSet], Applied], room: Room
    ) -> None:
        self._registrar = registrar
        self._room = room
        self._clock = clock
        self._commit = commit
        self._appends: list[Append] = []
        self._files: list[tuple[CommitFile, int]] = []
        """Each with where it ended when it was opened."""
        self._open: dict[bool, CommitFile] = {}
        self._unsynced: dict[bool, int] = {}
        self._unnamed = True
        """Whether certainly no entry names anything of it."""

    def write(self, batches: Sequence[Batch]) -> None:
        """Writes batches; nobody sees them yet.

        Raises:
            InvalidInput: They are more than one commit takes.
            NotCommitted: There is no room for them.
        """
        self._registrar.check()
        if len(self._appends) + len(batches) > MOST_APPENDS:
            raise InvalidInput(
                f"a commit of more than {MOST_APPENDS:,} batches: send more rows at once, or commit in several"
            )
        for internal in (False, True):
            mine = [batch for batch in batches if batch.internal is internal]
            if mine:
                self._write(mine, internal)

    def commit(self, change: ChangeSet) -> Applied:
        """Commits the change set with all that was written appended, in that order; raises if it did not happen."""
        for internal in list(self._unsynced):
            self._sync(internal)
        now = self._clock.now()
        appends = tuple([msgspec.structs.replace(append, append_time=now) for append in self._appends])
        self._unnamed = False
        try:
            answer = self._commit(msgspec.structs.replace(change, appends=appends))
        except MambaStreamError as error:
            # Only where it certainly did not happen: published bytes must never be taken back.
            self._unnamed = not isinstance(error, CommitUnknown)
            raise
        self._unnamed = answer.repeated
        return answer

    def close(self) -> None:
        """Lets go of the files. What was not committed is gone."""
        files, self._files = self._files, []
        self._open.clear()
        for file, begin in files:
            if self._unnamed:
                file.rewind(begin)
            try:
                # Where that fails, they go when the next process looks after what nobody writes to.
                with contextlib.suppress(MambaStreamError):
                    self._registrar.close_file(file.number)
            finally:
                file.close()

    def _write(self, batches: Sequence[Batch], internal: bool) -> None:
        size = sum([batch.length for batch in batches])
        if (refused := self._room.refusal(size)) is not None:
            raise refused
        file = self._file(internal)
        position = file.end
        file.write([part for batch in batches for part in batch.message.parts()], size, synced=False)
        self._unsynced[internal] = self._unsynced.get(internal, 0) + file.end - position
        if file.full or self._unsynced[internal] >= _SYNCED_BYTES:
            self._sync(internal)
        for batch in batches:
            self._appends.append(batch.placed(file.number, position, append_time=0))
            position += batch.length

    def _sync(self, internal: bool) -> None:
        self._open[internal].sync()
        del self._unsynced[internal]

    def _file(self, internal: bool) -> CommitFile:
        file = self._open.get(internal)
        if file is None or file.full:
            file = self._open[internal] = self._registrar.open_file(internal)
            self._files.append((file, file.end))
        return file
