"""A worker: it runs the tasks that it was given, in turns, and knows nothing of other workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.errors import MambaStreamError, StateTooLarge
from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.stages import Stage
from mamba_stream.runtime.budget import Budget
from mamba_stream.runtime.care import Care, Death
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.commits import Together
from mamba_stream.runtime.memory import in_words
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.share import Share
from mamba_stream.runtime.standing import place_of_task
from mamba_stream.runtime.task import Task
from mamba_stream.runtime.workers.backlog import MOST, Backlog
from mamba_stream.runtime.workers.board import Board
from mamba_stream.runtime.workers.careful import Careful
from mamba_stream.runtime.workers.facts import Spent, facts_of
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.messages import Over, Report, TaskFacts
from mamba_stream.runtime.workers.vigil import Vigil

_FULL: Final = 0.1
"""Seconds until a stage that was held back looks whether it still is."""


class Worker:
    """Tasks of one job, run in turns."""

    def __init__(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        stages: Sequence[Stage],
        log: Log,
        options: RunOptions,
        clock: Clock,
        run: int,
        together: Together | None = None,
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        """A worker without tasks.

        Args:
            pipeline: The pipeline.
            prepared: The same, over the log.
            stages: The stages that it is cut into.
            log: The log.
            options: How the job is run.
            clock: The clock.
            run: The number of the job's run.
            together: Makes the tasks' commits durable; left out, a thread does.
            ring: Called from any thread when there is something to do for whoever waits.
        """
        self._pipeline = pipeline
        self._prepared = prepared
        self._stages = {stage.number: stage for stage in stages}
        self._log = log
        self._options = options
        self._clock = clock
        self._run = run
        self._together = together or Together(log, f"mamba-stream {pipeline.name}: commits", ring)
        self._ring = ring
        self._board = Board(log, pipeline.name, stages, run)
        self.tasks: dict[TaskName, Task] = {}
        self.working: TaskName | None = None
        """The task that works now, or raised when it last worked."""
        self._over: list[Over] = []
        self._careful: dict[TaskName, Careful] = {}
        self._through: list[TaskName] = []
        self.say: Callable[[Report], None] = lambda _: None
        """Tells the pool something."""
        self._spent: dict[TaskName, Spent] = {}
        self._leaving = False
        self._full = False
        self._memory = options.memory // options.workers
        self._backlog = Backlog(log, pipeline.name, stages, min(MOST, options.memory // 4))
        tasks = sum(stage.tasks for stage in stages)
        self._budget = Budget.within(self._memory, options.rows, max(1, tasks // options.workers))
        self._vigil = Vigil(log, clock)
        self._worked: set[TaskName] = set()

    def take(
        self, names: Sequence[TaskName], lease: int, rows: int = 0, known: Sequence[Death] = ()
    ) -> list[TaskName]:
        """Takes tasks over from whoever ran them: from here on nobody else can commit them.

        Args:
            names: The tasks.
            lease: The number under which they were given to this worker.
            rows: How many rows they read between two commits, where they are to say what they do before they do it.
            known: What ended processes before that ran them so.

        Returns:
            Those that it has; the others were given to another worker since.

        Raises:
            OffsetTrimmed: Rows that a task was to read next are gone.
        """
        taken: list[TaskName] = []
        while names:
            found = self._claim(names, lease, rows, known)
            taken += [name for name, mine in found.items() if mine]
            names = [name for name, mine in found.items() if not mine]
        return taken

    def _claim(
        self, names: Sequence[TaskName], lease: int, rows: int, known: Sequence[Death]
    ) -> dict[TaskName, bool]:
        """Tries to take tasks over, with one call to the log.

        Returns:
            Whether it could, by task; whoever had it may have committed once more meanwhile. Without those that were
            given to another worker since.
        """
        # Whoever ran them may have been killed in its last commit: it counts from here on, not later.
        self._log.settle()
        found: dict[TaskName, bool] = {}
        loaded: dict[TaskName, Task] = {}
        cautious: dict[TaskName, Careful] = {}
        try:
            for name in names:
                self.working = name
                place = place_of_task(self._pipeline.name, name.stage, name.number)
                checkpoints = Checkpoints(self._log, place, self._clock, self._run, lease, settled=True)
                if checkpoints.given_on:
                    continue
                found[name] = False
                careful = Careful(name, rows, known, checkpoints, self.say) if rows else None
                try:
                    loaded[name] = task = self._loaded(
                        name, checkpoints, None if careful is None else careful.care
                    )
                except MambaStreamError:
                    if checkpoints.outdated:
                        continue
                    raise
                if careful is not None:
                    cautious[name] = careful
                task.claim()
            self._together.go()
            for name, task in loaded.items():
                self.working = name
                if task.claimed():
                    task.recover()
                    self.tasks[name] = task
                    self._spent[name] = Spent(self._clock.monotonic())
                    self._vigil.wake(name)
                    found[name] = True
                    if name in cautious:
                        self._careful[name] = cautious[name]
        finally:
            for name, task in loaded.items():
                if not found[name]:
                    task.close()
        return found

    def _loaded(self, name: TaskName, checkpoints: Checkpoints, care: Care | None) -> Task:
        """A task as its last commit left it."""
        stage = self._stages[name.stage]
        saved = checkpoints.load()
        share = Share(stage, name.number, {one: self._board.words(one) for one in stage.exchanges})
        kept = [node.name for node in self._prepared.analysis.steps]
        return Task(
            self._pipeline,
            self._prepared,
            share,
            self._log,
            checkpoints,
            saved,
            kept,
            self._options,
            self._clock,
            self._together.place(),
            self._budget,
            self._ring,
            care,
        )

    def release(self, names: Sequence[TaskName]) -> None:
        """Commits what tasks did, and lets go of them; those that came to their end meanwhile are gone already."""
        left = {name: task for name in names if (task := self.tasks.get(name)) is not None}
        self._commit(left)
        for name, task in left.items():
            del self.tasks[name]
            self._careful.pop(name, None)
            task.close()

    def through(self) -> list[TaskName]:
        """The tasks that came through what they had to be careful with, and were let go of since the last time."""
        through, self._through = self._through, []
        return through

    def commit(self) -> None:
        """Commits all that was done."""
        self._commit(self.tasks)
        for name in self.tasks:
            self._worked.add(name)
            self._vigil.wake(name)

    def _commit(self, tasks: Mapping[TaskName, Task]) -> None:
        for name, task in tasks.items():
            self.working = name
            task.begin_commit()
        self._together.go()
        for name, task in tasks.items():
            self.working = name
            task.end_commit()

    def leave(self) -> None:
        """Lets tasks come to their end: sources are read no further, and what was read goes through."""
        self._leaving = True
        for name in self.tasks:
            self._vigil.wake(name)

    def turn(self) -> int:
        """Lets every task work a little that has something to do; the number of rows that were read."""
        # In this order: what the board tells is what there was then, or later.
        self._vigil.look()
        self._board.look()
        self._full = False
        rows, due = 0, False
        for name, task in list(self.tasks.items()):
            if task.commit_done:
                self._end_commit(name, task)
            if not self._vigil.sleeps(name):
                rows += self._work(name, task)
            due = due or (name in self.tasks and task.commit_due)
        if due:
            self._begin_commits()
        if rows:
            self._check_memory()
        return rows

    def ended(self) -> list[Over]:
        """The tasks that ended since the last time."""
        ended, self._over = self._over, []
        return ended

    def facts(self, tasks: Iterable[TaskName] | None = None) -> list[tuple[TaskName, TaskFacts]]:
        """What some of the tasks have done, or all."""
        return [
            (name, self._facts(name, self.tasks[name]))
            for name in (list(self.tasks) if tasks is None else tasks)
        ]

    def news(self) -> list[tuple[TaskName, TaskFacts]]:
        """What those of the tasks have done that did something since this was last asked."""
        worked, self._worked = self._worked, set()
        # In one go: where workers are threads, another one asks, while tasks come and go.
        return [(name, self._facts(name, task)) for name in sorted(worked) if (task := self.tasks.get(name))]

    def _facts(self, name: TaskName, task: Task) -> TaskFacts:
        return facts_of(task, self._spent[name], self._clock.monotonic())

    def seconds_to_next(self) -> float:
        """How long there is nothing to do unless somebody commits."""
        nearest = min((self._seconds_of(name, task) for name, task in self.tasks.items()), default=60.0)
        return min(nearest, _FULL) if self._full else nearest

    def _check_memory(self) -> None:
        """The engine of a task looks at that task alone.

        Raises:
            StateTooLarge: What the tasks remember together exceeds this worker's share of the memory.
        """
        sizes: dict[str, int] = {}
        for task in self.tasks.values():
            for node, step in task.engine.flow.steps.items():
                sizes[node.name] = sizes.get(node.name, 0) + step.bytes
        total = sum(sizes.values())
        if total > self._memory:
            name = max(sizes, key=sizes.__getitem__)
            raise StateTooLarge(
                f"what this worker's tasks remember is {in_words(total)}, {in_words(sizes[name])} of it step {name!r}, "
                f"and its share of memory= is {in_words(self._memory)}: give the job more memory=, fewer keys, a "
                "shorter window or lateness, or aggregates that explain() calls partial"
            )

    def close(self) -> None:
        """Lets go of all tasks; what they did not commit is done again."""
        for task in self.tasks.values():
            task.close()
        self.tasks.clear()

    def _seconds_of(self, name: TaskName, task: Task) -> float:
        asleep = self._vigil.seconds(name)
        return min(task.seconds_to_work() if asleep is None else asleep, task.seconds_to_commit())

    def _work(self, name: TaskName, task: Task) -> int:
        self.working = name
        self._worked.add(name)
        stage = self._stages[name.stage]
        reads = bool(stage.sources)
        begun = self._clock.monotonic()
        careful = self._careful.get(name)
        full = not (reads and self._leaving) and self._backlog.full(name.stage)
        if full or (reads and self._leaving):
            rows = 0
        else:
            rows = task.step() if careful is None else careful.step(task)
        held, ended = full or bool(task.engine.waiting), self._clock.monotonic()
        self._spent[name].turn(begun, ended, worked=rows > 0 or task.engine.acted, held=held)
        if full:
            self._full = True
        if rows == 0 and not full and (task.over or (reads and self._leaving)):
            ended = task.ended
            task.commit("finished" if ended else "stopped")
            self._over.append(Over(name, ended, self._facts(name, task)))
            task.close()
            del self.tasks[name]
            self._careful.pop(name, None)
            return 0
        if careful is not None and not full and careful.is_through(rows):
            self.release([name])
            self._through.append(name)
        elif rows == 0:
            task.rest()
            if not full:
                self._lay(name, task)
        return rows

    def _lay(self, name: TaskName, task: Task) -> None:
        """Lets a task sleep that has nothing to do, unless somebody outside the log knows when that is over."""
        stage = self._stages[name.stage]
        asks = task.engine.flow.in_flight
        if not asks and not any(isinstance(node, n.ConnectorSource) for node in stage.sources):
            self._vigil.lay(name, task, [self._board.words(exchange) for exchange in stage.exchanges])

    def _begin_commits(self) -> None:
        """Begins the commits that are due, and with them those that soon will be.

        They go to the log in one call: to make one durable costs what it costs for all, and whoever waits for the log
        is woken once. From then on they are due at the same time.
        """
        for name, task in self.tasks.items():
            if task.commit_due_within(self._options.commit / 2):
                self.working = name
                begun = self._clock.monotonic()
                task.end_commit()
                free = self._clock.monotonic()
                task.begin_commit()
                self._spent[name].committed(begun, free, self._clock.monotonic())
                self._worked.add(name)
        self._together.go()

    def _end_commit(self, name: TaskName, task: Task) -> None:
        self.working = name
        task.end_commit()
        self._worked.add(name)
