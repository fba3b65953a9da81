"""What ``mamba-stream run`` shows at a terminal while a job is at work: a line for each stage, drawn over and over."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mamba_stream.errors import MambaStreamError

if TYPE_CHECKING:
    from rich.table import Table

    from mamba_stream.runtime.describing import JobDescription
    from mamba_stream.runtime.job import Job

_EVERY = 0.5
"""Seconds between two pictures."""
_OVER = 3.0
"""Seconds that rates are taken over."""


@dataclass(frozen=True)
class StageRates:
    """What a stage did by the second in the last seconds.

    Attributes:
        rows: Rows read.
        busy: The share of all workers' time that it took.
        backpressured: The share of its tasks' time in which they were held back.
    """

    rows: float
    busy: float
    backpressured: float


class Rates:
    """Rates of stages, from descriptions of a job at several moments.

    Example:
        >>> Rates().of(0).rows
        0.0
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self._seen: deque[tuple[float, JobDescription]] = deque()

    def add(self, at: float, description: JobDescription) -> None:
        """A job at a moment, in seconds."""
        self._seen.append((at, description))
        while len(self._seen) > 2 and self._seen[1][0] <= at - _OVER:
            self._seen.popleft()

    def of(self, stage: int) -> StageRates:
        """The rates of a stage."""
        if len(self._seen) < 2:
            return StageRates(0.0, 0.0, 0.0)
        (begun, before), (ended, now) = self._seen[0], self._seen[-1]
        seconds = ended - begun
        rows, busy, held = (
            new - old for new, old in zip(_sums(now, stage), _sums(before, stage), strict=True)
        )
        tasks = sum(task.stage == stage for task in now.status.tasks)
        # A worker that died takes its last seconds with it, and the rows that it had not committed.
        return StageRates(
            max(0.0, rows / seconds),
            min(1.0, max(0.0, busy / seconds / max(1, len(now.workers)))),
            min(1.0, max(0.0, held / seconds / max(1, tasks))),
        )


def _sums(description: JobDescription, stage: int) -> tuple[float, float, float]:
    tasks = [task for task in description.status.tasks if task.stage == stage]
    return (
        sum(task.rows_in for task in tasks),
        sum(task.busy * task.seconds for task in tasks),
        sum(task.backpressured * task.seconds for task in tasks),
    )


class LiveView:
    """Draws a job at work, again and again."""

    def __init__(self, job: Job) -> None:
        """Takes the terminal; :meth:`close` gives it back.

        Args:
            job: The job.
        """
        from rich.console import Console
        from rich.live import Live

        self._job = job
        self._rates = Rates()
        self._begun = time.monotonic()
        self._next = self._begun
        # What the program prints itself stands above the picture, unless it goes somewhere else.
        self._live = Live(
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def look(self) -> None:
        """Draws it anew, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        # A look that does not succeed says nothing of the job: whether that goes on, it says itself.
        with contextlib.suppress(MambaStreamError):
            description = self._job.describe()
            self._rates.add(now, description)
            self._live.update(self._picture(description, now), refresh=True)

    def close(self) -> None:
        """Takes the picture away."""
        self._live.stop()

    def _picture(self, description: JobDescription, now: float) -> Table:
        from rich import box
        from rich.table import Table

        status = description.status
        workers = len(description.workers)
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title_justify="left",
            title=f"{status.name} {status.state}: {workers} worker{'s' * (workers != 1)}, {status.rows_in:,} rows in, "
            f"{status.rows_out:,} out, {status.late:,} late, {status.commits:,} commits, {now - self._begun:.0f} s",
        )
        table.add_column("stage", overflow="ellipsis", no_wrap=True, ratio=1)
        for name in ("rows/s", "lag", "watermark", "busy", "held back"):
            table.add_column(name, justify="right", no_wrap=True)
        for stage in status.stages:
            rates = self._rates.of(stage.number)
            watermark = "" if stage.watermark is None else f"{stage.watermark:%Y-%m-%d %H:%M:%S}"
            table.add_row(
                f"{stage.number}  {stage.what}",
                f"{rates.rows:,.0f}",
                f"{description.lag.get(stage.number, 0):,}",
                watermark,
                f"{rates.busy:.0%}",
                f"{rates.backpressured:.0%}",
            )
        return table


@contextlib.contextmanager
def watching(job: Job, *, quiet: bool) -> Iterator[LiveView | None]:
    """Shows a job at work, where somebody looks.

    Args:
        job: The job.
        quiet: Show nothing, even at a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    view = LiveView(job)
    try:
        yield view
    finally:
        view.close()
