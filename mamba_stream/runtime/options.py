"""How a pipeline is to be run."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Any, Literal

import msgspec

from mamba_stream.core.durability import Durability, check_durability
from mamba_stream.core.durations import duration_us
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput
from mamba_stream.runtime.budget import MOST_ROWS
from mamba_stream.runtime.memory import memory_limit
from mamba_stream.runtime.processors import processors

MOST_WORKERS = 256
"""There are no more tasks of a stage than key groups."""
STATES = ("resume", "new", "upgrade")
"""What ``state=`` may be beside the name of a savepoint, which therefore cannot be called so."""

_WORKERS = re.compile(r"(?:exactly:(\d+)|auto(?::(\d+)-(\d+))?)", re.ASCII)


class RunOptions(msgspec.Struct, frozen=True):
    """What ``mamba.run`` was told, checked.

    Attributes:
        until: ``None``, ``"stopped"``, ``"now"`` or a moment.
        anew: Start over instead of resuming.
        memory: In bytes.
        commit: Seconds between commits.
        latency: How long a row may be on its way, in seconds; ``None`` leaves it to what is efficient.
        workers: How many workers run the job, at most.
        least: How many it begins with, and has at least, where it is to be found out how many there have to be.
        exactly: Whether it is to have so many, though one might do it faster.
        durability: What has to be true of a commit before the run goes by it. What somebody outside the log is told of
            is on the disk before, in any case, and so is the last commit of a run.
        skip_gaps: Go on behind rows that were trimmed away before they were read.
        rows: How many rows to read at once at most.
        savepoint: The savepoint to go back to, instead of resuming.
        upgrade: Keep the state of the steps that it still fits, and have others begin without any.
    """

    until: Literal["stopped", "now"] | datetime | date | None
    anew: bool
    memory: int
    commit: float
    skip_gaps: bool
    rows: int = MOST_ROWS
    savepoint: str | None = None
    upgrade: bool = False
    latency: float | None = None
    workers: int = 1
    least: int | None = None
    exactly: bool = False
    durability: Durability = "interval"


def run_options(
    *,
    until: Any = None,
    state: Any = "resume",
    workers: int | str = 1,
    memory: str | float | None = None,
    commit: str | timedelta = "1s",
    on_gap: str = "fail",
    latency: str | timedelta | None = None,
    durability: Any = "interval",
) -> RunOptions:
    """The options, if they can be.

    Raises:
        InvalidInput: One cannot be; the message says what can.
    """
    if not (until is None or until in ("stopped", "now") or isinstance(until, datetime | date)):
        raise InvalidInput(f"until={until!r}: choose 'stopped', 'now' or a datetime, or leave it out")
    if not (isinstance(state, str) and state):
        raise InvalidInput(f"state={state!r}: choose 'resume', 'new', 'upgrade' or the name of a savepoint")
    least, most, exactly = _workers(workers)
    if on_gap not in ("fail", "earliest"):
        raise InvalidInput(f"on_gap={on_gap!r}: choose 'fail' or 'earliest'")
    return RunOptions(
        until=until,
        anew=state == "new",
        memory=memory_limit(memory),
        commit=duration_us(commit, what="commit") / 1_000_000,
        skip_gaps=on_gap == "earliest",
        savepoint=None if state in STATES else state,
        upgrade=state == "upgrade",
        workers=most,
        least=least,
        exactly=exactly,
        latency=None if latency is None else duration_us(latency, what="latency", zero=False) / 1_000_000,
        durability=check_durability(durability),
    )


def _workers(asked: Any) -> tuple[int | None, int, bool]:
    """The least number of workers, where it is to be found out, the most, and whether that is what it has to be.

    Example:
        >>> _workers(4), _workers("auto:2-8"), _workers("exactly:4")
        ((None, 4, False), (2, 8, False), (None, 4, True))
    """
    if is_whole(asked, 1, MOST_WORKERS):
        return None, int(asked), False
    found = _WORKERS.fullmatch(asked) if isinstance(asked, str) else None
    if found is not None:
        exactly, least, most = (None if digits is None else int(digits) for digits in found.groups())
        if exactly is not None and 1 <= exactly <= MOST_WORKERS:
            return None, exactly, True
        if exactly is None:
            least, most = (1, processors()) if least is None or most is None else (least, most)
            if 1 <= least <= most <= MOST_WORKERS:
                return least, most, False
    raise InvalidInput(
        f"workers={asked!r}: give a number from 1 to {MOST_WORKERS} (1 runs the job in this process, more in "
        "processes of their own where that is faster), 'auto' or 'auto:1-8' for as many as it takes, or 'exactly:2'"
    )
