"""A pool over worker processes with nothing around it: for tests, and for the programs that they start."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.workers.beginning import begin
from mamba_stream.runtime.workers.executor import Hear
from mamba_stream.runtime.workers.messages import Report
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.runtime.workers.processes import ProcessExecutor

PATIENCE = 60.0
_LOOK = 0.01


class Listening(ProcessExecutor):
    """Notes what workers say; and can be made unable to end them, as if they were on another machine."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.said: list[tuple[int, Report]] = []
        self.spares = False

    def start(self, worker: int, hear: Hear) -> Any:
        def both(report: Report) -> None:
            self.said.append((worker, report))
            hear(report)

        return _Hand(self, super().start(worker, both))

    def heard(self, kind: type) -> list[Any]:
        return [report for _, report in list(self.said) if isinstance(report, kind)]


class _Hand:
    def __init__(self, executor: Listening, hand: Any) -> None:
        self._executor = executor
        self.send = hand.send
        self._kill = hand.kill

    def kill(self) -> None:
        if not self._executor.spares:
            self._kill()


class Driven:
    """A job over worker processes."""

    def __init__(
        self,
        pipeline: mamba.Pipeline,
        log: mamba.Log,
        *,
        workers: int = 2,
        partitions: int = 4,
        until: Any = None,
        rows: int = 65_536,
        commit: float = 0.1,
        lease: float = 30.0,
        restarts: int = 8,
        environment: dict[str, str] | None = None,
    ) -> None:
        options = RunOptions(
            until=until, anew=False, memory=1 << 30, commit=commit, skip_gaps=False, rows=rows
        )
        begun = begin(pipeline, log, options, partitions, SystemClock())
        self.executor = Listening(
            pipeline,
            log,
            options,
            partitions=partitions,
            run=begun.run,
            workers=workers,
            schemas=begun.prepared.schemas,
            environment=environment,
        )
        settings = PoolSettings(workers, lease=lease, restarts=restarts)
        self.pool = Pool(begun.layout, self.executor, settings, SystemClock())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.cancel()

    def until(self, condition: Callable[[], Any], what: str = "it") -> Any:
        """Lets the pool work until a condition holds; what it gave."""
        clock, pause = SystemClock(), threading.Event()
        end = clock.monotonic() + PATIENCE
        while not (found := condition()):
            assert clock.monotonic() < end, f"{what} never came: {self.executor.said[-5:]}"
            self.pool.turn()
            pause.wait(_LOOK)
        return found

    def finish(self) -> None:
        """Lets the job come to its end."""
        self.until(lambda: self.pool.over or self.pool.error, "the end")
        if self.pool.error is not None:
            raise self.pool.error


def drive(pipeline: mamba.Pipeline, log: mamba.Log, **settings: Any) -> None:
    """Runs a job to its end."""
    with Driven(pipeline, log, **settings) as job:
        job.finish()
