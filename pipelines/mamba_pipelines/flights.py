"""The flights that left New York's airports in 2013: real rows, truly out of order, that ship with the wheel.

``data/README.md`` says where they come from.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import polars as pl


@cache
def flights() -> pl.DataFrame:
    """The 336,776 scheduled departures, in the order in which they left.

    Returns:
        ``scheduled_at`` and ``departed_at`` in UTC, ``carrier``, ``flight``, ``tailnum``, ``origin``,
        ``dest``, ``dep_delay`` and ``arr_delay`` and ``air_time`` in minutes, ``distance`` in miles. What a
        cancelled flight does not have is null.

    Example:
        >>> flights().select(pl.len(), pl.col("scheduled_at").min()).row(0)
        (336776, datetime.datetime(2013, 1, 1, 10, 15, tzinfo=zoneinfo.ZoneInfo(key='UTC')))
    """
    return pl.read_parquet((files("mamba_pipelines") / "data" / "flights-2013.parquet").read_bytes())


@cache
def weather() -> pl.DataFrame:
    """The 26,115 hourly observations at the three airports, in the order of their time.

    Returns:
        ``observed_at`` in UTC, ``origin``, ``temp`` and ``dewp`` in Fahrenheit, ``humid`` in percent, ``wind_dir`` in
        degrees, ``wind_speed`` and ``wind_gust`` in miles an hour, ``precip`` in inches, ``pressure`` in millibars, and
        ``visib``, how far one sees, in miles. What was not measured is null.

    Example:
        >>> weather().select(pl.len(), pl.col("visib").max()).row(0)
        (26115, 10.0)
    """
    return pl.read_parquet((files("mamba_pipelines") / "data" / "weather-2013.parquet").read_bytes())


def airlines() -> pl.DataFrame:
    """The names of the 16 carriers: ``carrier`` and ``airline``.

    Example:
        >>> airlines().row(by_predicate=pl.col("carrier") == "UA")
        ('UA', 'United Air Lines Inc.')
    """
    names = pl.read_csv((files("mamba_pipelines") / "data" / "airlines.csv").read_bytes())
    return names.rename({"name": "airline"})
