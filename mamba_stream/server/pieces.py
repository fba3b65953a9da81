"""Commits that come in pieces: rows are written as they come, and the change set behind them makes all of them exist.

What is held in memory is one piece, however large the commit.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import msgspec
import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.changes import Applied
from mamba_stream.errors import InvalidInput, QuotaExceeded
from mamba_stream.log.asked import offsets_of
from mamba_stream.log.remote.protocol import Commit, Part, Rows, decode, encode
from mamba_stream.server.desk import Desk
from mamba_stream.server.gate import Caller

_AHEAD: Final = 4
"""Pieces that a paced client may have sent and that are not read: as many as a round trip takes, even a long one."""
_SIGN: Final = 5.0
"""Seconds between two signs of life: the client's gRPC asks for some where nothing comes for half a minute."""
_SILENT: Final = 10.0
_LONGEST_WAIT: Final = 60.0
"""Seconds for which a commit waits for its turn, the first where nothing comes of those who have one. Then it is read
all the same: nobody is to hold up everybody."""
_SHORT: Final = "the server is short of memory: send this commit again in a moment"
_TURN: Final = 1.0
"""Seconds at most between two looks whether a client that is over its quota is still to be waited for."""


def commit_in_pieces(
    desk: Desk, caller: Caller, stream: flight.MetadataRecordBatchReader, answers: Any, *, paced: bool
) -> None:
    """Takes a commit, and answers with what it came to; before, where it is ``paced``, with how much is taken.

    Raises:
        InvalidInput: The stream ended before its change set, or something in it is not what it should be; nothing was
            committed.
    """
    taking = _Taking(desk, caller, answers, paced=paced)
    try:
        answer = taking.run(stream)
    finally:
        taking.close()
    answers.write_metadata(pa.py_buffer(encode(answer)))


class _Taking:
    """One commit on its way in."""

    def __init__(self, desk: Desk, caller: Caller, answers: Any, *, paced: bool) -> None:
        self._desk = desk
        self._caller = caller
        self._answers = answers
        self._stage = desk.storage.stage()
        self._topics: list[int] = []
        """By number, in the order in which they came."""
        self._expected: dict[int, int] = {}
        self._signed = desk.storage.clock.monotonic()
        self._admitted = False
        self._most = 0 if paced else None
        """How many pieces the client may have sent, where it asks that."""

    def run(self, stream: flight.MetadataRecordBatchReader) -> Applied:
        self._admit()
        self._welcome(_AHEAD)
        while True:
            try:
                chunk = stream.read_chunk()
            except StopIteration:
                raise InvalidInput("the stream ended before its change set: nothing was committed") from None
            self._desk.check_open()
            if self._admitted:
                self._desk.uploads.hear()
            if self._desk.room is not None and self._desk.room.is_short():
                raise QuotaExceeded(_SHORT)
            if chunk.app_metadata is None or chunk.data is not None:
                raise InvalidInput("a commit in pieces consists of Part messages, as metadata without rows")
            part = decode(chunk.app_metadata, Part)
            if (part.rows is None) == (part.commit is None):
                raise InvalidInput("a Part holds either rows or, as the last one, the change set")
            if part.commit is not None:
                return self._commit(part.commit)
            if part.rows is not None:
                self._take(part.rows, continues=part.continues)
            self._welcome(1)
            self._sign()

    def close(self) -> None:
        """What was not committed is gone."""
        if self._admitted:
            self._desk.uploads.give_back()
        self._stage.close()

    def _admit(self) -> None:
        """Waits for its turn: of what nobody has begun to read, gRPC holds little."""
        turns, clock = self._desk.uploads, self._desk.storage.clock
        until = clock.monotonic() + _LONGEST_WAIT
        while not turns.take(_SIGN):
            if turns.silent >= _SILENT or clock.monotonic() >= until:
                return
            self._sign()
            self._desk.check_open()
            self._desk.gate.check(self._caller, ())
        self._admitted = True

    def _take(self, rows: Rows, *, continues: bool) -> None:
        desk = self._desk
        desk.gate.check(self._caller, (desk.belongings.numbered(rows.topic, "write"),))
        self._spend(len(rows.data))
        if not continues:
            self._check_met()
            row = desk.catalog.numbered(rows.topic)
            self._topics.append(row.id)
            self._expected = offsets_of(row, "expect", rows.expect)
        elif self._topics[-1:] != [rows.topic] or rows.expect:
            raise InvalidInput(
                "rows that continue others are of the same topic, and have no conditions of their own"
            )
        batches = desk.batches(Rows(rows.topic, rows.data, rows.partition))
        # Only the first batch of a partition meets the end that the caller saw.
        self._stage.write(
            [
                msgspec.structs.replace(batch, expect=self._expected.pop(batch.partition))
                if batch.partition in self._expected
                else batch
                for batch in batches
            ]
        )

    def _commit(self, commit: Commit) -> Applied:
        if commit.rows:
            raise InvalidInput("the change set behind the pieces of a commit has no rows of its own")
        if not self._topics:
            raise InvalidInput("a commit in pieces has some: one without rows is sent by the action commit")
        self._check_met()
        # Once more for the rows: who lost the right meanwhile commits nothing.
        written = [self._desk.belongings.numbered(number, "write") for number in dict.fromkeys(self._topics)]
        self._desk.gate.check(self._caller, [*self._desk.needs_of(commit), *written])
        return self._desk.commit_staged(self._caller, commit, self._stage)

    def _check_met(self) -> None:
        if self._expected:
            name = self._desk.catalog.numbered(self._topics[-1]).name
            raise InvalidInput(
                f"topic {name!r}: expect= names partition {min(self._expected)}, to which none of these "
                "rows go; name only partitions that are appended to"
            )

    def _spend(self, size: int) -> None:
        """Waits until the caller may send so much: sent again from its beginning a large commit would never come."""
        while True:
            try:
                return self._desk.gate.spend(self._caller, received=size)
            except QuotaExceeded as error:
                threading.Event().wait(min(error.retry_after, _TURN))
            self._sign()
            self._desk.check_open()
            self._desk.gate.check(self._caller, ())

    def _welcome(self, more: int) -> None:
        """Lets a paced client send so many pieces more."""
        if self._most is not None:
            self._most += more
            self._tell()

    def _sign(self) -> None:
        if self._desk.storage.clock.monotonic() - self._signed >= _SIGN:
            self._tell()

    def _tell(self) -> None:
        self._signed = self._desk.storage.clock.monotonic()
        self._answers.write_metadata(pa.py_buffer(encode(self._most)))
