"""The demo: how late did flights leave, by hour, airport and airline? From the log, into the log.

:func:`feed` appends the flights to a topic, :func:`build` makes the pipeline over it, and :func:`expected`
computes the same result without the engine, to compare with. ``mamba-stream demo`` shows them at work.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

import mamba_stream as mamba
from mamba_pipelines.flights import airlines, flights

JOB = "demo"
FLIGHTS, DELAYS, LATE = "flights", "hourly_delays", "late_flights"
LATENESS = "3h"
BATCH = 2_048

_KEYS = ("origin", "carrier")


def build() -> mamba.Pipeline:
    """Hourly departures, mean delay and 95th percentile by airport and carrier; late rows in a topic too."""
    hourly = (
        mamba.stream(FLIGHTS, time="scheduled_at", lateness=LATENESS)
        .filter(pl.col("dep_delay").is_not_null())
        .window(mamba.tumbling("1h"), by=list(_KEYS))
        .agg(**_aggregates())
    )
    named = hourly.join(airlines(), on="carrier", how="left")
    return mamba.pipeline(JOB, named.to(DELAYS), hourly.late.to(LATE))


def feed(log: mamba.Log, progress: Callable[[int], None]) -> int:
    """Append the flights to their topic and end it. However often it is repeated, each lands once.

    Args:
        log: Where to.
        progress: Told how many rows are in the topic, after every batch.

    Returns:
        How many rows this call appended.
    """
    rows = flights()
    topic = _topic(log)
    before = topic.offsets()[0][1]
    if not topic.ended:
        for number, batch in enumerate(rows.iter_slices(BATCH)):
            # The log itself refuses a number that it has of this producer; most need not even be offered.
            if (number + 1) * BATCH > before:
                topic.append(batch, producer=JOB, sequence=number)
            progress(min((number + 1) * BATCH, rows.height))
        topic.end()
    progress(rows.height)
    return topic.offsets()[0][1] - before


def expected() -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the two output topics must hold, computed by Polars over the whole file, row by row.

    A row is late when its window had ended at the watermark before it: the greatest ``scheduled_at`` of all
    rows before it, less the lateness.

    Returns:
        The hourly delays and the late flights.
    """
    judged = (
        flights()
        .with_columns(
            window_start=pl.col("scheduled_at").dt.truncate("1h"),
            watermark=pl.col("scheduled_at").cum_max().shift(1).dt.offset_by(f"-{LATENESS}"),
        )
        .with_columns(window_end=pl.col("window_start").dt.offset_by("1h"))
        .filter(pl.col("dep_delay").is_not_null())
        .with_columns(late=(pl.col("window_end") <= pl.col("watermark")).fill_null(value=False))
    )
    delays = (
        judged.filter(~pl.col("late"))
        .group_by("window_start", "window_end", *_KEYS)
        .agg(**_aggregates())
        .join(airlines(), on="carrier", how="left")
    )
    return delays, judged.filter(pl.col("late")).drop("window_start", "window_end", "watermark", "late")


def _topic(log: mamba.Log) -> mamba.Topic:
    return log.create_topic(FLIGHTS, flights(), time="scheduled_at", exist_ok=True)


def _aggregates() -> dict[str, pl.Expr]:
    return {
        "departures": pl.len(),
        "mean_delay": pl.col("dep_delay").mean(),
        "p95_delay": pl.col("dep_delay").quantile(0.95),
    }


def work(log: mamba.Log) -> None:
    """All that the demo does to a log, from wherever it was left: what the killed worker processes run.

    The pipeline follows the topic while it is fed, and commits more often than a job does unless told otherwise,
    so that a kill at any moment meets both at work.
    """
    _topic(log)
    job = mamba.start(build(), log=log, commit="20ms")
    feed(log, lambda rows: None)
    job.wait()


def forget(log: mamba.Log) -> None:
    """Start over: delete the flights, and have the job forget what it did and empty the topics that it made.

    Raises:
        mamba.AlreadyExists: A topic of such a name is not the demo's.
    """
    if FLIGHTS in log and log[FLIGHTS].polars_schema != flights().schema:
        raise mamba.AlreadyExists(
            f"topic {FLIGHTS!r} in {log.place} is not the demo's: choose another place with --log"
        )
    if FLIGHTS in log:
        log.delete_topic(FLIGHTS)
    _topic(log)
    mamba.run(build(), log=log, until="now", state="new")


def show(place: str | None, *, fresh: bool, kills: int | None, seed: int | None) -> int:
    """What ``mamba-stream demo`` does; the exit code."""
    from mamba_pipelines import demo_show

    return demo_show.show(place, fresh=fresh, kills=kills, seed=seed)
