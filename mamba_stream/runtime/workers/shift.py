"""A worker at work: it follows the pool's orders, lets its tasks work, and says what came of it."""

from __future__ import annotations

from collections.abc import Callable

from mamba_stream.errors import JobFailed, MambaStreamError
from mamba_stream.runtime.places import line_of
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.messages import (
    Beat,
    Commit,
    Committed,
    Failed,
    Leave,
    Order,
    Quit,
    Release,
    Released,
    Report,
    Take,
    Taken,
    Through,
)
from mamba_stream.runtime.workers.worker import Worker


class Shift:
    """Runs a worker. Whoever owns the thread calls :meth:`follow` for each order and :meth:`turn` for ever."""

    def __init__(self, worker: Worker, say: Callable[[Report], None]) -> None:
        """Begins.

        Args:
            worker: The worker.
            say: Tells the pool something.
        """
        self._worker = worker
        self._say = worker.say = say
        self.over = False
        """Whether there is nothing more to do: it was told to quit, or cannot go on."""

    def follow(self, order: Order) -> None:
        """Does what the pool says."""
        with _Saying(self):
            match order:
                case Take(tasks, lease, care, known):
                    taken = self._worker.take(tasks, lease, care, known)
                    if not self._worker.tasks:
                        raise JobFailed(
                            f"task {tasks[0]} was given to another worker since, and so were all others"
                        )
                    self._say(Taken(self._worker.facts(taken), [one for one in tasks if one not in taken]))
                case Release(tasks):
                    self._worker.release(tasks)
                    self._say(Released(tasks))
                case Commit(number):
                    self._worker.commit()
                    self._say(Committed(number))
                case Leave():
                    self._worker.leave()
                case Quit():
                    self.over = True

    def turn(self) -> int:
        """Lets every task work a little; the number of rows that were read."""
        with _Saying(self):
            rows = self._worker.turn()
            for over in self._worker.ended():
                self._say(over)
            if through := self._worker.through():
                self._say(Through(through))
            return rows
        return 0

    def beat(self, *, whole: bool = False) -> Beat:
        """What the tasks have done: those that did something since the last beat, or all."""
        return Beat(self._worker.facts() if whole else self._worker.news())

    def seconds_to_next(self) -> float:
        """How long there is nothing to do unless somebody commits, or tells something."""
        return self._worker.seconds_to_next()

    def close(self) -> None:
        """Lets go of all tasks."""
        self._worker.close()

    def fail(self, error: BaseException) -> None:
        """It cannot go on."""
        self.over = True
        task: TaskName | None = self._worker.working
        code = type(error).__name__ if isinstance(error, MambaStreamError) else "JobFailed"
        said = str(error) if isinstance(error, MambaStreamError) else f"{type(error).__name__}: {error}"
        # Its traceback stays here.
        where = line_of(error.__cause__ or error)
        if where is not None and where not in said:
            said = f"{said}\n  raised at {where}"
        self._say(Failed(code, said, task))


class _Saying:
    """Has the pool told of what is raised within."""

    def __init__(self, shift: Shift) -> None:
        self._shift = shift

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self._shift.fail(error)
            return True
        return False
