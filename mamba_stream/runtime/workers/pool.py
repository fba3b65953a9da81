"""Who gives a job's tasks to workers, and to others when a worker is gone.

A pool has no thread and no clock of its own: whoever owns it calls :meth:`Pool.turn` when something was heard, and when
time has come. A task that two workers run for a moment is no danger: to take it is to have its record changed, and
whoever had it before cannot commit it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from mamba_stream import errors
from mamba_stream.core.clock import Clock
from mamba_stream.errors import JobFailed, MambaStreamError
from mamba_stream.runtime.counts import Counts
from mamba_stream.runtime.workers.assignment import moves, spread
from mamba_stream.runtime.workers.executor import Executor, Hand
from mamba_stream.runtime.workers.layout import Layout, TaskName
from mamba_stream.runtime.workers.messages import (
    Beat,
    Commit,
    Committed,
    Failed,
    Gone,
    Leave,
    Order,
    Over,
    Quit,
    Ready,
    Release,
    Released,
    Report,
    Taken,
    TaskFacts,
    Through,
    Trying,
)
from mamba_stream.runtime.workers.suspects import Suspects

PAUSES: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between a death and the next start, the longer the more of them come one upon the other."""
_ALONE: Final = 1_000
"""The number of the first worker that has one task and no other, over which one has died."""

_NAMED: Final = 6
"""So many tasks are named where they are told of."""


class PoolSettings(msgspec.Struct, frozen=True):
    """How a pool goes about it.

    Attributes:
        workers: How many workers.
        lease: Seconds without a word after which a worker is taken for dead.
        start: Seconds that it may take to begin.
        restarts: How many deaths may come one upon the other, without a task having committed in between.
    """

    workers: int
    lease: float = 5.0
    start: float = 60.0
    restarts: int = 8


class _Worker(msgspec.Struct, eq=False):
    """A worker.

    Attributes:
        hand: How it is told something; ``None`` while it is dead.
        heard: When it last said something.
        ready: Whether it can take tasks.
        tasks: Its tasks; what it was told to release is still among them.
        deaths: How many came one upon the other.
        due: When it is started again.
        process: The number of its process.
        life: Which of its lives this is: what an earlier one says does not count.
        retires: Whether it is to end when it has no more tasks.
        alone: Whether it is there for one task, over which another worker has died.
        lent: Whether others took over the tasks that it had when it died.
        trying: What it said last that it was doing.
    """

    hand: Hand | None = None
    heard: float = 0.0
    ready: bool = False
    tasks: set[TaskName] = msgspec.field(default_factory=set)
    releasing: set[TaskName] = msgspec.field(default_factory=set)
    deaths: int = 0
    due: float = 0.0
    process: int = 0
    life: int = 0
    retires: bool = False
    alone: bool = False
    lent: bool = False
    trying: Trying | None = None

    @property
    def wanted(self) -> bool:
        """Whether it is to live."""
        return bool(self.tasks) or not self.retires


