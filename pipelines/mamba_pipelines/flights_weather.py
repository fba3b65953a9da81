"""Every departure with the weather as it was, and what poor visibility does to delays.

Flights and weather are two feeds that know nothing of each other. A flight meets the last observation at its airport
before it left, if that is not older than two hours: the same one, however the feeds come in. :func:`feed` appends both
to topics, :func:`build` makes the pipeline over them, and :func:`expected` computes the same without the engine.
"""

from __future__ import annotations

import polars as pl

import mamba_stream as mamba
from mamba_pipelines import demo
from mamba_pipelines.flights import flights, weather

JOB = "flights-weather"
FLIGHTS, WEATHER = demo.FLIGHTS, "weather"
DEPARTURES, DELAYS, CANCELLED = "departures_in_weather", "delays_by_visibility", "cancelled_flights"
TOLERANCE = "2h"

_BATCH = 2_048
_MILES = 3


def build() -> mamba.Pipeline:
    """Departures with their weather, a table of delays, and the flights that never left."""
    left = mamba.stream(FLIGHTS, time="departed_at")
    observed = mamba.stream(WEATHER)
    departures = left.join_asof(observed, by="origin", tolerance=TOLERANCE, coalesce=False)
    delays = departures.group_by("origin", _poor()).agg(**_delays())
    return mamba.pipeline(
        JOB,
        departures.to(DEPARTURES),
        delays.to(DELAYS, key=["origin", "poor"]),
        # What has no time of departure has no place in the stream's order, and is rejected.
        left.rejected.to(CANCELLED),
    )


def feed(log: mamba.Log) -> None:
    """Append flights and weather to their topics and end these. However often it is repeated, each row lands once."""
    demo.feed(log, lambda rows: None)
    topic = log.create_topic(WEATHER, weather(), time="observed_at", exist_ok=True)
    if not topic.ended:
        for number, batch in enumerate(weather().iter_slices(_BATCH)):
            topic.append(batch, producer=JOB, sequence=number)
        topic.end()


def expected() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """What must come of it, computed by Polars over both files.

    Returns:
        The departures, the table of delays, and the cancelled flights.
    """
    left = flights().filter(pl.col("departed_at").is_not_null())
    departures = left.sort("departed_at", maintain_order=True).join_asof(
        weather().sort("observed_at"),
        left_on="departed_at",
        right_on="observed_at",
        by="origin",
        tolerance=TOLERANCE,
        coalesce=False,
        check_sortedness=False,  # of grouped frames nobody can tell
    )
    delays = departures.group_by("origin", _poor()).agg(**_delays())
    return departures, delays, flights().filter(pl.col("departed_at").is_null())


def _poor() -> pl.Expr:
    return (pl.col("visib") < _MILES).alias("poor")


def _delays() -> dict[str, pl.Expr]:
    return {"departures": pl.len(), "mean_delay": pl.col("dep_delay").mean()}
