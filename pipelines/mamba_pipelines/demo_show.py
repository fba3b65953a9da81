"""What ``mamba-stream demo`` shows: progress while it works, a table and its rates at the end, and how to go on."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from datetime import timedelta

import polars as pl
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import mamba_stream as mamba
from mamba_pipelines import demo, demo_killed
from mamba_pipelines.flights import flights

_SHOWN, _FREQUENT = 10, 10
_TICK = 0.05


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
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    with mamba.open(place) as log:
        console.print(f"The log is {log.place}")
        if fresh or kills is not None:
            demo.forget(log)
        code = 0
        if kills is None:
            _work(console, log)
        else:
            code = _killed(
                console, log, kills, random.SystemRandom().randrange(10_000) if seed is None else seed
            )
        _results(console, log)
        return code


def _work(console: Console, log: mamba.Log) -> None:
    rows = flights().height
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        appending = progress.add_task("flights into the log", total=rows)
        begun = time.perf_counter()
        appended = demo.feed(log, lambda done: progress.update(appending, completed=done))
        seconds = time.perf_counter() - begun
        working = progress.add_task("through the pipeline", total=rows)
        job = mamba.start(demo.build(), log=log)
        while job.status.state == "running":
            with suppress(TimeoutError):
                job.wait(_TICK)
            progress.update(working, completed=job.status.rows_in)
        summary = job.wait()
    facts = log[demo.FLIGHTS].describe()
    if appended:
        size = facts.bytes * appended / facts.rows / seconds
        console.print(
            f"appended   {appended:,} flights in {seconds:.2f} s: {appended / seconds:,.0f} rows/s, "
            f"{size / 1e6:,.0f} MB/s, durable batch by batch"
        )
    else:
        console.print("appended   nothing: the flights are all there")
    if summary.rows_in:
        rate = summary.rows_in / summary.seconds
        console.print(
            f"pipeline   {summary.rows_in:,} rows in, {summary.rows_out:,} out in {summary.seconds:.2f} s: "
            f"{rate:,.0f} rows/s"
        )
    else:
        console.print("pipeline   nothing new: it resumed where it was, and added nothing twice")


def _killed(console: Console, log: mamba.Log, kills: int, seed: int) -> int:
    with console.status("measuring one undisturbed run, in a log of its own"):
        whole = demo_killed.measure()
    console.print(
        f"an undisturbed worker process takes {whole:.2f} s; now one is killed {kills} times (--seed {seed})"
    )
    for number, kill in enumerate(demo_killed.killed(log.place, kills, whole, seed), 1):
        how = "had finished before the kill" if kill.too_late else f"SIGKILL after {kill.after:.2f} s of work"
        console.print(
            f"kill {number:<2}    {how}: {kill.flights:,} flights in the log, {kill.results:,} results"
        )
    with console.status("comparing with Polars"):
        differences = demo_killed.differences(log)
    if not differences:
        console.print(
            "equal      flights, hourly delays and late flights are exactly those of an independent computation\n"
            "           by Polars, which judges lateness row by row"
        )
        return 0
    for difference in differences:
        console.print(f"DIFFERENT  {difference}")
    return 1


def _results(console: Console, log: mamba.Log) -> None:
    delays = log[demo.DELAYS].scan()
    total = delays.select(pl.len()).collect().item()
    worst = (
        delays.filter(pl.col("departures") >= _FREQUENT)
        .sort("mean_delay", "window_start", descending=[True, False])
        .head(_SHOWN)
        .collect()
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("hour (UTC)", "airport", "airline"):
        table.add_column(name, no_wrap=True)
    for name in ("departures", "mean delay", "95% within"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in worst.iter_rows(named=True):
        table.add_row(
            f"{row['window_start']:%d %b %H:%M}",
            row["origin"],
            row["airline"],
            str(row["departures"]),
            f"{row['mean_delay']:.1f} min",
            f"{row['p95_delay']:.0f} min",
        )
    console.print(f"\n{total:,} hours by airport and airline. The worst of {_FREQUENT} departures and more:")
    console.print(table)
    late, lateness = lateness_for(log, 0.999)
    console.print(
        f"late       {late:,} flights came after their hour was closed (lateness {demo.LATENESS}); they are in topic "
        f"{demo.LATE!r}.\n           A lateness of {lateness} would have kept 99.9% of all"
    )
    console.print(
        "\nThe result is a topic. Open it:\n\n"
        "    import mamba_stream as mamba\n"
        f"    log = mamba.open({log.place!r})\n"
        f"    print(log[{demo.DELAYS!r}].scan().collect())\n"
    )


def lateness_for(log: mamba.Log, share: float) -> tuple[int, str]:
    """How many rows were late, and the lateness that would have kept this share of all rows, in whole minutes.

    The late rows say themselves how much more each had needed.
    """
    rows = flights().filter(pl.col("dep_delay").is_not_null()).height
    needed = log[demo.LATE].scan().select(pl.col("late_by").sort(descending=True)).collect().to_series()
    may_be_lost = int(rows * (1 - share))
    more = needed[may_be_lost] if may_be_lost < len(needed) else timedelta(0)
    minutes = -(-(timedelta(hours=3) + more) // timedelta(minutes=1))
    return len(needed), f"{minutes // 60}h{minutes % 60}m" if minutes % 60 else f"{minutes // 60}h"
