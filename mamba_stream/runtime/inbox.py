"""What others ask of a job, seen from the run that is asked."""

from __future__ import annotations

import math
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.log import Log, Transaction
from mamba_stream.runtime.requests import (
    ANSWERS,
    REQUESTS,
    Answer,
    Request,
    decode_request,
    encode,
    in_pieces,
    piece_key,
)

_PAUSE: Final = 0.25
"""Seconds between two looks: a job's own commits, and those of everybody, wake it more often."""


class Inbox:
    """The requests to one run of a job."""

    def __init__(self, log: Log, job: str, run: int, clock: Clock) -> None:
        """Nothing was looked at.

        Args:
            log: The log.
            job: The job's name.
            run: The number of the run: what is meant for earlier ones is not seen. It may go on under later numbers.
            clock: The clock.
        """
        self._log = log
        self._requests, self._answers = f"{REQUESTS}/{job}", f"{ANSWERS}/{job}"
        self._run = run
        self._clock = clock
        self._lsn = -1
        self._looked = -math.inf
        self._seen: dict[str, bytes] = {}

    def clear(self, tx: Transaction) -> None:
        """Removes, within a transaction, what was meant for earlier runs, and answers that nobody has fetched."""
        for number, data in self._log.records(self._requests).items():
            request = decode_request(data)
            if request is None or request.run < self._run:
                tx.delete_record(self._requests, number)
        for key in self._log.records(self._answers):
            tx.delete_record(self._answers, key)

    def look(self, *, now: bool = False) -> dict[str, Request]:
        """What is asked of this run, by number, if there may be something new.

        Args:
            now: However short ago the last look was.
        """
        if not now and self.seconds() > 0:
            return {}
        self._lsn, self._looked = self._log.heard(), self._clock.monotonic()
        self._seen = self._log.records(self._requests)
        found = {number: decode_request(data) for number, data in self._seen.items()}
        return {number: one for number, one in found.items() if one is not None and one.run >= self._run}

    def seconds(self) -> float:
        """How long until the next look; infinite while there was no commit since the last."""
        if self._log.heard() == self._lsn:
            return math.inf
        return max(0.0, self._looked + _PAUSE - self._clock.monotonic())

    def take(self, tx: Transaction, number: str) -> None:
        """Takes a request within a transaction, which fails where it was withdrawn meanwhile."""
        tx.require_record(self._requests, number, self._seen[number])
        tx.delete_record(self._requests, number)
        tx.put_record(self._answers, number, encode(Answer("taken")))

    def answer(self, tx: Transaction, number: str, answer: Answer, data: bytes = b"") -> None:
        """Answers a request within a transaction."""
        pieces = in_pieces(data)
        for piece, value in enumerate(pieces):
            tx.put_record(self._answers, piece_key(number, piece), value)
        tx.delete_record(self._requests, number)
        whole = Answer(answer.state, answer.text, answer.error, len(pieces))
        tx.put_record(self._answers, number, encode(whole))
