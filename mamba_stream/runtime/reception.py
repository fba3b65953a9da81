"""Where a running job hears what other processes ask of it, answers them, and has written what happens to it.

The job's loop calls :meth:`Reception.turn`; nothing here has a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.errors import JobFailed, MambaStreamError, PreconditionFailed
from mamba_stream.log import Log
from mamba_stream.runtime.inbox import Inbox
from mamba_stream.runtime.journal import Journal
from mamba_stream.runtime.requests import RUNS, Answer, Describe, Request, RunRecord, What, encode, in_words

_SOON: Final = 0.05
"""Seconds until the next turn while something that was asked for is not done."""

Outcome = tuple[str, bytes]
"""What there is to say of what was done, and what belongs to it."""
Doing = Callable[[], Outcome | None]
"""Gives the outcome once there is one; raises where it cannot be done."""
Obey = Callable[[What], Doing]
"""Begins to do what is asked; raises where it cannot be."""


class Reception:
    """Between one run of a job and the processes that ask something of it."""

    def __init__(self, log: Log, job: str, run: int, clock: Clock, obey: Obey) -> None:
        """Nothing is heard yet.

        Args:
            log: The log.
            job: The job's name.
            run: The number of the run.
            clock: The clock.
            obey: Begins to do what is asked.
        """
        self._log = log
        self._job = job
        self._run = run
        self._clock = clock
        self._obey = obey
        self._inbox = Inbox(log, job, run, clock)
        self._journal = Journal(log, job, run, clock)
        self._doing: dict[str, Doing] = {}
        self._workers = 0
        self.note = self._journal.note
        """Notes something that happened; from any thread."""

    def begin(self, workers: int, text: str) -> None:
        """The run begins: what was asked of earlier ones is gone.

        Args:
            workers: How many workers it has.
            text: How it begins, in words.
        """
        self._workers = workers
        self.note("started", text)
        with self._log.transaction() as tx:
            self._inbox.clear(tx)
            tx.put_record(RUNS, self._job, encode(RunRecord(self._run, workers, self._clock.now())))
            self._journal.write(tx)

    def turn(self, workers: int) -> None:
        """Hears what is asked, answers what is done, and writes what happened.

        Args:
            workers: How many workers the job has now.
        """
        for number, request in self._inbox.look().items():
            self._take(number, request)
        self._answer(workers, last=False)

    def seconds(self) -> float:
        """How long until the next turn."""
        return min(_SOON, self._inbox.seconds()) if self._doing else self._inbox.seconds()

    def end(self, what: str, text: str) -> None:
        """The job is over: whoever waits has an answer before its name is free.

        Args:
            what: How it ended, in a word.
            text: The same in more words.
        """
        self.note(what, text)
        for number in self._inbox.look(now=True):
            self._doing[number] = _too_late
        self._answer(self._workers, last=True)

    def _take(self, number: str, request: Request) -> None:
        try:
            with self._log.transaction() as tx:
                self._inbox.take(tx, number)
        except PreconditionFailed:
            # It was withdrawn.
            return
        if not isinstance(request.what, Describe):
            # Whoever only looks, again and again perhaps, is to push nothing out of the journal.
            self.note("asked", f"to {in_words(request.what)}, by {request.by}")
        try:
            self._doing[number] = self._obey(request.what)
        except MambaStreamError as error:
            self._doing[number] = _refusing(error)

    def _answer(self, workers: int, *, last: bool) -> None:
        answers = {}
        for number, doing in self._doing.items():
            answer = _asked(doing) or (_asked(_too_late) if last else None)
            if answer is not None:
                answers[number] = answer
        if not answers and not self._journal.waiting and workers == self._workers:
            return
        with self._log.transaction() as tx:
            for number, (said, data) in answers.items():
                self._inbox.answer(tx, number, said, data)
            if workers != self._workers:
                tx.put_record(RUNS, self._job, encode(RunRecord(self._run, workers, self._clock.now())))
            self._journal.write(tx)
        self._workers = workers
        for number in answers:
            del self._doing[number]


def _asked(doing: Doing) -> tuple[Answer, bytes] | None:
    """The answer to give, if there is one now."""
    try:
        outcome = doing()
    except MambaStreamError as error:
        return Answer("refused", str(error), type(error).__name__), b""
    return None if outcome is None else (Answer("done", outcome[0]), outcome[1])


def _refusing(error: MambaStreamError) -> Doing:
    def refuse() -> Outcome:
        raise error

    return refuse


def _too_late() -> Outcome:
    raise JobFailed("the job ended before it came to that")
