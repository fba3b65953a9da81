"""``mamba-stream bench pipeline``: a filter and a window over a topic, against one Polars group_by in memory."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

import mamba_stream as mamba
from mamba_stream.cli.bench.measuring import Figure, in_turns, middle, seconds, show

_BATCH = 1 << 17
_KEYS = 10_000
_WINDOW = timedelta(minutes=1)
_ROWS_A_WINDOW = 1_000_000


def main(directory: Path | None, rows: int = 10_000_000) -> bool:
    """Runs everything in a directory of its own, removed afterwards; whether all targets are met."""
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-bench-", dir=directory))
    try:
        return show(f"A pipeline over {rows:,} rows, on {where.parent}", _figures(where, rows))
    finally:
        shutil.rmtree(where)


def _figures(where: Path, rows: int) -> Iterator[Figure]:
    frame = _rows(rows)
    log = mamba.open(where / "log")
    topic = log.create_topic("rows", frame, time="time")
    for start in range(0, rows, _BATCH):
        topic.append(frame[start : start + _BATCH])
    topic.end()
    counter = iter(range(1_000))

    def ours() -> float:
        name = f"totals-{next(counter)}"
        totals = (
            mamba.stream("rows", lateness="1s")
            .filter(pl.col("price") > 0.1)
            .window(mamba.tumbling(_WINDOW), by="key")
            .agg(
                rows=pl.len(),
                total=pl.col("price").sum(),
                mean=pl.col("amount").mean(),
                most=pl.col("amount").max(),
            )
        )
        return seconds(lambda: mamba.run(mamba.pipeline(name, totals.to(name)), log=log))

    def peer() -> float:
        return seconds(
            lambda: (
                frame.lazy()
                .filter(pl.col("price") > 0.1)
                .group_by("key", pl.col("time").dt.truncate(_WINDOW))
                .agg(
                    rows=pl.len(),
                    total=pl.col("price").sum(),
                    mean=pl.col("amount").mean(),
                    most=pl.col("amount").max(),
                )
                .collect()
            )
        )

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pair = in_turns(peer, ours, 5)
    yield Figure(
        f"filter and tumbling window by {_KEYS:,} keys, offsets, state and results committed",
        f"{rows / middle(pair.limit) / 1e6:.1f} million rows/s",
        f"one Polars group_by in memory {rows / middle(pair.ours) / 1e6:.1f} million rows/s",
        pair.ratio,
        0.4,
        spread=pair.spread,
    )
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    size = frame.estimated_size() / 2**20
    yield Figure(
        "peak memory that both together added, as a share of the rows",
        f"{grown:,.0f} MB",
        f"the rows are {size:,.0f} MB",
        grown / size,
        2.0,
        at_least=False,
    )
    log.close()


def _rows(rows: int) -> pl.DataFrame:
    """Rows a second of event time apart in the hundred-thousands, a little out of order."""
    random = np.random.default_rng(1)
    step = int(_WINDOW / timedelta(microseconds=1)) / _ROWS_A_WINDOW
    time = (np.arange(rows) * step).astype(np.int64) - random.integers(0, 500_000, rows)
    return pl.DataFrame(
        {
            "time": pl.Series(time).cast(pl.Datetime("us")) + (datetime(2024, 1, 1) - datetime(1970, 1, 1)),
            "key": random.integers(0, _KEYS, rows),
            "price": random.random(rows),
            "amount": random.random(rows),
        }
    )
