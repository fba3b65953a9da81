"""What ``mamba-stream demo`` shows: progress while it works, a table and its rates at the end, and how to go on."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import mamba_stream as mamba
from mamba_pipelines import demo, demo_killed
from mamba_pipelines.flights import flights

_SHOWN = 10


def show(place: str | None, *, fresh: bool, kills: int | None, seed: int | None) -> int:
    """Run the demo on a terminal.

    Args:
        place: Where the log is, as every ``log=`` takes it.
        fresh: Start over.
        kills: Start over, and kill the worker so many times.
        seed: Makes the moments of killing the same again.

    Returns:
        The exit code: 1 where the result is not what it must be.
    """
    console = Console(highlight=False, soft_wrap=True)
    with mamba.open(place) as log:
        console.print(f"The log is {log.path}")
        if fresh or kills is not None:
            demo.forget(log)
        if kills is not None:
            return _killed(console, log, kills, seed)
        _work(console, log)
        _results(console, log)
        return 0
