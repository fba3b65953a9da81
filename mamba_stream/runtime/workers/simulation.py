"""Workers in one thread and on a clock that is moved: which of them works next, and which fails, a seed decides.

The workers are the real ones, over a real log: what is simulated is when they get to work, when they are stopped for so
long that they are taken for dead, and when they die. The same seed gives the same run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np

from mamba_stream.runtime.workers.executor import Hear
from mamba_stream.runtime.workers.messages import Gone, Order, Ready, Report
from mamba_stream.runtime.workers.shift import Shift
from mamba_stream.runtime.workers.worker import Worker


class Killed(BaseException):
    """Raised by a function of a pipeline: the simulated worker that runs it dies there."""


class Misfortunes(msgspec.Struct, frozen=True):
    """What may happen to a worker at each of its turns, as probabilities.

    Attributes:
        dies: It is killed.
        stalls: It is stopped; it goes on at some later time, and may have been taken for dead meanwhile.
        wakes: Of a stopped one, that it goes on.
        ends: Of one to which nobody listens any more, that it is gone at last; until then it does what it can.
    """

    dies: float = 0.0
    stalls: float = 0.0
    wakes: float = 0.01
    ends: float = 0.05


class _Life(msgspec.Struct, eq=False):
    """A worker from its start to its death.

    Attributes:
        number: The worker's number.
        shift: What it does.
        hear: Who listens to it; nobody, once it was taken for dead.
        orders: What it was told and has not heard yet.
        stopped: Whether it stands still.
    """

    number: int
    shift: Shift
    hear: Hear | None
    orders: deque[Order] = msgspec.field(default_factory=deque)
    stopped: bool = False

    def send(self, order: Order) -> None:
        self.orders.append(order)

    def kill(self) -> None:
        # It is only not listened to: one that stands still goes on later, and must do no harm then.
        self.hear = None


class Simulation:
    """An executor that does nothing by itself: :meth:`step` lets one worker do one thing."""

    def __init__(
        self, make: Callable[[], Worker], chance: np.random.Generator, misfortunes: Misfortunes
    ) -> None:
        """No worker yet.

        Args:
            make: Makes a worker, whose tasks commit at once.
            chance: Decides everything.
            misfortunes: What happens to workers.
        """
        self._make = make
        self._chance = chance
        self._misfortunes = misfortunes
        self._lives: list[_Life] = []
        self.told: list[str] = []
        """What happened, in words: two runs of one seed tell the same."""

    def start(self, worker: int, hear: Hear) -> _Life:
        life = _Life(worker, Shift(self._make(), lambda report: self._say(life, report)), hear)
        self._lives.append(life)
        self._say(life, Ready(0))
        return life

    def close(self) -> None:
        for life in self._lives:
            life.shift.close()
        self._lives.clear()

    def forsake(self) -> None:
        """The pool is gone: nobody hears these workers any more. They go on all the same, as over a network."""
        for life in self._lives:
            life.hear = None

    @property
    def empty(self) -> bool:
        """Whether no worker lives."""
        return not self._lives

    def step(self) -> bool:
        """Lets one worker, whichever it is, do one thing; whether it read rows."""
        if not self._lives:
            return False
        life = self._lives[int(self._chance.integers(len(self._lives)))]
        if life.hear is None and self._chance.random() < self._misfortunes.ends:
            self._end(life, "ended at last")
            return False
        if life.stopped:
            if self._chance.random() < self._misfortunes.wakes:
                life.stopped = False
                self.told.append(f"{life.number} goes on")
            return False
        if self._chance.random() < self._misfortunes.dies:
            self._end(life, "died")
            return False
        if self._chance.random() < self._misfortunes.stalls:
            life.stopped = True
            self.told.append(f"{life.number} stands still")
            return False
        rows = 0
        try:
            if life.orders:
                order = life.orders.popleft()
                self.told.append(f"{life.number} hears {order}")
                life.shift.follow(order)
            else:
                rows = life.shift.turn()
                self._say(life, life.shift.beat())
        except Killed as killed:
            self._end(life, f"was killed by {killed}")
            return False
        if life.shift.over:
            self._end(life, "ended")
        return rows > 0

    def _say(self, life: _Life, report: Report) -> None:
        self.told.append(f"{life.number} says {report}")
        if life.hear is not None:
            life.hear(report)

    def _end(self, life: _Life, how: str) -> None:
        life.shift.close()
        self._lives.remove(life)
        self._say(life, Gone(how))