class Pool:
    """The workers of one run of a job."""

    def __init__(
        self,
        layout: Layout,
        executor: Executor,
        settings: PoolSettings,
        clock: Clock,
        wake: Callable[[], None] = lambda: None,
        note: Callable[[str, str], None] = lambda what, text: None,
    ) -> None:
        """Nothing is started yet.

        Args:
            layout: The job's tasks.
            executor: Starts workers.
            settings: How to go about it.
            clock: The clock.
            wake: Called from any thread when something was heard, and :meth:`turn` is to be called.
            note: Called with what has happened: its kind, and more words.
        """
        self._executor = executor
        self._settings = settings
        self._clock = clock
        self._heard: deque[tuple[int, int, Report]] = deque()
        self._workers: dict[int, _Worker] = {}
        self._homeless: set[TaskName] = set()
        self._left: set[TaskName] = set(layout.tasks)
        self._ended: dict[TaskName, bool] = {}
        self._waiting: dict[int, set[int]] = {}
        self._commits = 0
        self._leases = 0
        self._leaving = False
        self._suspects = Suspects()
        self._isolated = 0
        self.facts: dict[TaskName, TaskFacts] = {}
        """What every task has done, as it was last heard."""
        self.begun: dict[TaskName, Counts] = {}
        """What it had done when this run began."""
        self.error: MambaStreamError | None = None
        """Why the job cannot go on."""
        self._wake = wake
        self._turned = clock.monotonic()
        self._note = note
        for number, tasks in spread(layout.tasks, settings.workers).items():
            self._workers[number] = _Worker(tasks=set(tasks))

    # -- what is so ------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether all tasks have come to their end."""
        return not self._left

    @property
    def ended(self) -> bool:
        """Whether all that they read is over for good."""
        return self.over and all(self._ended.values())

    @property
    def workers(self) -> dict[int, int]:
        """The workers that are ready, with the numbers of their processes."""
        return {number: worker.process for number, worker in self._workers.items() if worker.ready}

    @property
    def scale(self) -> int:
        """How many workers there are to be."""
        return sum(not worker.retires for worker in self._workers.values())

    @property
    def settled(self) -> bool:
        """Whether those are ready, the others gone, and no task is on its way from one to another."""
        return not self._homeless and all(
            worker.hand is None if worker.retires else worker.ready and not worker.releasing
            for worker in self._workers.values()
        )

    @property
    def owners(self) -> dict[TaskName, int]:
        """Which worker has a task."""
        workers = list(self._workers.items())
        return {task: number for number, worker in workers if worker.ready for task in tuple(worker.tasks)}

    def tasks_of(self, worker: int) -> frozenset[TaskName]:
        """The tasks of a worker."""
        return frozenset(self._workers[worker].tasks)

    def seconds_to_next(self) -> float:
        """How long there is nothing to do unless something is heard."""
        now = self._clock.monotonic()
        dues = [
            worker.due if worker.hand is None else worker.heard + self._patience(worker)
            for worker in self._workers.values()
            if worker.hand is not None or worker.wanted
        ]
        return max(0.0, min(dues, default=now + 60.0) - now)

    # -- what is wanted --------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Lets the tasks come to their end: sources are read no further, and what was read goes through."""
        self._leaving = True
        self._tell(Leave())

    def commit(self) -> int:
        """Has all tasks commit; :meth:`committed` says when they have, by the number that this gives."""
        self._commits += 1
        # One that only begins has done nothing yet.
        self._waiting[self._commits] = {number for number, worker in self._workers.items() if worker.ready}
        self._tell(Commit(self._commits))
        return self._commits

    def committed(self, number: int) -> bool:
        """Whether all tasks have committed."""
        if self._waiting.get(number):
            return False
        self._waiting.pop(number, None)
        return True

    def rescale(self, workers: int) -> None:
        """Has the tasks run by so many workers from now on; only what must move does."""
        self._note("rescaled", f"from {self.scale} to {workers} workers")
        for number in range(workers):
            worker = self._workers.setdefault(number, _Worker())
            worker.retires = False
        for number, worker in self._workers.items():
            worker.retires = number >= workers
        self._level()

    def _level(self) -> None:
        """Has those give up tasks who have more than their share."""
        there = {
            number: worker.tasks & self._left for number, worker in self._workers.items() if not worker.alone
        }
        for number, moved in moves(there, self.scale).items():
            # Told twice it would answer twice, and by then may have been given a task again.
            tasks = moved - self._workers[number].releasing
            self._workers[number].releasing |= tasks
            if tasks:
                self._send(number, Release(sorted(tasks)))
            if not self._workers[number].ready:
                self._free(number, tasks)

    def cancel(self) -> None:
        """Ends all workers at once."""
        self._tell(Quit())
        for worker in self._workers.values():
            if worker.hand is not None:
                worker.hand.kill()
                worker.hand = None
        self._executor.close()

    # -- the loop --------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Does what there is to do: hears what was said, starts workers, gives up those that are silent."""
        while self._heard:
            number, life, report = self._heard.popleft()
            worker = self._workers.get(number)
            if worker is not None and worker.life == life and worker.hand is not None:
                self._hear(number, worker, report)
        now = self._clock.monotonic()
        if now - self._turned > self._settings.lease:
            # Who did not listen for so long cannot tell who was silent.
            for worker in self._workers.values():
                worker.heard = now
        self._turned = now
        for number, worker in list(self._workers.items()):
            if worker.hand is not None and now - worker.heard > self._patience(worker):
                self._dead(number, worker, f"was silent for {now - worker.heard:.1f} s")
            elif worker.hand is None and worker.wanted and now >= worker.due:
                self._start(number, worker)
        self._settle()

    def _start(self, number: int, worker: _Worker) -> None:
        worker.life += 1
        worker.trying = None
        worker.ready, worker.heard = False, self._clock.monotonic()
        life = worker.life

        def hear(report: Report) -> None:
            self._heard.append((number, life, report))
            self._wake()

        worker.hand = self._executor.start(number, hear)

    def _hear(self, number: int, worker: _Worker, report: Report) -> None:
        worker.heard = self._clock.monotonic()
        match report:
            case Ready(process):
                self._begin(number, worker, process)
            case Taken(tasks, refused):
                for name, facts in tasks:
                    self.begun.setdefault(name, facts.begun)
                self._came(worker, tasks)
                if strange := sorted(worker.tasks.intersection(refused)):
                    self.error = JobFailed(
                        f"another runner has taken over task {strange[0]}: this one stops; what it had committed stays"
                    )
            case Trying() as trying:
                worker.trying = trying
            case Released(tasks):
                self._suspects.clear(tasks)
                self._free(number, tasks)
            case Through(tasks):
                self._suspects.clear(tasks)
                # Of what it was told to release it says that it has, too.
                self._free(number, [name for name in tasks if name not in worker.releasing])
            case Over(task, ended, facts):
                self.facts[task] = facts
                worker.tasks.discard(task)
                worker.releasing.discard(task)
                self._left.discard(task)
                self._ended[task] = ended
                worker.deaths = 0
            case Committed(asked):
                self._waiting.get(asked, set()).discard(number)
            case Beat(tasks):
                # What it had to say of a task that it let go of came late: another one tells of it now.
                self._came(worker, [(name, facts) for name, facts in tasks if name in worker.tasks])
            case Failed(code, message, task):
                kind = getattr(errors, code, JobFailed)
                self.error = kind(f"{message}" + (f" (task {task})" if task is not None else ""))
            case Gone(reason):
                self._dead(number, worker, reason)

    def _begin(self, number: int, worker: _Worker, process: int) -> None:
        """A worker is ready."""
        worker.ready, worker.process = True, process
        where = f"process {process}" if process else "a thread"
        self._note("worker", f"worker {number} is ready ({where}) and has {_words(worker.tasks)}")
        if worker.tasks:
            self._give(number, worker.tasks)
        if self._leaving:
            self._send(number, Leave())
        if worker.lent:
            worker.lent = False
            self._level()

    def _came(self, worker: _Worker, tasks: Iterable[tuple[TaskName, TaskFacts]]) -> None:
        """It is heard how far tasks have come; a commit that was not known yet says that this worker gets somewhere."""
        for name, facts in tasks:
            known = self.facts.get(name)
            if known is not None and known.commits < facts.commits:
                worker.deaths = 0
                self._suspects.progressed(name)
            self.facts[name] = facts

    def _dead(self, number: int, worker: _Worker, reason: str) -> None:
        """A worker is gone: another one follows it, and has its tasks, or as many of those that others took over."""
        if worker.hand is not None:
            worker.hand.kill()
        blamed = self._suspects.died(worker.tasks, worker.trying, reason) if worker.ready else None
        worker.hand, worker.ready = None, False
        # What it was to release it has not, and is free.
        self._free(number, set(worker.releasing))
        self._commits_nothing(number)
        if blamed is not None:
            self._isolate(number, worker, blamed, reason)
            return
        worker.deaths += 1
        if worker.deaths > self._settings.restarts:
            self.error = JobFailed(
                f"worker {number}, which has {_words(worker.tasks)}, {reason}, for the {worker.deaths}th time without "
                "a commit in between: this job does not come further; run it with workers=1 to see what happens in "
                "this process"
            )
        if self._may_lend(worker):
            worker.lent = True
            lent, worker.tasks = worker.tasks, set()
            self._hand_out(lent, self._there(ready=True))
        pause = PAUSES[min(worker.deaths - 1, len(PAUSES) - 1)]
        worker.due = self._clock.monotonic() + pause
        follows = f"; another follows in {pause:g} s" if worker.wanted and self.error is None else ""
        self._note("died", f"worker {number} (process {worker.process}) {reason}{follows}")

    def _may_lend(self, worker: _Worker) -> bool:
        """Whether others take over the tasks of one that is gone, until there is one that follows it.

        To start a process takes a second and more. But what a second worker dies of would be the tasks.
        """
        return bool(not worker.alone and not self._suspects.any(worker.tasks) and self._there(ready=True))

    def _there(self, *, ready: bool) -> list[int]:
        """The workers that are to have tasks: all, or those only that can take some now."""
        return [
            number
            for number, worker in self._workers.items()
            if not worker.retires and (worker.ready or not ready)
        ]

    def _isolate(self, number: int, worker: _Worker, task: TaskName, reason: str) -> None:
        """A worker has died over a task: that has one of its own from now on, and harms no other."""
        self._note(
            "worker",
            f"{number} (process {worker.process}) {reason}, at task {task}, which runs by itself now",
        )
        worker.due = self._clock.monotonic()
        if task not in worker.tasks:
            return
        self.error = self.error or self._suspects.hopeless(task, self._settings.restarts)
        if not worker.alone:
            worker.tasks.discard(task)
            worker.deaths = 0
            alone = _Worker(tasks={task}, due=worker.due, retires=True, alone=True)
            self._workers[_ALONE + self._isolated] = alone
            self._isolated += 1

    def _free(self, number: int, tasks: Iterable[TaskName]) -> None:
        worker = self._workers[number]
        for task in tasks:
            if task in worker.tasks:
                worker.tasks.discard(task)
                worker.releasing.discard(task)
                self._homeless.add(task)

    def _settle(self) -> None:
        """Gives out tasks without a worker; lets workers go that are not needed."""
        self._hand_out(self._homeless, self._there(ready=False))
        self._homeless.clear()
        for number, worker in self._workers.items():
            if worker.retires and not worker.tasks and worker.hand is not None:
                worker.hand.send(Quit())
                worker.hand, worker.ready = None, False
                self._note("worker", f"worker {number} (process {worker.process}) is not needed any more")
                self._commits_nothing(number)

    def _hand_out(self, tasks: Iterable[TaskName], among: Sequence[int]) -> None:
        """Gives tasks to those of these workers that have the fewest; one that is not ready has them once it is."""
        given: dict[int, list[TaskName]] = {}
        for task in sorted(tasks):
            number = min(among, key=lambda one: (len(self._workers[one].tasks), one))
            self._workers[number].tasks.add(task)
            given.setdefault(number, []).append(task)
        for number, some in given.items():
            if self._workers[number].ready:
                self._give(number, some)
            self._note("moved", f"{_words(some)} to worker {number}")

    def _commits_nothing(self, number: int) -> None:
        """A worker is gone: what it has not committed never happened."""
        for waiting in self._waiting.values():
            waiting.discard(number)

    def _give(self, number: int, tasks: Iterable[TaskName]) -> None:
        self._leases += 1
        for take in self._suspects.takes(tasks, self._leases):
            self._send(number, take)

    def _patience(self, worker: _Worker) -> float:
        return self._settings.lease if worker.ready else self._settings.start

    def _send(self, number: int, order: Order) -> None:
        worker = self._workers[number]
        if worker.hand is not None and worker.ready:
            worker.hand.send(order)

    def _tell(self, order: Order) -> None:
        for number in self._workers:
            self._send(number, order)


def _words(tasks: Iterable[TaskName]) -> str:
    """Tasks in words: how many, and the first of them."""
    names = [str(task) for task in sorted(tasks)]
    if not names:
        return "no task"
    more = f" … {names[-1]}" if len(names) > _NAMED else ""
    return f"{len(names)} task{'s' * (len(names) > 1)} ({' '.join(names[:_NAMED])}{more})"
