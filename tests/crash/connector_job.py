"""A job that reads files and writes files; run as a process of its own, and killed at any moment.

    python -m tests.crash.connector_job PLACE KIND

prints ``running`` when it has begun, and ``done`` when all is read and committed. KIND is ``watched``, ``files``,
``rolling`` or ``sequence``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

import mamba_stream as mamba
from mamba_connectors import files

SCHEMA = {"number": pl.Int64, "at": pl.Datetime("us"), "key": pl.String}


def source(place: Path, kind: str) -> mamba.Stream:
    """The rows of the files, and of the topic behind them."""
    watch = kind != "sequence"
    read = files.source(
        place / "in",
        format="csv",
        schema=SCHEMA,
        watch=watch,
        settle="0s",
        every="5ms",
        partitions="files" if kind == "files" else "all",
    )
    stream = mamba.stream(read, time="at", lateness="1m")
    return stream if watch else mamba.sequence(stream, mamba.stream("live", lateness="1m"))


def build(place: Path, kind: str) -> mamba.Pipeline:
    """Plain rows as CSV by key, windows as Parquet, and the same into topics."""
    stream = source(place, kind)
    counted = stream.window(mamba.tumbling("20s"), by="key").agg(rows=pl.len(), total=pl.col("number").sum())
    late = "1m" if kind == "rolling" else "0s"
    return mamba.pipeline(
        "killed",
        stream.to(
            files.sink(place / "rows", format="csv", partition_by="key", roll_after=late, roll_rows=900)
        ),
        counted.to(files.sink(place / "windows", roll_after=late)),
        stream.to("killed.rows"),
        counted.to("killed.windows"),
    )


def main(place: str, kind: str, until: str = "") -> None:
    """Runs the job."""
    running = mamba.start(
        build(Path(place), kind), log=Path(place) / "log", commit="5ms", until=until or None
    )
    print("running", flush=True)
    running.wait()
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
