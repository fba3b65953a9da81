"""A worker: it runs the tasks that it was given, in turns, and knows nothing of other workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.errors import StateTooLarge
from mamba_stream.log import Log
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.stages import Stage
from mamba_stream.runtime.beside import Committing
from mamba_stream.runtime.budget import Budget
from mamba_stream.runtime.checkpoint import Checkpoints, place_of_task
from mamba_stream.runtime.memory import in_words
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.task import Share, Task
from mamba_stream.runtime.workers.backlog import MOST, Backlog
from mamba_stream.runtime.workers.board import Board
from mamba_stream.runtime.workers.facts import Spent, facts_of
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.messages import Over, TaskFacts

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
        committing: Callable[[], Committing] | None = None,
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
            committing: Gives each task what makes its commits durable; left out, that is a thread for each.
            ring: Called from any thread when there is something to do for whoever waits.
        """
        self._pipeline = pipeline
        self._prepared = prepared
        self._stages = {stage.number: stage for stage in stages}
        self._log = log
        self._options = options
        self._clock = clock
        self._run = run
        self._make_committing = committing
        self._ring = ring
        self._board = Board(log, pipeline.name, stages, run)
        self.tasks: dict[TaskName, Task] = {}
        self.working: TaskName | None = None
        """The task that works now, or raised when it last worked."""
        self._over: list[Over] = []
        self._spent: dict[TaskName, Spent] = {}
        self._leaving = False
        self._full = False
        self._memory = options.memory // options.workers
        self._backlog = Backlog(log, pipeline.name, stages, min(MOST, options.memory // 4))
        tasks = sum(stage.tasks for stage in stages)
        self._budget = Budget.within(self._memory, options.rows, max(1, tasks // options.workers))

    def take(self, name: TaskName, lease: int) -> None:
        """Takes a task over from whoever ran it: from here on nobody else can commit it.

        Args:
            name: The task.
            lease: The number under which it was given to this worker.

        Raises:
            JobFailed: It was given to another worker since.
            OffsetTrimmed: Rows that it was to read next are gone.
        """
        stage = self._stages[name.stage]
        place = place_of_task(self._pipeline.name, name.stage, name.number)
        checkpoints = Checkpoints(self._log, place, self._clock, self._run, lease)
        saved = checkpoints.load()
        share = Share(stage, name.number, {one: self._board.words(one) for one in stage.exchanges})
        kept = [node.name for node in self._prepared.analysis.steps]
        task = Task(
            self._pipeline,
            self._prepared,
            share,
            self._log,
            checkpoints,
            saved,
            kept,
            self._options,
            self._clock,
            None if self._make_committing is None else self._make_committing(),
            self._budget,
            self._ring,
        )
        task.claim()
        self.tasks[name] = task
        self._spent[name] = Spent(self._clock.monotonic())

    def release(self, name: TaskName) -> None:
        """Commits what a task did, and lets go of it."""
        task = self.tasks.pop(name)
        task.commit("running")
        task.close()

    def commit(self) -> None:
        """Commits all that was done."""
        for name, task in self.tasks.items():
            self.working = name
            task.commit("running")

    def leave(self) -> None:
        """Lets tasks come to their end: sources are read no further, and what was read goes through."""
        self._leaving = True

    def turn(self) -> int:
        """Lets every task work a little; the number of rows that were read."""
        self._board.look()
        self._full = False
        rows = 0
        for name in list(self.tasks):
            rows += self._work(name, self.tasks[name])
        self._check_memory()
        return rows

    def ended(self) -> list[Over]:
        """The tasks that ended since the last time."""
        ended, self._over = self._over, []
        return ended

    def facts(self, tasks: Iterable[TaskName] | None = None) -> list[tuple[TaskName, TaskFacts]]:
        """What some of the tasks have done, or all."""
        return [(name, self._facts_of(name)) for name in (list(self.tasks) if tasks is None else tasks)]

    def _facts_of(self, name: TaskName) -> TaskFacts:
        return facts_of(self.tasks[name], self._spent[name], self._clock.monotonic())

    def seconds_to_next(self) -> float:
        """How long there is nothing to do unless somebody commits."""
        nearest = min((task.seconds_to_next() for task in self.tasks.values()), default=60.0)
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

    def _work(self, name: TaskName, task: Task) -> int:
        self.working = name
        reads = bool(self._stages[name.stage].sources)
        begun = self._clock.monotonic()
        full = not (reads and self._leaving) and self._backlog.full(name.stage)
        rows = 0 if full or (reads and self._leaving) else task.step()
        held, ended = full or bool(task.engine.waiting), self._clock.monotonic()
        self._spent[name].turn(begun, ended, worked=rows > 0 or task.engine.acted, held=held)
        if full:
            self._full = True
        if rows == 0 and not full and (task.over or (reads and self._leaving)):
            ended = task.ended
            task.commit("finished" if ended else "stopped")
            self._over.append(Over(name, ended, self._facts_of(name)))
            task.close()
            del self.tasks[name]
        elif task.commit_due:
            task.begin_commit()
        elif task.commit_done:
            task.end_commit()
        if rows == 0:
            task.rest()
        return rows
